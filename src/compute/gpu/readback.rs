//! Buffers that the host maps to read what the GPU wrote.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::device::GpuDevice;
use crate::compute::step::ExecuteError;

/// A mappable buffer that is used again and again.
pub(super) struct Readback {
    device: wgpu::Device,
    buffer: wgpu::Buffer,
    waited: Cell<Duration>,
}

impl Readback {
    pub(super) fn new(device: &wgpu::Device, bytes: u64) -> Self {
        Readback { device: device.clone(), buffer: mappable(device, bytes), waited: Cell::default() }
    }

    /// Time spent waiting in [`read`](Self::read).
    pub(super) fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// Makes room for `bytes` bytes; only reads that are not part of a token grow it.
    pub(super) fn reserve(&mut self, bytes: u64) {
        if self.buffer.size() < bytes {
            self.buffer = mappable(&self.device, bytes);
        }
    }

    /// Copies into it: the last command of a submission.
    pub(super) fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        from: &wgpu::Buffer,
        offset: u64,
        at: u64,
        bytes: u64,
    ) {
        encoder.copy_buffer_to_buffer(from, offset, &self.buffer, at, bytes);
    }

    /// Waits for `submission` and hands the first `bytes` bytes to `use_bytes`.
    pub(super) fn read<R>(
        &self,
        submission: &wgpu::SubmissionIndex,
        bytes: u64,
        use_bytes: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, ExecuteError> {
        let slice = self.buffer.slice(..bytes);
        let (send, receive) = std::sync::mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            // the receiver is gone only when this function has failed already
            let _ = send.send(result);
        });
        let start = Instant::now();
        wait(&self.device, submission)?;
        self.waited.set(self.waited.get() + start.elapsed());
        let mapped = receive.recv().map_err(|_| ExecuteError::Gpu("the device was lost".to_owned()))?;
        mapped.map_err(|e| ExecuteError::Gpu(format!("reading back: {e}")))?;
        let view = slice.get_mapped_range().map_err(|e| ExecuteError::Gpu(format!("reading back: {e}")))?;
        let result = use_bytes(&view);
        drop(view);
        self.buffer.unmap();
        Ok(result)
    }
}

impl GpuDevice {
    /// The first elements of a buffer.
    pub(super) fn read_buffer(&mut self, buffer: wgpu::Buffer, elements: usize) -> Result<Vec<f32>, ExecuteError> {
        self.read_some(&[(&buffer, 0, elements)])
    }

    /// Some elements of buffers, from one on, one after the other: one wait for all.
    pub(super) fn read_some(&mut self, parts: &[(&wgpu::Buffer, usize, usize)]) -> Result<Vec<f32>, ExecuteError> {
        let bytes = parts.iter().map(|(_, _, elements)| *elements as u64 * 4).sum();
        self.values.reserve(bytes);
        let encoder = self.encoding.encoder(&self.gpu.device);
        let mut at = 0;
        for (buffer, first, elements) in parts {
            self.values.copy(encoder, buffer, *first as u64 * 4, at, *elements as u64 * 4);
            at += *elements as u64 * 4;
        }
        let index = self.encoding.submit(&self.gpu.queue).index;
        let waiting = Instant::now();
        let values = self.values.read(&index, bytes, bytemuck::pod_collect_to_vec)?;
        self.has_waited_for_device(waiting);
        self.check()?;
        Ok(values)
    }
}

fn mappable(device: &wgpu::Device, bytes: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("readback"),
        size: bytes.max(16).next_multiple_of(16),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Waits until `submission` is done.
pub(super) fn wait(device: &wgpu::Device, submission: &wgpu::SubmissionIndex) -> Result<(), ExecuteError> {
    device
        .poll(wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None })
        .map(|_| ())
        .map_err(|e| ExecuteError::Gpu(format!("waiting for the GPU: {e}")))
}
