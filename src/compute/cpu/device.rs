use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use flashflood_vectors::Instructions;

use crate::compute::device::{Choice, Device, ExpertLayer, LandedExpert};
use crate::compute::kernel::Kernel;
use crate::compute::ops::{LogitsTopK, Pair};
use crate::compute::recording::{CacheId, Recording, TensorId, View};
use crate::compute::run::{Runner, without_padding};
use crate::compute::step::{ExecuteError, KernelTime, ProfiledSteps, Step, TopLogits};
use crate::experts::HostSlots;

use super::memory::{CpuMemory, row};
use super::profile::{self, Profile};

/// Runs a recording on the CPU.
pub(crate) type CpuExecutor = Runner<CpuDevice>;

/// The processor, with the CPU twin of each kernel.
pub(crate) struct CpuDevice {
    recording: Arc<Recording>,
    memory: CpuMemory,
    slots: Option<Arc<HostSlots>>,
    /// What the last router chose.
    choice: Choice,
    /// The state at each mark of the step.
    marked: Vec<Vec<Vec<f32>>>,
    profile: Option<Profile>,
}

impl Runner<CpuDevice> {
    /// Allocates tensors and caches for `context` positions. Experts are computed in `slots`; a recording without routed
    /// experts needs none.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub(crate) fn try_new(
        recording: Arc<Recording>,
        context: usize,
        slots: Option<Arc<HostSlots>>,
    ) -> Result<Self, ExecuteError> {
        let device = CpuDevice {
            memory: CpuMemory::new(&recording, context)?,
            recording: recording.clone(),
            slots,
            choice: Choice::default(),
            marked: Vec::new(),
            profile: None,
        };
        Ok(Runner::of(recording, context, device))
    }

    /// The same for recordings that are known to be small.
    pub(crate) fn new(recording: Arc<Recording>, context: usize, slots: Option<Arc<HostSlots>>) -> Self {
        Self::try_new(recording, context, slots).expect("there is memory for a small recording")
    }

    /// Writes a tensor, rows of its stride: for tests of kernels.
    pub(crate) fn write(&mut self, tensor: TensorId, values: &[f32]) {
        self.device.memory.write(tensor, values);
    }

    /// Reads a tensor, rows of its stride: for tests of kernels.
    pub(crate) fn read(&self, tensor: TensorId) -> &[f32] {
        self.device.memory.tensor(tensor)
    }
}

impl CpuDevice {
    fn ids_of(&self, ids: View, tokens: usize) -> Vec<u32> {
        let tensor = self.memory.tensor(ids.tensor);
        (0..tokens).flat_map(|token| row(tensor, ids, token)).map(|id| id.to_bits()).collect()
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        format!("CPU ({} threads, {})", rayon::current_num_threads(), Instructions::best())
    }

    fn is_on_pool(&self) -> bool {
        true
    }

    fn begin(&mut self, embedded: &[f32], rope: &[f32], marks: usize) {
        if let Some(profile) = &mut self.profile {
            profile.begin();
        }
        self.memory.set_rope(rope);
        if let Some(input) = self.recording.input {
            self.memory.write(input.tensor, embedded);
        }
        self.marked = vec![vec![Vec::new(); self.recording.state.len()]; marks];
    }

    fn run_kernel(&mut self, _: usize, kernel: &dyn Kernel, step: &Step, part: Option<Range<usize>>) {
        let since = Instant::now();
        match part {
            Some(part) => kernel.run_part_on_cpu(&mut self.memory, step, part),
            None => kernel.run_on_cpu(&mut self.memory, step),
        }
        if let Some(profile) = &mut self.profile {
            profile.add(kernel.name(), since, kernel.weight_bytes(&self.recording, step));
        }
    }

    fn keep_state(&mut self, mark: usize, tensors: &[TensorId]) {
        for &tensor in tensors {
            let rows = self.memory.tensor(tensor).to_vec();
            let state = without_padding(self.recording.spec(tensor), rows);
            self.marked[mark][self.recording.state_index(tensor)] = state;
        }
    }

    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        Ok(std::mem::take(&mut self.marked))
    }

    fn begin_choice(&mut self, ids: View, guess: Option<View>, step: &Step) {
        let guess = guess.map_or_else(Vec::new, |guess| self.ids_of(guess, step.tokens));
        self.choice = Choice { ids: self.ids_of(ids, step.tokens), guess };
    }

    fn finish_choice(&mut self) -> Result<Choice, ExecuteError> {
        Ok(std::mem::take(&mut self.choice))
    }

    fn run_experts(
        &mut self,
        layer: &ExpertLayer<'_>,
        experts: &[LandedExpert<'_>],
        _: usize,
        _: bool,
    ) -> Result<(), ExecuteError> {
        let Some(slots) = &self.slots else { return Ok(()) };
        let since = Instant::now();
        let held: Vec<_> = experts.iter().map(|expert| (expert.pairs, slots.read(expert.slot))).collect();
        let experts: Vec<(&[Pair], &[u8])> = held.iter().map(|(pairs, bytes)| (*pairs, &**bytes)).collect();
        layer.op.run_on_cpu(&mut self.memory, &experts, layer.step);
        if let Some(profile) = self.profile.as_mut().filter(|_| !experts.is_empty()) {
            let slot = &layer.op.slot;
            let each = slot.gate.bytes() + slot.up.bytes() + slot.down.bytes();
            profile.add("experts", since, (experts.len() * each) as u64);
        }
        Ok(())
    }

    fn read_rows(&mut self, tensors: &[(TensorId, usize)]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        let rows = |&(tensor, rows): &(TensorId, usize)| {
            self.memory.tensor(tensor)[..rows * self.recording.spec(tensor).stride].to_vec()
        };
        Ok(tensors.iter().map(rows).collect())
    }

    fn write_rows(&mut self, tensor: TensorId, values: &[f32]) {
        self.memory.write(tensor, values);
    }

    fn zero(&mut self, tensors: &[TensorId]) -> Result<(), ExecuteError> {
        for &tensor in tensors {
            let mut values = self.memory.take(tensor);
            values.fill(0.0);
            self.memory.put_back(tensor, values);
        }
        Ok(())
    }

    fn read_cache_rows(
        &mut self,
        cache: CacheId,
        stream: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ExecuteError> {
        let row = self.recording.caches[cache.0].streams[stream].row_bytes();
        let bytes = self.memory.cache(cache).bytes(stream);
        Ok(bytes[positions.start * row..positions.end * row].to_vec())
    }

    fn write_cache_rows(&mut self, cache: CacheId, stream: usize, first: usize, rows: &[u8]) {
        let row = self.recording.caches[cache.0].streams[stream].row_bytes();
        let mut taken = self.memory.take_cache(cache);
        taken.bytes_mut(stream)[first * row..][..rows.len()].copy_from_slice(rows);
        self.memory.put_back_cache(cache, taken);
    }

    fn top_logits(&mut self, logits: TensorId, op: LogitsTopK) -> Result<TopLogits, ExecuteError> {
        Ok(op.on_cpu(self.memory.tensor(logits)))
    }

    fn end(&mut self) -> Result<(), ExecuteError> {
        if let Some(profile) = &mut self.profile {
            profile.end();
        }
        Ok(())
    }

    fn has_waited(&mut self, from: Instant) {
        if let Some(profile) = &mut self.profile {
            profile.has_waited(from);
        }
    }

    fn profile(&mut self) -> bool {
        self.profile = Some(Profile::new());
        true
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.profile.as_ref().map(Profile::times).unwrap_or_default()
    }

    fn profiled_steps(&self) -> ProfiledSteps {
        self.profile.as_ref().map(Profile::steps).unwrap_or_default()
    }

    fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        Ok(Some(profile::bandwidth()))
    }
}
