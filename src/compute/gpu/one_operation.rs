//! One operation of a step at a time, for whoever compares each with its CPU twin.

use std::time::{Duration, Instant};

use super::executor::GpuExecutor;
use crate::compute::executor::{ExecuteError, Executor, Phase, Step};
use crate::compute::kernel::{Access, Resource, Stage};
use crate::compute::ops::ProductShape;
use crate::compute::recording::{KvId, Recorded, TensorId};

/// What an operation may write.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Activations and state.
    pub tensors: Vec<TensorId>,
    /// Keys and values.
    pub caches: Vec<KvId>,
}

/// How long one run of an operation took.
#[derive(Clone, Debug)]
pub struct OperationTime {
    /// One entry for each kernel; all kernels together, under the name of the first, where the device has no timestamps.
    pub kernels: Vec<(&'static str, Duration)>,
    /// Weights that one run reads, for each entry.
    pub weight_bytes: Vec<u64>,
    /// Whether the device timed its kernels; else the host timed submissions.
    pub by_device: bool,
}

impl GpuExecutor {
    /// Begins a step whose operations [`run_operation`](Self::run_operation) runs: `embedded` `[tokens, hidden]`, `rope`
    /// `[tokens, rotary_dim]`.
    pub fn begin(&mut self, step: Step, embedded: &[f32], rope: &[f32]) -> Result<(), ExecuteError> {
        step.check(&self.recording, self.context)?;
        if let Some(input) = self.recording.input {
            self.write(input.tensor, embedded);
        }
        self.gpu.queue.write_buffer(self.resident.rope(), 0, bytemuck::cast_slice(rope));
        self.last = Some(step);
        self.check()
    }

    /// Submits operation `index` of the recording. Routed experts are those of `routing`, per layer `[tokens, top_k]`; the
    /// choice on the device is not read.
    pub fn run_operation(&mut self, index: usize, step: &Step, routing: &[Vec<u32>]) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        let outcome = match &recording.steps[index] {
            Recorded::Kernel { kernel, .. } => {
                self.encode_kernel(index, kernel.as_ref(), step);
                Ok(())
            }
            Recorded::Route(_) => Ok(()),
            Recorded::Experts(op) => {
                self.routing = routing.to_vec();
                self.run_experts(index, op, step)
            }
        };
        self.encoding.submit(&self.gpu.queue);
        outcome?;
        self.check()
    }

    /// Runs an operation `runs` times (at least once) after another, and says what one run took. What it leaves in memory
    /// is that of so many runs.
    pub fn time_operation(
        &mut self,
        index: usize,
        step: &Step,
        routing: &[Vec<u32>],
        runs: u32,
    ) -> Result<OperationTime, ExecuteError> {
        let runs = runs.max(1);
        self.finish()?;
        if !self.profile() {
            return self.time_operation_by_host(index, step, routing, runs);
        }
        for _ in 0..runs {
            self.run_operation(index, step, routing)?;
            if let Some(profile) = &mut self.profile {
                profile.collect(&self.gpu.device)?;
            }
        }
        let times = self.kernel_times();
        self.profile = None;
        Ok(OperationTime {
            kernels: times.iter().map(|t| (t.kernel, t.time / runs)).collect(),
            weight_bytes: times.iter().map(|t| t.weight_bytes / u64::from(runs)).collect(),
            by_device: true,
        })
    }

    /// As [`time_operation`](Self::time_operation), by the host's clock: submissions one behind the other, and a wait.
    pub fn time_operation_by_host(
        &mut self,
        index: usize,
        step: &Step,
        routing: &[Vec<u32>],
        runs: u32,
    ) -> Result<OperationTime, ExecuteError> {
        let runs = runs.max(1);
        self.finish()?;
        let start = Instant::now();
        for _ in 0..runs {
            self.run_operation(index, step, routing)?;
        }
        self.finish()?;
        let time = start.elapsed() / runs;
        // those of the last run
        let bytes = self.dispatches.iter().map(|dispatch| dispatch.weight_bytes).sum();
        let first = self.shaders_of(index, step).first().copied().unwrap_or_default();
        Ok(OperationTime { kernels: vec![(first, time)], weight_bytes: vec![bytes], by_device: false })
    }

    /// The kernels that an operation dispatches in a step, in order, each once.
    pub fn shaders_of(&self, index: usize, step: &Step) -> Vec<&'static str> {
        let ready = &self.ready[index];
        let mut stages: Vec<usize> = match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => {
                let mut dispatches = Vec::new();
                kernel.dispatch(&self.resident, step, &mut dispatches);
                dispatches.iter().map(|dispatch| dispatch.stage).collect()
            }
            Recorded::Route(_) => Vec::new(),
            // two for a token; two for each size of tiles
            Recorded::Experts(_) if step.phase == Phase::Decode => vec![0, 1],
            Recorded::Experts(_) => vec![2, 3],
        };
        stages.dedup();
        let mut shaders: Vec<&'static str> = Vec::new();
        for shader in stages.into_iter().map(|stage| ready[stage].shader) {
            if !shaders.contains(&shader) {
                shaders.push(shader);
            }
        }
        shaders
    }

    /// What the bindings of an operation let it write.
    pub fn written_by(&self, index: usize) -> Written {
        let stages: Vec<Stage> = match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => kernel.stages(&self.resident),
            Recorded::Route(_) => Vec::new(),
            Recorded::Experts(op) => op.stages(&self.resident, 1),
        };
        let mut written = Written::default();
        let bindings = stages.iter().flat_map(|stage| stage.groups.iter().flatten());
        for binding in bindings.filter(|binding| binding.0 == Access::Write) {
            match binding.1 {
                Resource::Tensor(tensor) if !written.tensors.contains(&tensor) => written.tensors.push(tensor),
                Resource::Keys(kv, _) | Resource::Values(kv, _) if !written.caches.contains(&kv) => {
                    written.caches.push(kv);
                }
                _ => {}
            }
        }
        written
    }

    /// The products of one token that an operation is: its matrices' columns, forms and formats.
    pub fn products_of(&self, index: usize) -> Vec<ProductShape> {
        match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => kernel.products(&self.resident),
            Recorded::Route(_) => Vec::new(),
            Recorded::Experts(op) => op.products().into(),
        }
    }
}
