use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flashflood_backends::gpu::Gpu;
use flashflood_backends::gpu::chain::Chain;

use super::autotune::{Subject, Teams};
use super::encoding::{Encoding, Submission};
use super::experts::ChoiceOnTheWay;
use super::pipelines::Pipelines;
use super::prepared::Prepared;
use super::profile::{Profile, bandwidth};
use super::readback::{Readback, wait};
use super::ready::{Maker, Ready};
use super::resident::{Resident, most_chosen};
use super::slots::{GpuSlots, Landing};
use crate::compute::device::{Choice, Device, ExpertLayer, LandedExpert};
use crate::compute::kernel::{Dispatch, Kernel};
use crate::compute::ops::{ExpertDown, LogitsTopK};
use crate::compute::recording::{CacheId, Recording, TensorId, View};
use crate::compute::run::Runner;
use crate::compute::step::{ExecuteError, HostWork, KernelTime, LogitsSummary, ProfiledSteps, Span, Step, TopLogits};
use crate::experts::SlotMemory;
/// With all experts resident a step needs one submission. The GPU starts sooner with several: recorded by wgpu, a token of
/// the 35B shape takes 4.5 ms on an H200 in one, 3.9 ms in submissions of 50 or 100 dispatches, and 4.0 ms in some of 25.
const SUBMIT_AFTER: usize = 64;

/// A chain records faster than a GPU computes, so that only the first submission is small: each may be so many times as
/// large as the one before. Eight submissions of a token of the 35B shape become four.
const SUBMIT_GROWTH: usize = 2;

/// How a recording is made ready for a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpuOptions {
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
    /// Whether matrix units multiply prompts, where not as the device would choose: for tests.
    pub cooperative: Option<bool>,
    /// Positions from which on a token's attention is that of a prompt's tiles, where not the device's: for tests.
    pub deep_attention: Option<usize>,
    /// Whether dispatches are recorded below wgpu's validation, where the graphics API can and checks are off: for tests.
    pub chain: bool,
    /// Dispatches of the first submission of a step that waits for nothing.
    pub submit_after: usize,
    /// Whether tokens are recorded while the ones before them are computed, where they wait for nothing: for tests.
    pub prepare: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            checks: false,
            binding: u64::MAX,
            landing: None,
            threads: u32::MAX,
            teams: Teams::BuiltIn,
            cooperative: None,
            deep_attention: None,
            chain: true,
            submit_after: SUBMIT_AFTER,
            prepare: true,
        }
    }
}

impl GpuOptions {
    /// The largest binding to use on a device, less than 2 GiB.
    pub(crate) fn binding_on(&self, gpu: &Gpu) -> u64 {
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
pub(crate) type GpuExecutor = Runner<GpuDevice>;

/// A GPU with everything that a recording touches in its memory.
pub(crate) struct GpuDevice {
    pub(super) gpu: Gpu,
    pub(super) recording: Arc<Recording>,
    pub(super) resident: Resident,
    pub(super) ready: Ready,
    /// The same for wgpu's passes, which profiles need, once there was one.
    pub(super) timed: Option<Ready>,
    pub(super) slots: Option<Arc<GpuSlots>>,
    /// What [`keep_up`](Device::keep_up) submitted last, and was not waited for.
    ahead: Option<Submission>,
    pub(super) choices: Readback,
    pub(super) choice: Option<ChoiceOnTheWay>,
    pub(super) values: Readback,
    /// The next token, as far as it is known: dropped before the chain that its commands belong to.
    pub(super) prepared: Option<Prepared>,
    pub(super) encoding: Encoding,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) profile: Option<Profile>,
    /// Time that was waited for work whose results the host does not read.
    pub(super) waits: Duration,
    /// Dispatches of the first submission of a step, and of the next one.
    pub(super) submit_after: [usize; 2],
    /// Whether the next token may be prepared.
    prepares: bool,
    /// When the step began.
    pub(super) started: Instant,
    /// What the host has waited since then, for the device and for reads.
    pub(super) step_waits: Duration,
    /// Time of all submissions until then.
    step_submits: Duration,
    /// Copies of the state, one for each mark of the step.
    pub(super) marked: Vec<Readback>,
    failed: Arc<Mutex<Option<String>>>,
}

impl Runner<GpuDevice> {
    /// Uploads weights, allocates tensors and caches for `context` positions, and makes all pipelines and bind groups.
    /// Experts are computed in `slots`; a recording without routed experts needs none.
    ///
    /// # Errors
    /// What the device refuses.
    pub(crate) fn new(
        gpu: Gpu,
        recording: Arc<Recording>,
        context: usize,
        slots: Option<Arc<GpuSlots>>,
        options: GpuOptions,
    ) -> Result<Self, ExecuteError> {
        let device = GpuDevice::new(gpu, recording.clone(), context, slots, options)?;
        Ok(Runner::of(recording, context, device))
    }

    /// Writes a tensor, rows of its stride: for tests of kernels.
    pub(crate) fn write(&mut self, tensor: TensorId, values: &[f32]) {
        self.device.write_rows(tensor, values);
    }

    /// Reads a tensor, rows of its stride: for tests of kernels.
    pub(crate) fn read(&mut self, tensor: TensorId) -> Result<Vec<f32>, ExecuteError> {
        let elements = self.recording.elements(tensor);
        self.device.read_buffer(self.device.resident.tensor(tensor).clone(), elements)
    }
}

impl GpuDevice {
    fn new(
        gpu: Gpu,
        recording: Arc<Recording>,
        context: usize,
        slots: Option<Arc<GpuSlots>>,
        options: GpuOptions,
    ) -> Result<Self, ExecuteError> {
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        keep_first_error(&gpu, &failed);
        let scratch2 = recording.logits.map_or(16, |l| LogitsTopK::scratch_entries(l.width) * 8) as u64;
        let table = slots.as_ref().map_or(0, |slots| slots.slots());
        let mut resident =
            Resident::new(&gpu.device, &gpu.queue, &recording, context, options.limits_on(&gpu), scratch2, table)?;
        super::cooperative::decide(&mut resident, &gpu, &recording, context, &options);
        if let (Some(slots), true) = (&slots, ExpertDown::fits(&gpu.limits)) {
            resident.expert_slabs = slots.single_slabs(&recording);
        }
        let mut pipelines = Pipelines::new(&gpu.device, options.checks);
        let subject = Subject { gpu: &gpu, recording: &recording, slots: slots.as_deref() };
        subject.choose(options.teams, &mut pipelines, &mut resident);
        let mut chain = if options.chain && !options.checks { chain(&gpu) } else { None };
        let mut maker = Maker {
            pipelines: &mut pipelines,
            chain: chain.as_mut(),
            recording: &recording,
            resident: &resident,
            slots: slots.as_deref(),
        };
        let ready = match maker.all() {
            Ok(ready) => ready,
            Err(e) => {
                // it says what is wrong with a kernel, where there is something
                tracing::warn!("dispatches are recorded by wgpu: {e}");
                maker.chain = None;
                let ready = maker.all().map_err(|e| ExecuteError::Gpu(e.to_string()))?;
                chain = None;
                ready
            }
        };
        // a choice and the guess at the next
        let ids = recording.max_tokens * most_chosen(&recording).next_multiple_of(4) * 4 * 2;
        let device = GpuDevice {
            choices: Readback::new(&gpu.device, ids as u64),
            choice: None,
            ahead: None,
            values: Readback::new(&gpu.device, 4096),
            gpu,
            recording,
            resident,
            ready,
            timed: None,
            slots,
            profile: None,
            waits: Duration::ZERO,
            submit_after: [options.submit_after; 2],
            prepares: options.prepare,
            prepared: None,
            started: Instant::now(),
            step_waits: Duration::ZERO,
            step_submits: Duration::ZERO,
            encoding: Encoding::new(chain),
            dispatches: Vec::new(),
            marked: Vec::new(),
            failed,
        };
        device.check()?;
        Ok(device)
    }

    /// The first error that wgpu has reported.
    pub(super) fn check(&self) -> Result<(), ExecuteError> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(ExecuteError::Gpu(error.clone())),
            None => Ok(()),
        }
    }

    /// Encodes `self.dispatches` with the stages of operation `index`.
    pub(super) fn encode(&mut self, index: usize) {
        let ready = self.profile.as_ref().and(self.timed.as_ref()).unwrap_or(&self.ready);
        self.encoding.dispatch(&self.gpu.device, self.profile.as_mut(), &ready.steps[index], &self.dispatches);
    }

    /// Where nothing is waited for, the GPU starts on what there is.
    pub(super) fn submit_often(&mut self) {
        if self.encoding.pending() >= self.submit_after[1] && self.looks_up() {
            self.encoding.submit(&self.gpu.queue);
            if self.encoding.chain.is_some() {
                self.submit_after[1] = self.submit_after[1].saturating_mul(SUBMIT_GROWTH);
            }
        }
    }

    /// Makes what profiles need, where it is not there yet.
    fn ready_for_profile(&mut self) -> Result<(), ExecuteError> {
        if self.encoding.chain.is_none() || self.timed.is_some() {
            return Ok(());
        }
        let mut maker = Maker {
            // where there is a chain, there are no checks
            pipelines: &mut Pipelines::new(&self.gpu.device, false),
            chain: None,
            recording: &self.recording,
            resident: &self.resident,
            slots: self.slots.as_deref(),
        };
        self.timed = Some(maker.all().map_err(|e| ExecuteError::Gpu(e.to_string()))?);
        Ok(())
    }
}

/// What records below wgpu's validation, where it can be.
fn chain(gpu: &Gpu) -> Option<Chain> {
    Chain::new(gpu).inspect_err(|e| tracing::debug!("{e}")).ok()
}

/// Keeps the first error of a device in `failed`.
fn keep_first_error(gpu: &Gpu, failed: &Arc<Mutex<Option<String>>>) {
    let failed = failed.clone();
    gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        // the first error is the cause of those that follow
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
    }));
}

impl Device for GpuDevice {
    fn name(&self) -> String {
        format!("{} ({:?})", self.gpu.info.name, self.gpu.info.backend)
    }

    fn reach(&mut self, positions: usize) -> Result<(), ExecuteError> {
        match self.resident.reach(&self.recording, positions) {
            Some(before) => self.follow_windows(&before),
            None => Ok(()),
        }
    }

    fn begin(&mut self, embedded: &[f32], rope: &[f32], marks: usize) {
        (self.started, self.step_waits, self.step_submits) =
            (Instant::now(), Duration::ZERO, self.encoding.work().submit);
        self.submit_after[1] = self.submit_after[0];
        self.make_room_for_marks(marks);
        if let Some(input) = self.recording.input {
            self.write_rows(input.tensor, embedded);
        }
        self.gpu.queue.write_buffer(self.resident.rope(), 0, bytemuck::cast_slice(rope));
    }

    fn run_kernel(&mut self, index: usize, kernel: &dyn Kernel, step: &Step, part: Option<Range<usize>>) {
        self.dispatches.clear();
        match part {
            Some(part) => kernel.dispatch_part(&self.resident, step, part, &mut self.dispatches),
            None => kernel.dispatch(&self.resident, step, &mut self.dispatches),
        }
        self.encode(index);
        self.submit_often();
    }

    fn keep_state(&mut self, mark: usize, tensors: &[TensorId]) {
        self.copy_state(mark, tensors);
    }

    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        self.marked_from_device()
    }

    fn write_all_outputs(&mut self, all: bool) {
        self.resident.writes_all = all;
    }

    fn looks_up(&self) -> bool {
        self.resident.all_resident
    }

    fn begin_preparing(&mut self) -> bool {
        self.prepares && self.begin_recording_ahead()
    }

    fn end_preparing(&mut self, step: Step) {
        self.end_recording_ahead(step);
    }

    fn run_prepared(&mut self, step: &Step) -> bool {
        self.take_recorded(step)
    }

    fn begin_choice(&mut self, ids: View, guess: Option<View>, step: &Step) {
        self.choice = Some(self.submit_choice(ids, guess, step));
    }

    fn finish_choice(&mut self) -> Result<Choice, ExecuteError> {
        self.choice.take().map_or_else(|| Ok(Choice::default()), |choice| self.read_choice(&choice))
    }

    fn look_up_experts(&mut self, layer: &ExpertLayer<'_>) {
        self.encode_all_experts(layer);
        self.submit_often();
    }

    fn run_experts(
        &mut self,
        layer: &ExpertLayer<'_>,
        experts: &[LandedExpert<'_>],
        first_pair: usize,
        more: bool,
    ) -> Result<(), ExecuteError> {
        // one that was in its slot may have landed beside it: read ahead, or for a step that failed
        self.copy_landed();
        self.follow_slabs(layer.index, layer.op)?;
        self.encode_experts(layer, experts, first_pair);
        if more { self.submit_landed() } else { Ok(()) }
    }

    fn free_slots(&mut self) -> Result<(), ExecuteError> {
        let submission = self.encoding.submit(&self.gpu.queue);
        self.wait(&submission)
    }

    fn keep_up(&mut self) -> Result<(), ExecuteError> {
        let now = self.encoding.submit(&self.gpu.queue);
        self.ahead.replace(now).map_or(Ok(()), |before| self.wait(&before))
    }

    fn end(&mut self) -> Result<(), ExecuteError> {
        self.encoding.submit(&self.gpu.queue);
        let without_waits = self.started.elapsed().saturating_sub(self.step_waits);
        self.encoding.encoded(without_waits.saturating_sub(self.encoding.work().submit - self.step_submits));
        if let Some(profile) = &mut self.profile {
            profile.step(without_waits);
            profile.collect(&self.gpu.device, &mut self.encoding.spans)?;
        }
        self.encoding.spans.host("step", self.started);
        self.check()
    }

    fn abandon(&mut self) {
        self.encoding.submit(&self.gpu.queue);
    }

    fn read_rows(&mut self, tensors: &[(TensorId, usize)]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        self.rows_from_device(tensors)
    }

    fn write_rows(&mut self, tensor: TensorId, values: &[f32]) {
        self.gpu.queue.write_buffer(self.resident.tensor(tensor), 0, bytemuck::cast_slice(values));
    }

    fn zero(&mut self, tensors: &[TensorId]) -> Result<(), ExecuteError> {
        let encoder = self.encoding.encoder(&self.gpu.device);
        for &tensor in tensors {
            encoder.clear_buffer(self.resident.tensor(tensor), 0, None);
        }
        self.encoding.submit(&self.gpu.queue);
        self.check()
    }

    fn read_cache_rows(
        &mut self,
        cache: CacheId,
        stream: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ExecuteError> {
        self.cache_rows_from_device(cache, stream, positions)
    }

    fn write_cache_rows(&mut self, cache: CacheId, stream: usize, first: usize, rows: &[u8]) {
        self.cache_rows_to_device(cache, stream, first, rows);
    }

    fn top_logits(&mut self, _: TensorId, op: LogitsTopK) -> Result<TopLogits, ExecuteError> {
        Ok(self.summary_of_device(op)?.top)
    }

    fn summarise(&mut self, _: TensorId, op: LogitsTopK) -> Result<Option<LogitsSummary>, ExecuteError> {
        self.summary_of_device(op).map(Some)
    }

    fn read_elements(&mut self, tensor: TensorId, elements: Range<usize>) -> Result<Vec<f32>, ExecuteError> {
        let buffer = self.resident.tensor(tensor).clone();
        self.read_some(&[(&buffer, elements.start, elements.len())])
    }

    fn finish(&mut self) -> Result<(), ExecuteError> {
        let submission = self.encoding.submit(&self.gpu.queue);
        wait(&self.gpu.device, &submission.index)?;
        self.check()
    }

    fn has_waited(&mut self, from: Instant) {
        self.step_waits += from.elapsed();
        self.encoding.spans.host("wait for reads", from);
    }

    fn profile(&mut self) -> bool {
        self.profile = Profile::new(&self.gpu.device, &self.gpu.queue);
        // an error of wgpu shows itself at the next step
        self.profile.is_some() && self.ready_for_profile().is_ok()
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.profile.as_ref().map(Profile::times).unwrap_or_default()
    }

    fn profiled_steps(&self) -> ProfiledSteps {
        self.profile.as_ref().map(Profile::steps).unwrap_or_default()
    }

    fn keep_spans(&mut self) {
        self.encoding.spans.keep();
    }

    fn take_spans(&mut self) -> Vec<Span> {
        self.encoding.spans.take()
    }

    fn host_work(&self) -> HostWork {
        self.encoding.work()
    }

    fn waited(&self) -> Duration {
        self.waits + self.choices.waited() + self.values.waited()
    }

    fn round_trip(&mut self) -> Result<Option<Duration>, ExecuteError> {
        let buffer = self.resident.pairs().clone();
        let mut times = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            self.read_buffer(buffer.clone(), 4)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(Some(times[times.len() / 2]))
    }

    fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        let found = bandwidth(&self.gpu);
        // it is a device of its own while it measures
        keep_first_error(&self.gpu, &self.failed);
        found
    }
}
