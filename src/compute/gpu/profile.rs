//! Where the GPU's time goes: timestamps around every kernel, one pass each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashflood_backends::gpu::Gpu;

use super::device::{GpuExecutor, GpuOptions};
use super::readback::Readback;
use super::spans::Spans;
use crate::compute::ops::StreamRead;
use crate::compute::recording::Recording;
use crate::compute::step::{ExecuteError, KernelTime, ProfiledSteps, Span, Step};

/// Timestamps that one query set holds; a step with more kernels is profiled in part, and says so.
const QUERIES: u32 = 4096;

/// Bytes that [`bandwidth`] reads: beyond the caches of large GPUs (50 MB on an H200).
const STREAM: u64 = 256 << 20;

/// Bytes per second at which a device reads its memory when a kernel does nothing else: the ceiling of all others.
/// The best of several runs; `None` when the device has no timestamps.
pub(crate) fn bandwidth(gpu: &Gpu) -> Result<Option<f64>, ExecuteError> {
    let bytes = GpuOptions::default().binding_on(gpu).min(STREAM);
    let width = bytes as usize / 4;
    let mut recording = Recording::new(1);
    let x = recording.tensor("memory", 1, width);
    let out = recording.ids("sums", StreamRead::columns(width));
    recording.push("stream_read", StreamRead { x, out }).expect("the width is whole pages");
    let options = GpuOptions { chain: false, ..GpuOptions::default() };
    let mut executor = GpuExecutor::new(gpu.clone(), Arc::new(recording), 1, None, options)?;
    // memory that was never written may be no memory at all
    executor.write(x.tensor, &vec![1.0; width]);
    let step = Step::decode(0);
    let mut best = Duration::MAX;
    for _ in 0..8 {
        // begins anew: times are sums
        if !executor.profile() {
            return Ok(None);
        }
        executor.run(step, &[], &[], None)?;
        let times = executor.kernel_times();
        best = times.iter().map(|t| t.time).filter(|t| !t.is_zero()).fold(best, Duration::min);
    }
    Ok((best < Duration::MAX).then(|| bytes as f64 / best.as_secs_f64()))
}

/// Collects timestamps of a step and adds them up by kernel.
pub(super) struct Profile {
    queue: wgpu::Queue,
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: Readback,
    /// Kernel and bytes of each pass since the last collection.
    passes: Vec<(&'static str, u64)>,
    times: BTreeMap<&'static str, KernelTime>,
    left_out: u64,
    steps: ProfiledSteps,
}

impl Profile {
    /// `None` when the device has no timestamps.
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let bytes = u64::from(QUERIES) * 8;
        Some(Profile {
            queue: queue.clone(),
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: bytes,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            readback: Readback::new(device, bytes),
            passes: Vec::new(),
            times: BTreeMap::new(),
            left_out: 0,
            steps: ProfiledSteps::default(),
        })
    }

    /// A pass of its own for one kernel.
    pub(super) fn pass<'a>(
        &mut self,
        encoder: &'a mut wgpu::CommandEncoder,
        kernel: &'static str,
        bytes: u64,
    ) -> wgpu::ComputePass<'a> {
        let first = self.passes.len() as u32 * 2;
        if first + 2 > QUERIES {
            self.left_out += 1;
            return encoder.begin_compute_pass(&Default::default());
        }
        self.passes.push((kernel, bytes));
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(kernel),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        })
    }

    /// A step has taken the host so long, without its waits.
    pub(super) fn step(&mut self, time: Duration) {
        self.steps.steps += 1;
        self.steps.host += time;
    }

    /// Steps so far.
    pub(super) fn steps(&self) -> ProfiledSteps {
        self.steps
    }

    /// Waits for the step and adds its times up.
    pub(super) fn collect(&mut self, device: &wgpu::Device, spans: &mut Spans) -> Result<(), ExecuteError> {
        let count = self.passes.len() as u32 * 2;
        if count == 0 {
            return Ok(());
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
        let bytes = u64::from(count) * 8;
        self.readback.copy(&mut encoder, &self.resolved, 0, 0, bytes);
        let submission = self.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = self.readback.read(&submission, bytes, bytemuck::pod_collect_to_vec)?;
        let period = f64::from(self.queue.get_timestamp_period());
        let time = |ticks: u64| Duration::from_nanos((ticks as f64 * period) as u64);
        let (end, last) = (Instant::now(), ticks.iter().copied().max().unwrap_or(0));
        for ((kernel, bytes), ticks) in self.passes.drain(..).zip(ticks.chunks_exact(2)) {
            let taken = time(ticks[1].saturating_sub(ticks[0]));
            if let Some(start) = end.checked_sub(time(last.saturating_sub(ticks[0]))) {
                spans.add(Span { name: kernel, on_device: true, start, time: taken });
            }
            let all = self.times.entry(kernel).or_insert(KernelTime { kernel, ..KernelTime::default() });
            all.calls += 1;
            all.time += taken;
            all.weight_bytes += bytes;
        }
        Ok(())
    }

    /// All times so far, longest first.
    pub(super) fn times(&self) -> Vec<KernelTime> {
        let mut times: Vec<KernelTime> = self.times.values().copied().collect();
        if self.left_out > 0 {
            times.push(KernelTime { kernel: "(not timed)", calls: self.left_out, ..KernelTime::default() });
        }
        times.sort_by_key(|t| std::cmp::Reverse(t.time));
        times
    }
}
