//! One operation of a step at a time, for whoever compares each with its CPU twin.

use std::time::{Duration, Instant};

use super::device::GpuDevice;
use crate::compute::kernel::{Access, ResidentLayout, Resource, Stage};
use crate::compute::ops::{ExpertTile, Pair, ProductShape, RouterTopK, expert_groups};
use crate::compute::recording::{CacheId, Recorded, TensorId};
use crate::compute::run::Runner;
use crate::compute::step::{ExecuteError, Phase, Step};
use crate::experts::ExpertStore;

/// What an operation may write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Activations and state.
    pub tensors: Vec<TensorId>,
    /// Rows of positions.
    pub caches: Vec<CacheId>,
}

/// How long one run of an operation took.
#[derive(Clone, Debug)]
pub(crate) struct OperationTime {
    /// One entry for each kernel; all kernels together, under the name of the first, where the device has no timestamps.
    pub kernels: Vec<(&'static str, Duration)>,
    /// Weights that one run reads, for each entry.
    pub weight_bytes: Vec<u64>,
    /// Whether the device timed its kernels; else the host timed submissions.
    pub by_device: bool,
}

impl Runner<GpuDevice> {
    /// Runs an operation `runs` times (at least once) after another, and says what one run took. What it leaves in memory
    /// is that of so many runs.
    pub(crate) fn time_operation(
        &mut self,
        index: usize,
        step: &Step,
        store: &mut ExpertStore,
        runs: u32,
    ) -> Result<OperationTime, ExecuteError> {
        let runs = runs.max(1);
        self.finish()?;
        if !self.profile() {
            return self.time_operation_by_host(index, step, store, runs);
        }
        for _ in 0..runs {
            self.run_operation(index, step, Some(store))?;
        }
        let times = self.kernel_times();
        self.device.profile = None;
        Ok(OperationTime {
            kernels: times.iter().map(|t| (t.kernel, t.time / runs)).collect(),
            weight_bytes: times.iter().map(|t| t.weight_bytes / u64::from(runs)).collect(),
            by_device: true,
        })
    }

    /// As [`time_operation`](Self::time_operation), by the host's clock: submissions one behind the other, and a wait.
    pub(crate) fn time_operation_by_host(
        &mut self,
        index: usize,
        step: &Step,
        store: &mut ExpertStore,
        runs: u32,
    ) -> Result<OperationTime, ExecuteError> {
        let runs = runs.max(1);
        self.finish()?;
        let start = Instant::now();
        for _ in 0..runs {
            self.run_operation(index, step, Some(store))?;
        }
        self.finish()?;
        let time = start.elapsed() / runs;
        // those of the last run
        let bytes = self.device.dispatches.iter().map(|dispatch| dispatch.weight_bytes).sum();
        let first = self.shaders_of(index, step).first().copied().unwrap_or_default();
        Ok(OperationTime { kernels: vec![(first, time)], weight_bytes: vec![bytes], by_device: false })
    }

    /// Groups pairs by expert by the choices that the tensor of operation `index` holds, with these slots of its experts:
    /// pairs, and tiles with their room.
    pub(crate) fn group_by_expert(
        &mut self,
        index: usize,
        op: &RouterTopK,
        step: &Step,
        slots: &[[u32; 2]],
    ) -> Result<(Vec<Pair>, Vec<ExpertTile>), ExecuteError> {
        let device = &mut self.device;
        device.gpu.queue.write_buffer(device.resident.slots(), 0, bytemuck::cast_slice(slots));
        let dispatches = expert_groups::dispatches(op.ids, op.logits.width, 0, step.tokens, 1);
        device.encoding.dispatch(&device.gpu.device, None, &device.ready.steps[index], &dispatches);
        let pairs = step.tokens * op.ids.width;
        let rooms: usize = expert_groups::rooms(pairs, op.logits.width).iter().sum();
        let buffers = [device.resident.pairs().clone(), device.resident.tiles().clone()];
        let words = device.read_some(&[(&buffers[0], 0, 4 * pairs), (&buffers[1], 0, 4 * rooms)])?;
        let (pairs, tiles) = words.split_at(4 * pairs);
        Ok((bytemuck::pod_collect_to_vec(pairs), bytemuck::pod_collect_to_vec(tiles)))
    }

    /// Has kernels take the experts `ids` of a token of a layer from its slab, as where all experts of the layer are in it.
    /// Returns false where they may be in several.
    pub(crate) fn take_from_slab(
        &mut self,
        layer: usize,
        ids: &[u32],
        store: &mut ExpertStore,
    ) -> Result<bool, ExecuteError> {
        let device = &mut self.device;
        let (Some(slots), Some(_)) = (device.slots.clone(), device.resident.expert_slab(layer)) else {
            return Ok(false);
        };
        let acquired = store.acquire(layer, ids)?;
        device.land(store, acquired.iter().filter(|one| !one.hit).map(|one| one.slot).collect())?;
        // in the order of the ids
        let pairs = acquired.iter().zip(0..).map(|(one, row)| {
            let (slab, slot) = slots.place(one.slot);
            Pair { token: 0, row, slot: slot as u32, slab: slab as u32 }
        });
        let pairs: Vec<Pair> = pairs.collect();
        device.gpu.queue.write_buffer(device.resident.pairs(), 0, bytemuck::cast_slice(&pairs));
        device.resident.all_resident = true;
        Ok(true)
    }

    /// Ends what [`take_from_slab`](Self::take_from_slab) began.
    pub(crate) fn take_what_is_read(&mut self) {
        self.device.resident.all_resident = false;
    }

    /// The kernels that an operation dispatches in a step, in order, each once.
    pub(crate) fn shaders_of(&self, index: usize, step: &Step) -> Vec<&'static str> {
        let all = &self.device.ready.steps[index].shaders;
        let mut stages: Vec<usize> = match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => {
                let mut dispatches = Vec::new();
                kernel.dispatch(&self.device.resident, step, &mut dispatches);
                dispatches.iter().map(|dispatch| dispatch.stage).collect()
            }
            Recorded::Route(_) | Recorded::LayerDone(_) => Vec::new(),
            // those for a token; as many for each size of tiles
            Recorded::Experts(op) if step.phase == Phase::Decode => (0..op.stages_of_a_phase()).collect(),
            Recorded::Experts(op) => (0..op.stages_of_a_phase()).map(|n| op.stages_of_a_phase() + n).collect(),
        };
        stages.dedup();
        let mut shaders: Vec<&'static str> = Vec::new();
        for shader in stages.into_iter().map(|stage| all[stage]) {
            if !shaders.contains(&shader) {
                shaders.push(shader);
            }
        }
        shaders
    }

    /// What the bindings of an operation let it write.
    pub(crate) fn written_by(&self, index: usize) -> Written {
        let stages: Vec<Stage> = match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => kernel.stages(&self.device.resident),
            Recorded::Route(_) | Recorded::LayerDone(_) => Vec::new(),
            Recorded::Experts(op) => op.stages(&self.device.resident, 1),
        };
        let mut written = Written::default();
        let bindings = stages.iter().flat_map(|stage| stage.groups.iter().flatten());
        for binding in bindings.filter(|binding| binding.0 == Access::Write) {
            match binding.1.whole() {
                Resource::Tensor(tensor) if !written.tensors.contains(&tensor) => written.tensors.push(tensor),
                Resource::Cache(cache, ..) if !written.caches.contains(&cache) => written.caches.push(cache),
                _ => {}
            }
        }
        written
    }

    /// The products of one token that an operation is: its matrices' columns, forms and formats.
    pub(crate) fn products_of(&self, index: usize) -> Vec<ProductShape> {
        match &self.recording.steps[index] {
            Recorded::Kernel { kernel, .. } => kernel.products(&self.device.resident),
            Recorded::Route(_) | Recorded::LayerDone(_) => Vec::new(),
            Recorded::Experts(op) => op.products().map(|(_, shape)| shape).collect(),
        }
    }
}
