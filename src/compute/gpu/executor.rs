use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flashflood_backends::gpu::Gpu;

use super::autotune::{Subject, Teams};
use super::encoding::Encoding;
use super::pipelines::{Pipelines, ReadyStage};
use super::profile::{Profile, bandwidth};
use super::readback::{Readback, wait};
use super::resident::{Resident, routed};
use super::slots::{GpuSlots, Landing};
use crate::compute::executor::{ExecuteError, Executor, KernelTime, LogitRows, Phase, ProfiledSteps, Step, TopLogits};
use crate::compute::kernel::{Binding, Dispatch, Kernel, Resource, Stage};
use crate::compute::ops::{Experts, LogitsTopK};
use crate::compute::recording::{KvId, Recorded, Recording, TensorId, View};
use crate::experts::{ExpertStore, StoreStats};

/// With all experts resident a step needs one submission. The GPU starts sooner with several: on an H200 a token of the
/// 35B shape takes 4.5 ms in one, 3.9 ms in submissions of 50 or 100 dispatches, and 4.0 ms in some of 25.
const SUBMIT_AFTER: usize = 64;

/// How a recording is made ready for a device.
#[derive(Clone, Copy, Debug)]
pub struct GpuOptions {
    /// wgpu's runtime checks in shaders: for tests.
    pub checks: bool,
    /// Largest binding, where less than the device's limit: for tests of what is split.
    pub binding: u64,
    /// How experts get into GPU memory, where not as the device would choose: for tests.
    pub landing: Option<Landing>,
    /// Most threads of a workgroup, where fewer than the device's limit: for tests of kernels that adapt.
    pub threads: u32,
    /// How many threads products are spread over.
    pub teams: Teams,
    /// Experts of the next layer that are read before its router has chosen; 0 reads none. The recording must have
    /// guesses.
    pub look_ahead: usize,
    /// Whether matrix units multiply prompts, where not as the device would choose: for tests.
    pub cooperative: Option<bool>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            checks: false,
            binding: u64::MAX,
            landing: None,
            threads: u32::MAX,
            teams: Teams::BuiltIn,
            look_ahead: 0,
            cooperative: None,
        }
    }
}

impl GpuOptions {
    /// The largest binding to use on a device, less than 2 GiB.
    pub fn binding_on(&self, gpu: &Gpu) -> u64 {
        let limits = &gpu.limits;
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min((2 << 30) - (1 << 20));
        self.binding.min(most) / 256 * 256
    }

    /// The largest binding, and the most threads of a workgroup: every device has 256, more than 1024 are not asked for.
    fn limits_on(&self, gpu: &Gpu) -> (u64, usize) {
        let most = gpu.limits.max_compute_invocations_per_workgroup.min(gpu.limits.max_compute_workgroup_size_x);
        (self.binding_on(gpu), self.threads.min(most).clamp(256, 1024) as usize)
    }
}

/// Runs a recording on a GPU.
pub struct GpuExecutor {
    pub(super) gpu: Gpu,
    pub(super) recording: Arc<Recording>,
    pub(super) resident: Resident,
    pub(super) context: usize,
    pub(super) ready: Vec<Vec<ReadyStage>>,
    /// Of each slab, as the bind groups of a step know it.
    generations: HashMap<(usize, usize), u64>,
    top_k: Option<Vec<ReadyStage>>,
    pub(super) store: Option<(ExpertStore, Arc<GpuSlots>)>,
    pub(super) experts: usize,
    pub(super) routed_ids: Readback,
    pub(super) values: Readback,
    pub(super) encoding: Encoding,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) routing: Vec<Vec<u32>>,
    /// The guess that came with the last of them.
    pub(super) ahead: Vec<u32>,
    pub(super) look_ahead: usize,
    pub(super) profile: Option<Profile>,
    /// Time that was waited for work whose results the host does not read.
    pub(super) waits: Duration,
    keep_routing: bool,
    pub(super) last: Option<Step>,
    /// Tokens of the next step after which the state is kept, and where.
    pub(super) marks: Vec<usize>,
    pub(super) marked: Vec<Readback>,
    patterns: Vec<String>,
    dumps: Vec<(String, usize, Vec<f32>)>,
    failed: Arc<Mutex<Option<String>>>,
}

impl GpuExecutor {
    /// Uploads weights, allocates tensors and caches for `context` positions, and makes all pipelines and bind groups.
    /// `store` reads `experts` experts a layer into `slots`; a recording without routed experts needs none.
    pub fn new(
        gpu: Gpu,
        recording: Arc<Recording>,
        context: usize,
        experts: usize,
        store: Option<(ExpertStore, Arc<GpuSlots>)>,
        options: GpuOptions,
    ) -> Result<Self, ExecuteError> {
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        keep_first_error(&gpu, &failed);
        let scratch2 = recording.logits.map_or(16, |l| LogitsTopK::scratch_entries(l.width) * 8) as u64;
        let slots = store.as_ref().map_or(0, |_| routed(&recording).1 * experts);
        let mut resident =
            Resident::new(&gpu.device, &gpu.queue, &recording, context, options.limits_on(&gpu), scratch2, slots);
        resident.cooperative = options.cooperative != Some(false) && super::cooperative::works(&gpu);
        let mut pipelines = Pipelines::new(&gpu.device, options.checks);
        let subject = Subject { gpu: &gpu, recording: &recording, store: store.as_ref() };
        subject.choose(options.teams, &mut pipelines, &mut resident);
        let (slab_count, mut generations) = (store.as_ref().map_or(0, |(_, slots)| slots.slabs()), HashMap::new());
        let mut make = |stages: Vec<Stage>, slabs: &[Option<wgpu::Buffer>]| -> Vec<ReadyStage> {
            stages.iter().map(|stage| pipelines.ready(stage, |b: Binding| resident.binding(b.1, slabs))).collect()
        };
        // those of its layer; the others are not there for it
        let mut slabs_for = |index: usize, op: &Experts| {
            let mut slabs = vec![None; slab_count];
            if let Some((store, slots)) = &store {
                for slab in slots.slabs_of(store.set(op.layer)) {
                    let (buffer, generation) = slots.slab(slab);
                    slabs[slab] = buffer;
                    generations.insert((index, slab), generation);
                }
            }
            slabs
        };
        let ready = recording
            .steps
            .iter()
            .enumerate()
            .map(|(index, recorded)| match recorded {
                Recorded::Kernel { kernel, .. } => make(kernel.stages(&resident), &[]),
                Recorded::Route(_) => Vec::new(),
                Recorded::Experts(op) => make(op.stages(&resident, slab_count), &slabs_for(index, op)),
            })
            .collect();
        let top_k = recording.logits.map(|logits| {
            let (a, b) = (Resource::Scratch, Resource::Scratch2);
            let passes = [(Resource::Tensor(logits.tensor), a), (a, b), (b, a)];
            make(passes.map(|(from, to)| logits_stage(from, to)).into(), &[])
        });
        let (routed_per_token, layers) = routed(&recording);
        let ids = recording.max_tokens * routed_per_token.next_multiple_of(4) * 4 * layers.max(2);
        let executor = GpuExecutor {
            routed_ids: Readback::new(&gpu.device, ids as u64),
            values: Readback::new(&gpu.device, 4096),
            gpu,
            recording,
            resident,
            context,
            ready,
            generations,
            top_k,
            store,
            experts,
            profile: None,
            waits: Duration::ZERO,
            keep_routing: false,
            encoding: Encoding::default(),
            dispatches: Vec::new(),
            routing: Vec::new(),
            ahead: Vec::new(),
            look_ahead: options.look_ahead,
            last: None,
            marks: Vec::new(),
            marked: Vec::new(),
            patterns: Vec::new(),
            dumps: Vec::new(),
            failed,
        };
        executor.check()?;
        Ok(executor)
    }

    /// The first error that wgpu has reported.
    pub(super) fn check(&self) -> Result<(), ExecuteError> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(ExecuteError::Gpu(error.clone())),
            None => Ok(()),
        }
    }

    /// Writes a tensor, rows of its stride: for tests of kernels.
    pub fn write(&mut self, tensor: TensorId, values: &[f32]) {
        self.gpu.queue.write_buffer(self.resident.tensor(tensor), 0, bytemuck::cast_slice(values));
    }

    /// Reads a tensor, rows of its stride: for tests of kernels.
    pub fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>, ExecuteError> {
        self.read_buffer(self.resident.tensor(tensor).clone(), 0, self.recording.elements(tensor))
    }

    fn read_buffer(&mut self, buffer: wgpu::Buffer, first: usize, elements: usize) -> Result<Vec<f32>, ExecuteError> {
        let bytes = elements as u64 * 4;
        self.values.reserve(bytes);
        let encoder = self.encoding.encoder(&self.gpu.device);
        self.values.copy(encoder, &buffer, first as u64 * 4, 0, bytes);
        let index = self.encoding.submit(&self.gpu.queue).index;
        let values = self.values.read(&index, bytes, bytemuck::pod_collect_to_vec)?;
        self.check()?;
        Ok(values)
    }

    /// Encodes `self.dispatches` with the stages of step `index`.
    pub(super) fn encode(&mut self, index: usize) {
        self.encoding.dispatch(&self.gpu.device, self.profile.as_mut(), &self.ready[index], &self.dispatches);
    }

    pub(super) fn encode_kernel(&mut self, index: usize, kernel: &dyn Kernel, step: &Step) {
        self.dispatches.clear();
        if self.marks.is_empty() || kernel.state().is_empty() {
            kernel.dispatch(&self.resident, step, &mut self.dispatches);
            return self.encode(index);
        }
        let marks = std::mem::take(&mut self.marks);
        for (part, mark) in step.parts(&marks) {
            self.dispatches.clear();
            kernel.dispatch_part(&self.resident, step, part, &mut self.dispatches);
            self.encode(index);
            if let Some(mark) = mark {
                self.copy_state(mark, &kernel.state());
            }
        }
        self.marks = marks;
    }

    /// Makes the bind groups of a layer's experts anew for slabs that came, and drops those for slabs that went.
    pub(super) fn follow_slabs(&mut self, index: usize, op: &Experts) {
        let Some((store, slots)) = &self.store else { return };
        for slab in slots.slabs_of(store.set(op.layer)) {
            if self.generations.get(&(index, slab)) == Some(&slots.generation(slab)) {
                continue;
            }
            let mut slabs = vec![None; slots.slabs()];
            let (buffer, generation) = slots.slab(slab);
            slabs[slab] = buffer;
            self.generations.insert((index, slab), generation);
            for (stage, ready) in op.stages(&self.resident, slots.slabs()).iter().zip(&mut self.ready[index]) {
                let resource = |b: Binding| self.resident.binding(b.1, &slabs);
                ready.regroup(&self.gpu.device, slab, &stage.groups[slab], resource);
            }
        }
    }

    fn dump_outputs(&mut self, label: &str, views: &[View], step: &Step) -> Result<(), ExecuteError> {
        if !self.patterns.iter().any(|p| label.contains(p.as_str())) {
            return Ok(());
        }
        for (i, &view) in views.iter().enumerate() {
            let rows = self.recording.rows(view.tensor, step);
            let tensor = self.read(view.tensor)?;
            let values = tensor.chunks_exact(view.stride).take(rows);
            let values = values.flat_map(|r| r[view.offset..][..view.width].to_vec()).collect();
            let name = if i == 0 { label.to_owned() } else { format!("{label}.{i}") };
            self.dumps.push((name, view.width, values));
        }
        Ok(())
    }
}

/// Keeps the first error of a device in `failed`.
fn keep_first_error(gpu: &Gpu, failed: &Arc<Mutex<Option<String>>>) {
    let failed = failed.clone();
    gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        // the first error is the cause of those that follow
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
    }));
}

fn logits_stage(from: Resource, to: Resource) -> Stage {
    Stage { shader: "logits_top_k", constants: vec![], groups: vec![vec![Binding::read(from), Binding::write(to)]] }
}

impl Executor for GpuExecutor {
    fn device(&self) -> String {
        format!("{} ({:?})", self.gpu.info.name, self.gpu.info.backend)
    }

    fn reset(&mut self) -> Result<(), ExecuteError> {
        let encoder = self.encoding.encoder(&self.gpu.device);
        for &tensor in &self.recording.state {
            encoder.clear_buffer(self.resident.tensor(tensor), 0, None);
        }
        self.encoding.submit(&self.gpu.queue);
        self.last = None;
        self.check()
    }

    fn run_watched(
        &mut self,
        step: Step,
        embedded: &[f32],
        rope: &[f32],
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ExecuteError> {
        step.check(&self.recording, self.context)?;
        let start = Instant::now();
        let recording = self.recording.clone();
        self.make_room_for_marks();
        if let Some(input) = recording.input {
            self.write(input.tensor, embedded);
        }
        self.gpu.queue.write_buffer(self.resident.rope(), 0, bytemuck::cast_slice(rope));
        self.routing.clear();
        self.ahead.clear();
        self.dumps.clear();
        // a chunk of a prompt is grouped by expert on the host: there is time for it
        let looks_up = self.resident.all_resident && step.phase == Phase::Decode;
        let mut routed = None;
        for (index, recorded) in recording.steps.iter().enumerate() {
            match recorded {
                Recorded::Kernel { label, kernel } => {
                    self.encode_kernel(index, kernel.as_ref(), &step);
                    self.dump_outputs(label, &kernel.outputs(), &step)?;
                }
                Recorded::Route(_) if looks_up => {}
                Recorded::Route(route) => {
                    routed = Some(self.submit_route(route, &step));
                }
                Recorded::Experts(op) if looks_up => {
                    self.run_resident_experts(index, op, &step);
                    self.dump_outputs(&format!("layer.{}.experts", op.layer), &[op.out], &step)?;
                }
                Recorded::Experts(op) => {
                    // what was recorded between the route and here is encoded already and runs under the reads
                    if let Some(route) = routed.take() {
                        self.read_route(&route)?;
                    }
                    if let Err(e) = self.run_experts(index, op, &step) {
                        // leave nothing half-encoded behind for the next step
                        self.encoding.submit(&self.gpu.queue);
                        return Err(e);
                    }
                    self.dump_outputs(&format!("layer.{}.experts", op.layer), &[op.out], &step)?;
                }
            }
            if let Recorded::Experts(op) = recorded
                && !layer_done(op.layer + 1)
            {
                self.encoding.submit(&self.gpu.queue);
                return Err(ExecuteError::Interrupted);
            }
            if looks_up && self.encoding.pending() >= SUBMIT_AFTER {
                self.encoding.submit(&self.gpu.queue);
            }
        }
        if looks_up && (self.keep_routing || step.logits == LogitRows::All) {
            self.read_all_routes(&step)?;
        }
        self.encoding.submit(&self.gpu.queue);
        if let Some(profile) = &mut self.profile {
            profile.step(start.elapsed());
            profile.collect(&self.gpu.device)?;
        }
        self.marks.clear();
        self.last = Some(step);
        self.check()
    }

    fn mark(&mut self, after_tokens: Vec<usize>) {
        self.marks = after_tokens;
    }

    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        self.marked_from_device()
    }

    fn profile(&mut self) -> bool {
        self.profile = Profile::new(&self.gpu.device, &self.gpu.queue);
        self.profile.is_some()
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.profile.as_ref().map(Profile::times).unwrap_or_default()
    }

    fn waited(&self) -> Duration {
        self.waits + self.routed_ids.waited() + self.values.waited()
    }

    fn round_trip(&mut self) -> Result<Option<Duration>, ExecuteError> {
        let buffer = self.resident.pairs().clone();
        let mut times = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            self.read_buffer(buffer.clone(), 0, 4)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(Some(times[times.len() / 2]))
    }

    fn profiled_steps(&self) -> ProfiledSteps {
        self.profile.as_ref().map(Profile::steps).unwrap_or_default()
    }

    fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        let found = bandwidth(&self.gpu);
        // it is an executor of its own while it measures
        keep_first_error(&self.gpu, &self.failed);
        found
    }

    fn finish(&mut self) -> Result<(), ExecuteError> {
        let submission = self.encoding.submit(&self.gpu.queue);
        wait(&self.gpu.device, &submission.index)?;
        self.check()
    }

    fn dump(&mut self, patterns: Vec<String>) {
        self.patterns = patterns;
    }

    fn take_dumps(&mut self) -> Vec<(String, usize, Vec<f32>)> {
        std::mem::take(&mut self.dumps)
    }

    fn logits(&mut self) -> Result<Vec<f32>, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let rows = step.logit_rows().1;
        let values = self.read_buffer(self.resident.tensor(view.tensor).clone(), 0, rows * view.stride)?;
        Ok(values.chunks_exact(view.stride).flat_map(|r| r[..view.width].to_vec()).collect())
    }

    fn top_logits(&mut self, top_k: usize, vocab: usize) -> Result<TopLogits, ExecuteError> {
        let (Some(view), Some(step), Some(stages)) = (self.recording.logits, self.last, &self.top_k) else {
            return Ok(Vec::new());
        };
        let last = step.logit_rows().1.saturating_sub(1);
        let vocab = vocab.min(view.width);
        let top_k = top_k.min(vocab).min(LogitsTopK::MOST);
        let (dispatches, scratch) = LogitsTopK { top_k, vocab, offset: last * view.stride }.dispatches();
        self.encoding.dispatch(&self.gpu.device, None, stages, &dispatches);
        let values = self.read_buffer(self.resident.scratch(scratch).clone(), 0, 2 * top_k)?;
        let top = values.chunks_exact(2).map(|pair| (pair[1].to_bits(), pair[0]));
        // the kernel leaves no id where there are fewer numbers
        let top: TopLogits = top.filter(|(id, _)| (*id as usize) < vocab).collect();
        if top.is_empty() { Err(ExecuteError::NotANumber) } else { Ok(top) }
    }

    fn keep_routing(&mut self) {
        self.keep_routing = true;
    }

    fn routing(&self) -> &[Vec<u32>] {
        &self.routing
    }

    fn read_state(&mut self, tensor: TensorId) -> Result<Vec<f32>, ExecuteError> {
        Ok(self.states_from_device(&[tensor])?.remove(0))
    }

    fn read_states(&mut self, tensors: &[TensorId]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        self.states_from_device(tensors)
    }

    fn write_state(&mut self, tensor: TensorId, values: &[f32]) -> Result<(), ExecuteError> {
        self.last = None;
        self.state_to_device(tensor, values)
    }

    fn read_kv_rows(&mut self, kv: KvId, positions: Range<usize>) -> Result<(Vec<f32>, Vec<f32>), ExecuteError> {
        self.kv_from_device(kv, positions)
    }

    fn write_kv_rows(&mut self, kv: KvId, first: usize, keys: &[f32], values: &[f32]) -> Result<(), ExecuteError> {
        self.kv_to_device(kv, first, keys, values)
    }

    fn expert_store(&mut self) -> Option<&mut ExpertStore> {
        self.store.as_mut().map(|(store, _)| store)
    }

    fn expert_stats(&self) -> StoreStats {
        self.store.as_ref().map(|(store, _)| store.stats()).unwrap_or_default()
    }

    fn reset_expert_stats(&mut self) {
        if let Some((store, _)) = &mut self.store {
            store.reset_stats();
        }
    }
}
