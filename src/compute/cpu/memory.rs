use std::sync::Arc;

use crate::compute::ExecuteError;
use crate::compute::recording::{CacheId, CacheSpec, CacheStream, MatrixId, Recording, TensorId, VectorId, View};
use crate::weights::Matrix;

/// Everything that the CPU twins read and write.
pub(crate) struct CpuMemory {
    tensors: Vec<Vec<f32>>,
    vectors: Vec<Arc<Vec<f32>>>,
    matrices: Vec<Matrix>,
    caches: Vec<CpuCache>,
    rope: Vec<f32>,
}

/// One cache: the rows of every position, stream by stream.
#[derive(Default)]
pub(crate) struct CpuCache {
    /// Words, so that bytes of any format lie as their elements need it.
    streams: Vec<Vec<u32>>,
}

impl CpuCache {
    fn new(spec: &CacheSpec, positions: usize) -> Option<CpuCache> {
        let rows = |stream: &CacheStream| zeros((stream.row_bytes() / 4).checked_mul(positions)?);
        Some(CpuCache { streams: spec.streams.iter().map(rows).collect::<Option<_>>()? })
    }

    /// A stream in its format, row after row.
    pub(crate) fn words(&self, stream: usize) -> &[u32] {
        &self.streams[stream]
    }

    /// The same, to write.
    pub(crate) fn words_mut(&mut self, stream: usize) -> &mut [u32] {
        &mut self.streams[stream]
    }

    /// A stream as bytes.
    pub(super) fn bytes(&self, stream: usize) -> &[u8] {
        bytemuck::cast_slice(&self.streams[stream])
    }

    /// The same, to write.
    pub(super) fn bytes_mut(&mut self, stream: usize) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.streams[stream])
    }
}

impl CpuMemory {
    /// Allocates the tensors of a recording and caches of `context` positions, all zero.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub(crate) fn new(recording: &Recording, context: usize) -> Result<Self, ExecuteError> {
        let tensors = (0..recording.tensors.len()).map(|i| zeros(recording.elements(TensorId(i)))).collect();
        let tensors: Option<Vec<Vec<f32>>> = tensors;
        let caches: Option<Vec<CpuCache>> = recording.caches.iter().map(|spec| CpuCache::new(spec, context)).collect();
        Ok(CpuMemory {
            tensors: tensors.ok_or(ExecuteError::NoMemory("activations"))?,
            vectors: recording.vectors.iter().map(|(_, v)| v.clone()).collect(),
            matrices: recording.matrices.clone(),
            caches: caches.ok_or(ExecuteError::NoMemory("keys and values of the context"))?,
            rope: Vec::new(),
        })
    }

    /// Elements of a tensor, row after row. U32 tensors hold their bits.
    pub(crate) fn tensor(&self, id: TensorId) -> &[f32] {
        &self.tensors[id.0]
    }

    /// Takes a tensor out to write it while others are read; [`CpuMemory::put_back`] returns it.
    pub(crate) fn take(&mut self, id: TensorId) -> Vec<f32> {
        std::mem::take(&mut self.tensors[id.0])
    }

    /// Returns what [`CpuMemory::take`] gave.
    pub(crate) fn put_back(&mut self, id: TensorId, values: Vec<f32>) {
        self.tensors[id.0] = values;
    }

    /// A vector of weights.
    pub(crate) fn vector(&self, id: VectorId) -> &[f32] {
        &self.vectors[id.0]
    }

    /// A matrix of weights.
    pub(crate) fn matrix(&self, id: MatrixId) -> &Matrix {
        &self.matrices[id.0]
    }

    /// A cache.
    pub(crate) fn cache(&self, id: CacheId) -> &CpuCache {
        &self.caches[id.0]
    }

    /// Takes a cache out to write it; [`CpuMemory::put_back_cache`] returns it.
    pub(crate) fn take_cache(&mut self, id: CacheId) -> CpuCache {
        std::mem::take(&mut self.caches[id.0])
    }

    /// Returns what [`CpuMemory::take_cache`] gave.
    pub(crate) fn put_back_cache(&mut self, id: CacheId, cache: CpuCache) {
        self.caches[id.0] = cache;
    }

    /// Cosines, then sines, of a token of the step.
    pub(crate) fn rope(&self, token: usize, rotary_dim: usize) -> &[f32] {
        &self.rope[token * rotary_dim..][..rotary_dim]
    }

    pub(crate) fn set_rope(&mut self, rope: &[f32]) {
        self.rope.clear();
        self.rope.extend_from_slice(rope);
    }

    pub(crate) fn write(&mut self, id: TensorId, values: &[f32]) {
        self.tensors[id.0][..values.len()].copy_from_slice(values);
    }
}

/// Zeros that take memory when they are first written; `None` where `vec!` would end the program.
fn zeros<T: Copy + Default>(count: usize) -> Option<Vec<T>> {
    // asked for, given back, and asked for again: only `vec!` gets zeros from the system that nobody has to write
    let mut room = Vec::<T>::new();
    let asked = room.try_reserve_exact(count);
    // a compiler may take it that memory which nobody looks at is there
    std::hint::black_box(&room);
    drop(room);
    match asked {
        Ok(()) => Some(vec![T::default(); count]),
        Err(_) => {
            flashflood_backends::forget_refused();
            None
        }
    }
}

/// Row `r` of a view of a tensor.
pub(crate) fn row(tensor: &[f32], view: View, r: usize) -> &[f32] {
    &tensor[r * view.stride + view.offset..][..view.width]
}

/// The columns of a view in one row of its tensor.
pub(crate) fn row_mut(row: &mut [f32], view: View) -> &mut [f32] {
    &mut row[view.offset..][..view.width]
}

#[cfg(test)]
mod tests {
    use super::*;
    use flashflood_formats::CacheFormat;

    #[test]
    fn more_than_there_is_is_refused() {
        for count in [1 << 46, usize::MAX / 4, usize::MAX] {
            assert!(zeros::<f32>(count).is_none(), "{count}");
        }
        let mut recording = Recording::default();
        let keys = CacheStream { name: "keys", width: 64, format: CacheFormat::F32 };
        recording.caches.push(CacheSpec { label: "kv".to_owned(), streams: vec![keys] });
        for context in [1 << 46, usize::MAX] {
            let refused = CpuMemory::new(&recording, context).map(drop);
            assert!(matches!(refused, Err(ExecuteError::NoMemory(_))), "{refused:?}");
        }
        assert!(CpuMemory::new(&recording, 8).is_ok());
    }
}
