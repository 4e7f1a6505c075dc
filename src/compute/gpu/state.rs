//! Rows of tensors and caches to the host and back, and copies of the state within a step.

use std::ops::Range;
use std::time::Instant;

use bytemuck::Pod;

use super::device::GpuDevice;
use super::readback::Readback;
use crate::compute::recording::{CacheId, TensorId};
use crate::compute::run::without_padding;
use crate::compute::step::ExecuteError;

/// Most bytes that are copied in one submission: the buffer that the host maps stays allocated. The state of the largest
/// model, 189 MB, takes three.
const PIECE: u64 = 64 << 20;

/// A range of a buffer to read, in bytes.
struct Source {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
}

impl GpuDevice {
    /// Room for the copies of the state that a step makes.
    pub(super) fn make_room_for_marks(&mut self, marks: usize) {
        if marks == 0 {
            // nor is anything added up for every token
            return self.marked.clear();
        }
        let bytes = self.place_of_state(self.recording.state.len());
        self.marked = (0..marks).map(|_| Readback::new(&self.gpu.device, bytes)).collect();
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

    /// The first rows of some tensors, as many of each.
    pub(super) fn rows_from_device(&mut self, tensors: &[(TensorId, usize)]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let rows = |&(tensor, rows): &(TensorId, usize)| {
            let bytes = (rows * self.recording.spec(tensor).stride * 4) as u64;
            Source { buffer: self.resident.tensor(tensor).clone(), offset: 0, bytes }
        };
        let sources: Vec<Source> = tensors.iter().map(rows).collect();
        self.read_ranges(&sources)
    }

    /// Rows of a stream of a cache.
    pub(super) fn cache_rows_from_device(
        &mut self,
        cache: CacheId,
        stream: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ExecuteError> {
        let row = self.recording.caches[cache.0].streams[stream].row_bytes() as u64;
        let (windows, rows) = self.resident.cache(cache, stream);
        let source = |(window, part): (usize, Range<usize>)| Source {
            buffer: windows[window].clone(),
            offset: part.start as u64 * row,
            bytes: part.len() as u64 * row,
        };
        let sources: Vec<Source> = in_windows(rows, positions).map(source).collect();
        Ok(self.read_ranges(&sources)?.concat())
    }

    /// Overwrites rows of a stream of a cache from position `first` on.
    pub(super) fn cache_rows_to_device(&mut self, cache: CacheId, stream: usize, first: usize, rows: &[u8]) {
        let row = self.recording.caches[cache.0].streams[stream].row_bytes();
        let (windows, of_window) = self.resident.cache(cache, stream);
        let mut rest = rows;
        for (window, part) in in_windows(of_window, first..first + rows.len() / row) {
            let (now, later) = rest.split_at(part.len() * row);
            self.gpu.queue.write_buffer(&windows[window], (part.start * row) as u64, now);
            rest = later;
        }
    }

    /// The contents of ranges of buffers, as many in a submission as [`PIECE`] holds.
    fn read_ranges<T: Pod>(&mut self, sources: &[Source]) -> Result<Vec<Vec<T>>, ExecuteError> {
        let all: u64 = sources.iter().map(|source| source.bytes).sum();
        self.values.reserve(all.min(PIECE));
        let mut found: Vec<Vec<T>> =
            sources.iter().map(|source| Vec::with_capacity(source.bytes as usize / size_of::<T>())).collect();
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
    fn read_parts<T: Pod>(
        &mut self,
        sources: &[Source],
        parts: &mut Vec<(usize, u64, u64)>,
        found: &mut [Vec<T>],
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
        let waiting = Instant::now();
        self.values.read(&submission.index, at, |mapped| {
            let mut rest = mapped;
            for (index, _, bytes) in parts.drain(..) {
                let (now, later) = rest.split_at(bytes as usize);
                found[index].extend_from_slice(bytemuck::cast_slice(now));
                rest = later;
            }
        })?;
        self.has_waited_for_device(waiting);
        self.check()
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
