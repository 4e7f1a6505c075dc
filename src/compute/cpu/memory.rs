use std::sync::Arc;

use crate::compute::recording::{KvId, MatrixId, Recording, TensorId, VectorId, View};
use crate::model::Matrix;

/// Everything that the CPU twins read and write.
pub struct CpuMemory {
    tensors: Vec<Vec<f32>>,
    vectors: Vec<Arc<Vec<f32>>>,
    matrices: Vec<Matrix>,
    kv: Vec<CpuKv>,
    rope: Vec<f32>,
}

/// One KV cache, `[positions, width]` each.
#[derive(Default)]
pub struct CpuKv {
    /// Normed and rotated.
    pub keys: Vec<f32>,
    /// As projected.
    pub values: Vec<f32>,
}

impl CpuMemory {
    /// Allocates the tensors of a recording and caches of `context` positions, all zero.
    pub(crate) fn new(recording: &Recording, context: usize) -> Self {
        let zeros = |n: usize| vec![0.0f32; n];
        CpuMemory {
            tensors: (0..recording.tensors.len()).map(|i| zeros(recording.elements(TensorId(i)))).collect(),
            vectors: recording.vectors.iter().map(|(_, v)| v.clone()).collect(),
            matrices: recording.matrices.clone(),
            kv: recording
                .kv
                .iter()
                .map(|kv| CpuKv { keys: zeros(kv.width * context), values: zeros(kv.width * context) })
                .collect(),
            rope: Vec::new(),
        }
    }

    /// Elements of a tensor, row after row. U32 tensors hold their bits.
    pub fn tensor(&self, id: TensorId) -> &[f32] {
        &self.tensors[id.0]
    }

    /// Takes a tensor out to write it while others are read; [`CpuMemory::put_back`] returns it.
    pub fn take(&mut self, id: TensorId) -> Vec<f32> {
        std::mem::take(&mut self.tensors[id.0])
    }

    /// Returns what [`CpuMemory::take`] gave.
    pub fn put_back(&mut self, id: TensorId, values: Vec<f32>) {
        self.tensors[id.0] = values;
    }

    /// A vector of weights.
    pub fn vector(&self, id: VectorId) -> &[f32] {
        &self.vectors[id.0]
    }

    /// A matrix of weights.
    pub fn matrix(&self, id: MatrixId) -> &Matrix {
        &self.matrices[id.0]
    }

    /// A KV cache.
    pub fn kv(&self, id: KvId) -> &CpuKv {
        &self.kv[id.0]
    }

    /// Takes a KV cache out to write it; [`CpuMemory::put_back_kv`] returns it.
    pub fn take_kv(&mut self, id: KvId) -> CpuKv {
        std::mem::take(&mut self.kv[id.0])
    }

    /// Returns what [`CpuMemory::take_kv`] gave.
    pub fn put_back_kv(&mut self, id: KvId, kv: CpuKv) {
        self.kv[id.0] = kv;
    }

    /// Cosines, then sines, of a token of the step.
    pub fn rope(&self, token: usize, rotary_dim: usize) -> &[f32] {
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

/// Row `r` of a view of a tensor.
pub(crate) fn row(tensor: &[f32], view: View, r: usize) -> &[f32] {
    &tensor[r * view.stride + view.offset..][..view.width]
}

/// The columns of a view in one row of its tensor.
pub(crate) fn row_mut(row: &mut [f32], view: View) -> &mut [f32] {
    &mut row[view.offset..][..view.width]
}
