//! What a session keeps from step to step, to the host and back: for checkpoints and session files.

use std::ops::Range;

use super::executor::GpuExecutor;
use super::readback::{Readback, wait};
use crate::compute::executor::{ExecuteError, check_kv_rows, check_state};
use crate::compute::recording::{KvId, TensorId, TensorSpec};

/// Most bytes that are copied in one submission: the buffer that the host maps stays allocated. The state of the largest
/// model, 189 MB, takes three.
const PIECE: u64 = 64 << 20;

/// A range of a buffer to read, in bytes.
struct Source {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
}

impl GpuExecutor {
    /// Room for the copies of the state that the next step makes.
    pub(super) fn make_room_for_marks(&mut self) {
        if self.marks.is_empty() {
            // nor is anything added up for every token
            return self.marked.clear();
        }
        let bytes = self.place_of_state(self.recording.state.len());
        self.marked = self.marks.iter().map(|_| Readback::new(&self.gpu.device, bytes)).collect();
    }

    /// Where the state tensor of this index begins in a copy of all.
    fn place_of_state(&self, index: usize) -> u64 {
        self.recording.state[..index].iter().map(|tensor| self.recording.elements(*tensor) as u64 * 4).sum()
    }

    /// Encodes the copy of some state tensors for a mark.
    pub(super) fn copy_state(&mut self, mark: usize, tensors: &[TensorId]) {
        for tensor in tensors {
            let at = self.place_of_state(self.recording.state_index(*tensor));
            let bytes = self.recording.elements(*tensor) as u64 * 4;
            let encoder = self.encoding.encoder(&self.gpu.device);
            self.marked[mark].copy(encoder, self.resident.tensor(*tensor), 0, at, bytes);
        }
    }

    /// The copies that the last step made, and their memory back.
    pub(super) fn marked_from_device(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        let marked = std::mem::take(&mut self.marked);
        // most steps have none, and nothing is submitted for them
        if marked.is_empty() {
            return Ok(Vec::new());
        }
        let submission = self.encoding.submit(&self.gpu.queue);
        let all = self.place_of_state(self.recording.state.len());
        let recording = &self.recording;
        let split = |mut bytes: &[u8]| -> Vec<Vec<f32>> {
            let state = recording.state.iter().map(|tensor| {
                let (now, rest) = bytes.split_at(recording.elements(*tensor) * 4);
                bytes = rest;
                without_padding(recording.spec(*tensor), bytemuck::pod_collect_to_vec(now))
            });
            state.collect()
        };
        let copies = marked.iter().map(|copy| copy.read(&submission.index, all, split)).collect();
        self.check()?;
        copies
    }

    /// Several state tensors, rows of `width` elements each.
    pub(super) fn states_from_device(&mut self, tensors: &[TensorId]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let whole = |id: &TensorId| {
            let bytes = self.recording.elements(*id) as u64 * 4;
            Source { buffer: self.resident.tensor(*id).clone(), offset: 0, bytes }
        };
        let sources: Vec<Source> = tensors.iter().map(whole).collect();
        let mut states = self.read_ranges(&sources)?;
        for (state, tensor) in states.iter_mut().zip(tensors) {
            *state = without_padding(self.recording.spec(*tensor), std::mem::take(state));
        }
        Ok(states)
    }

    /// Overwrites a state tensor; the device has it before the next step.
    pub(super) fn state_to_device(&mut self, tensor: TensorId, values: &[f32]) -> Result<(), ExecuteError> {
        let spec = self.recording.spec(tensor);
        let (stride, width) = (spec.stride, spec.width);
        check_state(&spec.label, self.recording.elements(tensor) / stride * width, values.len())?;
        if stride == width {
            self.write(tensor, values);
        } else {
            let mut rows = vec![0.0; self.recording.elements(tensor)];
            for (row, values) in rows.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
                row[..width].copy_from_slice(values);
            }
            self.write(tensor, &rows);
        }
        self.flush()
    }

    /// Keys and values of some positions, `[positions, width]` each.
    pub(super) fn kv_from_device(
        &mut self,
        kv: KvId,
        positions: Range<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>), ExecuteError> {
        check_kv_rows(self.context, &positions)?;
        let row = self.recording.kv[kv.0].width as u64 * 4;
        let (keys, values, rows) = self.resident.kv(kv);
        let mut sources = Vec::new();
        for windows in [keys, values] {
            for (window, part) in in_windows(rows, positions.clone()) {
                let buffer = windows[window].clone();
                sources.push(Source { buffer, offset: part.start as u64 * row, bytes: part.len() as u64 * row });
            }
        }
        let mut keys = self.read_ranges(&sources)?;
        let values = keys.split_off(keys.len() / 2);
        Ok((keys.concat(), values.concat()))
    }

    /// Overwrites keys and values from position `first` on, `[positions, width]` each.
    pub(super) fn kv_to_device(
        &mut self,
        kv: KvId,
        first: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), ExecuteError> {
        let spec = &self.recording.kv[kv.0];
        let (width, positions) = (spec.width, keys.len() / spec.width);
        check_state(&spec.label, positions * width, keys.len())?;
        check_state(&spec.label, keys.len(), values.len())?;
        check_kv_rows(self.context, &(first..first + positions))?;
        let (key_windows, value_windows, rows) = self.resident.kv(kv);
        for (windows, from) in [(key_windows, keys), (value_windows, values)] {
            let mut rest = from;
            for (window, part) in in_windows(rows, first..first + positions) {
                let (now, later) = rest.split_at(part.len() * width);
                let at = (part.start * width * 4) as u64;
                self.gpu.queue.write_buffer(&windows[window], at, bytemuck::cast_slice(now));
                rest = later;
            }
        }
        self.flush()
    }

    /// Gives what was written to the device, and wgpu's staging memory back.
    fn flush(&mut self) -> Result<(), ExecuteError> {
        let submission = self.encoding.submit(&self.gpu.queue);
        wait(&self.gpu.device, &submission.index)?;
        self.check()
    }

    /// The contents of ranges of buffers, as many in a submission as [`PIECE`] holds.
    fn read_ranges(&mut self, sources: &[Source]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let all: u64 = sources.iter().map(|source| source.bytes).sum();
        self.values.reserve(all.min(PIECE));
        let mut found: Vec<Vec<f32>> =
            sources.iter().map(|source| Vec::with_capacity(source.bytes as usize / 4)).collect();
        // (source, first byte, bytes) of the parts of a submission
        let mut parts: Vec<(usize, u64, u64)> = Vec::new();
        let mut filled = 0;
        for (index, source) in sources.iter().enumerate() {
            let mut done = 0;
            while done < source.bytes {
                let bytes = (source.bytes - done).min(PIECE - filled);
                parts.push((index, source.offset + done, bytes));
                (done, filled) = (done + bytes, filled + bytes);
                if filled == PIECE {
                    self.read_parts(sources, &mut parts, &mut found)?;
                    filled = 0;
                }
            }
        }
        self.read_parts(sources, &mut parts, &mut found)?;
        Ok(found)
    }

    /// One submission that copies `parts`, and what it brings appended to `found`.
    fn read_parts(
        &mut self,
        sources: &[Source],
        parts: &mut Vec<(usize, u64, u64)>,
        found: &mut [Vec<f32>],
    ) -> Result<(), ExecuteError> {
        if parts.is_empty() {
            return Ok(());
        }
        let encoder = self.encoding.encoder(&self.gpu.device);
        let mut at = 0;
        for &(index, offset, bytes) in parts.iter() {
            self.values.copy(encoder, &sources[index].buffer, offset, at, bytes);
            at += bytes;
        }
        let submission = self.encoding.submit(&self.gpu.queue);
        self.values.read(&submission.index, at, |mapped| {
            let mut rest = mapped;
            for (index, _, bytes) in parts.drain(..) {
                let (now, later) = rest.split_at(bytes as usize);
                found[index].extend_from_slice(bytemuck::cast_slice(now));
                rest = later;
            }
        })?;
        self.check()
    }
}

/// The rows of a tensor without what fills them up to its stride.
fn without_padding(spec: &TensorSpec, values: Vec<f32>) -> Vec<f32> {
    match spec.stride == spec.width {
        true => values,
        false => values.chunks_exact(spec.stride).flat_map(|row| &row[..spec.width]).copied().collect(),
    }
}

/// Positions of a cache as (window, positions in the window), where a window holds `rows`.
fn in_windows(rows: usize, positions: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let Range { start, end } = positions;
    (start / rows..end.div_ceil(rows)).filter(move |_| start < end).map(move |window| {
        let first = window * rows;
        (window, start.max(first) - first..end.min(first + rows) - first)
    })
}
