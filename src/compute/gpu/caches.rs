//! Caches in windows that one binding can cover. A window is made when a step first reaches it: a long context takes memory
//! as it fills, and all of it is what the plan has promised.

use crate::compute::recording::{CacheSpec, CacheStream};

/// Windows are whole runs of so many positions: as many as one workgroup attends to at most, so that a window changes no
/// sum of attention.
const WINDOW_STEP: usize = 1024;
/// Positions of a window, if bindings hold them: a short context is one.
const LEAST: usize = 8192;
/// A long context comes in so many windows, if bindings hold them: attention has a dispatch for each.
const PARTS: usize = 16;

/// The windows of a cache.
pub(super) struct CacheWindows {
    /// Of each stream, those that were made.
    streams: Vec<Vec<wgpu::Buffer>>,
    /// Positions of a window; the last may hold fewer.
    rows: usize,
    /// Positions of all there may be.
    context: usize,
}

impl CacheWindows {
    /// None are made yet. `binding` is the largest binding, in bytes.
    pub(super) fn new(spec: &CacheSpec, context: usize, binding: u64) -> Self {
        let widest = spec.streams.iter().map(CacheStream::row_bytes).max().unwrap_or(0).max(1);
        let bound = binding as usize / widest;
        // half a run where a whole one is too large
        let step = if bound < WINDOW_STEP { WINDOW_STEP / 2 } else { WINDOW_STEP };
        let most = (bound / step * step).max(step);
        let wanted = context.div_ceil(PARTS).max(LEAST).min(context).next_multiple_of(step);
        CacheWindows { streams: vec![Vec::new(); spec.streams.len()], rows: wanted.min(most), context }
    }

    /// Whether the windows that were made hold so many positions.
    pub(super) fn hold(&self, positions: usize) -> bool {
        self.made() >= self.wanted(positions).min(self.most())
    }

    /// Windows that hold so many positions.
    fn wanted(&self, positions: usize) -> usize {
        positions.min(self.context).div_ceil(self.rows)
    }

    /// Makes the windows that hold so many positions, with `buffer` of a label and bytes.
    pub(super) fn reach(
        &mut self,
        spec: &CacheSpec,
        positions: usize,
        mut buffer: impl FnMut(&str, u64) -> wgpu::Buffer,
    ) {
        let (rows, context) = (self.rows, self.context);
        let wanted = self.wanted(positions);
        for (stream, windows) in spec.streams.iter().zip(&mut self.streams) {
            let label = format!("{} {}", spec.label, stream.name);
            for window in windows.len()..wanted {
                let positions = rows.min(context - window * rows);
                windows.push(buffer(&label, (positions * stream.row_bytes()) as u64));
            }
        }
    }

    /// How many were made.
    pub(super) fn made(&self) -> usize {
        self.streams.first().map_or(0, Vec::len)
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        if self.streams.is_empty() { 0 } else { self.context.div_ceil(self.rows) }
    }

    /// Positions of a window; the last may hold fewer.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Those of a stream that were made.
    pub(super) fn of(&self, stream: usize) -> &[wgpu::Buffer] {
        &self.streams[stream]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::gpu::{Adapters, open};
    use flashflood_formats::CacheFormat;

    fn windows(width: usize, context: usize, binding: u64) -> (usize, usize) {
        let stream = |name| CacheStream { name, width, format: CacheFormat::F16 };
        let spec = CacheSpec { label: "kv".to_owned(), streams: vec![stream("keys"), stream("values")] };
        let windows = CacheWindows::new(&spec, context, binding);
        (windows.rows(), windows.most())
    }

    #[test]
    fn a_long_context_comes_in_parts() {
        const MANY: u64 = 1 << 31;
        // short ones are one window, and no larger than they need be
        assert_eq!([windows(512, 1, MANY), windows(512, 3000, MANY)], [(1024, 1), (3072, 1)]);
        assert_eq!([windows(512, 8192, MANY), windows(512, 20_000, MANY)], [(8192, 1), (8192, 3)]);
        assert_eq!([windows(512, 262_144, MANY), windows(512, 1_010_000, MANY)], [(16_384, 16), (63_488, 16)]);
        // bindings of 128 MiB, and of less than a run
        assert_eq!([windows(8192, 262_144, 128 << 20), windows(512, 2000, 1 << 19)], [(8192, 32), (512, 4)]);
        assert_eq!(windows(512, 2000, 1), (512, 4));
    }

    #[test]
    fn windows_are_made_when_they_are_reached() {
        let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
        let stream = |name, width| CacheStream { name, width, format: CacheFormat::F16 };
        let spec = CacheSpec { label: "kv".to_owned(), streams: vec![stream("keys", 8), stream("values", 4)] };
        let mut windows = CacheWindows::new(&spec, 20_000, 1 << 20);
        let mut made = Vec::new();
        for positions in [1, 8192, 8193, 16_384, 50_000] {
            windows.reach(&spec, positions, |label, size| {
                made.push((positions, label.to_owned(), size));
                let usage = wgpu::BufferUsages::STORAGE;
                let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
                gpu.device.create_buffer(&descriptor)
            });
        }
        let both = |positions, rows: u64| {
            [(positions, "kv keys".to_owned(), 16 * rows), (positions, "kv values".to_owned(), 8 * rows)]
        };
        assert_eq!(made, [both(1, 8192), both(8193, 8192), both(50_000, 20_000 - 16_384)].concat());
        assert_eq!((windows.made(), windows.most()), (3, 3));
    }
}
