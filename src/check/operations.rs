//! One operation after the other on both devices, from the same inputs.
//!
//! The CPU goes first and is right by definition: after each operation what the GPU has made is compared and then
//! overwritten with the CPU's, so that an error shows where it is made and nowhere else.

mod bounds;
mod expert_down;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compare::{self, Apart, Bound};
use super::grouping;
use super::report::{KernelRow, TimedBy};
use super::subject::{FEW_TOKENS, FOR_TILES, HISTORY, Random, Subject, TOKENS};
use super::{CheckError, CheckOptions, Watch};
use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{Gpu, GpuExecutor, GpuOptions, GpuSlots, Landing, OperationTime, Written};
use crate::compute::{
    CacheId, Element, ExecuteError, LogitRows, Op, Phase, Recorded, Recording, Step, TensorId, TensorSpec, View,
};
use crate::experts::{ExpertStore, FileReader, HostSlots, SlotMemory, SlotSets, StoreError};
use crate::model::Shape;

/// Threads that copy experts into their slots.
const READ_THREADS: usize = 2;
/// Candidates that are compared of the last logits.
const TOP: usize = 20;
/// By how much the largest value is changed where a check checks itself.
const DISTURBED: f32 = 1.02;

/// A subject on both devices.
pub(super) struct Pair<'a> {
    subject: &'a Subject,
    recording: Arc<Recording>,
    cpu: CpuExecutor,
    gpu: GpuExecutor,
    /// Of the experts on each device.
    cpu_store: ExpertStore,
    gpu_store: ExpertStore,
    times: Times,
    random: Random,
}

/// How operations are timed.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// How often an operation runs.
    pub(super) runs: u32,
    /// By the host, whatever the device can.
    pub(super) by_host: bool,
}

/// An operation that is compared.
struct Operation<'a> {
    index: usize,
    recorded: &'a Recorded,
    step: Step,
    shaders: Vec<&'static str>,
}

impl<'a> Pair<'a> {
    /// Makes `subject` ready on both devices, state and caches filled.
    pub(super) fn new(subject: &'a Subject, gpu: &Gpu, cooperative: bool, times: Times) -> Result<Self, ExecuteError> {
        Self::with_recording_of_gpu(subject, subject.recording.clone(), gpu, cooperative, times)
    }

    /// As [`new`](Self::new), where the GPU runs another recording with the same operations.
    fn with_recording_of_gpu(
        subject: &'a Subject,
        of_gpu: Arc<Recording>,
        gpu: &Gpu,
        cooperative: bool,
        times: Times,
    ) -> Result<Self, ExecuteError> {
        let recording = subject.recording.clone();
        let layout = &subject.experts;
        let context = HISTORY + TOKENS;
        let store = |memory: Arc<dyn SlotMemory>| -> Result<ExpertStore, StoreError> {
            let reader = Arc::new(FileReader::open(layout)?);
            ExpertStore::new(layout.clone(), memory, reader, READ_THREADS)
        };
        // one layer's at a time is all that is looked at
        let slots = layout.layers.iter().map(|layer| layer.experts).max().unwrap_or(0);
        let host = Arc::new(HostSlots::new(slots, layout.slot_bytes())?);
        let cpu_store = store(host.clone())?;
        let cpu = CpuExecutor::new(recording.clone(), context, Some(host));
        let options = GpuOptions { cooperative: (!cooperative).then_some(false), ..GpuOptions::default() };
        let sets = SlotSets::new(layout, slots);
        let binding = options.binding_on(gpu);
        // memory that the host fills is cut into slabs, and a kernel wants one
        let landing = gpu.is_unified().then_some(Landing::Copied);
        let memory = GpuSlots::new(gpu, sets, layout.slot_bytes(), layout.most_of_a_token(), binding, landing)?;
        let memory = Arc::new(memory);
        let gpu_store = store(memory.clone())?;
        let gpu = GpuExecutor::new(gpu.clone(), of_gpu, context, Some(memory), options)?;
        let random = Random::new(3);
        let mut pair = Pair { subject, recording, cpu, gpu, cpu_store, gpu_store, times, random };
        pair.fill()?;
        Ok(pair)
    }

    /// State and caches as after many tokens, and choices of experts; the same on both devices.
    fn fill(&mut self) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        for &tensor in &recording.state {
            let spec = recording.spec(tensor);
            let mut values = self.random.numbers(recording.elements(tensor) / spec.stride * spec.width);
            values.iter_mut().for_each(|v| *v *= 0.3);
            if let (true, Some(linear)) = (is_convolution(spec), self.subject.shape.as_ref().and_then(Shape::delta_net))
            {
                // value heads that share a key head have copies of its inputs
                let of_keys = values[..2 * linear.key_dim].to_vec();
                values.chunks_exact_mut(spec.width).for_each(|row| row[..of_keys.len()].copy_from_slice(&of_keys));
            }
            self.cpu.write_state(tensor, &values)?;
        }
        for (index, spec) in recording.caches.iter().enumerate() {
            for (index_of_stream, stream) in spec.streams.iter().enumerate() {
                let rows = stream.pack(&self.random.numbers(HISTORY * stream.width));
                self.cpu.write_cache_rows(CacheId(index), index_of_stream, 0, &rows)?;
                self.gpu.write_cache_rows(CacheId(index), index_of_stream, 0, &rows)?;
            }
        }
        for (&ids, layer) in self.subject.choices.iter().zip(&self.subject.experts.layers) {
            let spec = recording.spec(ids);
            let mut all = vec![0.0; recording.elements(ids)];
            for row in all.chunks_exact_mut(spec.stride) {
                let chosen = self.random.distinct(spec.width, layer.experts);
                row.iter_mut().zip(chosen).for_each(|(id, expert)| *id = f32::from_bits(expert));
            }
            self.cpu.write(ids, &all);
        }
        for tensor in (0..recording.tensors.len()).map(TensorId) {
            self.gpu.write(tensor, self.cpu.read(tensor));
        }
        Ok(())
    }

    /// Runs a token, a prompt and short ones, and adds a row for each kernel and shape. Products of few tokens have tiles of
    /// their own: their errors count in the row of the prompt.
    pub(super) fn compare(
        &mut self,
        options: &CheckOptions,
        watch: &mut Watch<'_>,
        rows: &mut KernelRows,
    ) -> Result<(), CheckError> {
        let with_experts = self.recording.steps.iter().any(|step| matches!(step, Recorded::Experts(_)));
        let of_tiles = if with_experts { &FOR_TILES[..] } else { &[] };
        let prompts = [TOKENS, FEW_TOKENS].into_iter().chain(of_tiles.iter().copied());
        let steps = std::iter::once((Phase::Decode, 1)).chain(prompts.map(|tokens| (Phase::Prefill, tokens)));
        for (phase, tokens) in steps {
            let step = Step { phase, tokens, position: HISTORY, logits: LogitRows::Last };
            self.compare_step(step, options, watch, rows)?;
        }
        Ok(())
    }

    fn compare_step(
        &mut self,
        step: Step,
        options: &CheckOptions,
        watch: &mut Watch<'_>,
        rows: &mut KernelRows,
    ) -> Result<(), CheckError> {
        let recording = self.recording.clone();
        let width = recording.input.map_or(0, |input| input.width);
        let embedded = self.random.numbers(step.tokens * width);
        let rope = match &self.subject.shape {
            Some(shape) => shape.rope_table(step.position, step.tokens),
            // any numbers will do
            None => self.random.numbers(step.tokens * rotary_dim(&recording)),
        };
        self.cpu.begin(step, &embedded, &rope)?;
        self.gpu.begin(step, &embedded, &rope)?;
        for (index, recorded) in recording.steps.iter().enumerate() {
            let shaders = self.gpu.shaders_of(index, &step);
            let wanted = shaders.iter().any(|shader| options.wants(shader));
            let before = self.stream_before(recorded, &step)?;
            if wanted {
                watch.at(&self.subject.name, shaders[0])?;
            }
            self.cpu.run_operation(index, &step, Some(&mut self.cpu_store))?;
            let written = self.gpu.written_by(index);
            if wanted {
                let operation = Operation { index, recorded, step, shaders };
                self.compare_operation(&operation, &written, options, rows)?;
            }
            if let Some(before) = before {
                let operation = Operation { index, recorded, step, shaders: Vec::new() };
                self.compare_with_down(operation, &before, &written, options, watch, rows)?;
            }
            self.take_over(&written, step)?;
            if let (Phase::Prefill, Recorded::Kernel { kernel: Op::RouterTopK(op), .. }) = (step.phase, recorded)
                && grouping::KERNELS.iter().any(|kernel| options.wants(kernel))
            {
                watch.at(&self.subject.name, grouping::KERNELS[0])?;
                let ids = self.cpu.read(op.ids.tensor).chunks_exact(op.ids.stride).take(step.tokens);
                let ids: Vec<u32> = ids.flat_map(|row| &row[..op.ids.width]).map(|id| id.to_bits()).collect();
                let both = grouping::compare(&mut self.gpu, (index, op), step, &ids)?;
                both.into_iter().filter(|row| options.wants(row.kernel)).for_each(|row| rows.add(row));
            }
        }
        if recording.logits.is_some() && options.wants("logits_top_k") {
            watch.at(&self.subject.name, "logits_top_k")?;
            rows.add(self.compare_top_logits(step)?);
        }
        Ok(())
    }

    fn compare_operation(
        &mut self,
        operation: &Operation<'_>,
        written: &Written,
        options: &CheckOptions,
        rows: &mut KernelRows,
    ) -> Result<(), CheckError> {
        let Operation { index, step, shaders, .. } = operation;
        self.gpu.set_routing(self.cpu.routing());
        self.gpu.run_operation(*index, step, Some(&mut self.gpu_store))?;
        let disturbed = options.disturb.as_ref().is_some_and(|name| shaders.iter().any(|s| s.contains(name.as_str())));
        let (apart, place) = self.apart(operation, written, disturbed)?;
        let times = match self.times.by_host {
            true => self.gpu.time_operation_by_host(*index, step, &mut self.gpu_store, self.times.runs)?,
            false => self.gpu.time_operation(*index, step, &mut self.gpu_store, self.times.runs)?,
        };
        for shader in shaders {
            rows.add(self.row(operation, shader, apart, &place, &times));
        }
        Ok(())
    }

    /// The worst of all that an operation may write, and where it is.
    fn apart(
        &mut self,
        operation: &Operation<'_>,
        written: &Written,
        disturbed: bool,
    ) -> Result<(Apart, String), CheckError> {
        let mut worst = (Apart::default(), String::new());
        let mut add = |apart: Apart, place: &str| {
            if worst.1.is_empty() || apart.share > worst.0.share {
                worst.1 = place.to_owned();
            }
            worst.0 = worst.0.and(apart);
        };
        let step = operation.step;
        let mut same_codes = true;
        for &cache in &written.caches {
            let positions = step.position + step.tokens;
            for (index, stream) in self.recording.caches[cache.0].streams.iter().enumerate() {
                let name = stream.name;
                let expected = self.cpu.read_cache_rows(cache, index, 0..positions)?;
                let found = self.gpu.read_cache_rows(cache, index, 0..positions)?;
                let bound = Bound::of_cache(stream.format, name == "values");
                let [expected, found] = [expected, found].map(|rows| stream.unpack(&rows));
                same_codes &= compare::numbers(Bound::SAME_CODES, expected.iter(), found.iter()).share <= 1.0;
                add(compare::numbers(bound, expected.iter(), found.iter()), name);
            }
        }
        for (n, &tensor) in written.tensors.iter().enumerate() {
            let mut found = self.gpu.read(tensor)?;
            if disturbed && n == 0 {
                disturb(&mut found, self.recording.spec(tensor).element);
            }
            let apart = self.apart_in(operation, tensor, &found, same_codes);
            add(apart, &self.recording.spec(tensor).label);
        }
        Ok(worst)
    }

    /// Compares one tensor: the columns and rows that the operation is to write within their bound, all others to the
    /// bit. Where a cache does not have the `same_codes`, what is made of it is farther apart.
    fn apart_in(&self, operation: &Operation<'_>, tensor: TensorId, found: &[f32], same_codes: bool) -> Apart {
        let Operation { recorded, step, .. } = operation;
        let (spec, expected) = (self.recording.spec(tensor), self.cpu.read(tensor));
        let (outputs, op, state) = match recorded {
            Recorded::Kernel { kernel, .. } => (kernel.outputs(), kernel.name(), kernel.state()),
            Recorded::Experts(op) => (op.outputs(), "experts", Vec::new()),
            Recorded::Route(_) | Recorded::LayerDone(_) => (Vec::new(), "", Vec::new()),
        };
        let whole = View { tensor, offset: 0, width: spec.width, stride: spec.stride, rows_per_token: 1 };
        let view = outputs.into_iter().find(|view| view.tensor == tensor).unwrap_or(whole);
        let rows = self.recording.rows(tensor, step);
        let elements = || {
            let columns = view.offset..view.offset + view.width;
            (0..rows * spec.stride).filter(move |i| columns.contains(&(i % spec.stride)))
        };
        let inside = if spec.element == Element::U32 {
            // ids, and what quantise and stream_read make, are equal to the bit
            // whether codes are the next ones is seen here, and needs no room in the scale
            let bound = match recorded {
                Recorded::Experts(op) => Some(
                    operation.or_on_matrix_units(Bound::experts(op.slot.gate.cols, false), Bound::COOPERATIVE_CHAIN),
                ),
                _ => self.bound(operation, op),
            };
            let of_rows = |compare: &dyn Fn(&[f32], &[f32]) -> Apart| {
                let rows = (0..rows).map(|r| r * spec.stride..r * spec.stride + spec.width);
                rows.map(|row| compare(&expected[row.clone()], &found[row])).fold(Apart::default(), Apart::and)
            };
            match (bound, recorded) {
                (_, Recorded::Kernel { kernel: Op::Attention(attention), .. }) if is_packed(spec) && !same_codes => {
                    let bound = operation.with_other_codes(attention.formats);
                    of_rows(&|expected, found| compare::packed_far(bound, spec.width, expected, found))
                }
                (Some(bound), _) if is_packed(spec) => {
                    of_rows(&|expected, found| compare::packed(bound, spec.width, expected, found))
                }
                _ => compare::numbers(Bound::EXACT, elements().map(|i| &expected[i]), elements().map(|i| &found[i])),
            }
        } else {
            // what a convolution keeps is copied; the other state is not
            let copied = state.contains(&tensor) && is_convolution(spec);
            let bound = match recorded {
                Recorded::Kernel { kernel: Op::Attention(attention), .. } if !same_codes => {
                    Some(operation.with_other_codes(attention.formats))
                }
                _ => self.bound(operation, op).filter(|_| !copied),
            };
            let bound = bound.unwrap_or(Bound::EXACT);
            compare::numbers(bound, elements().map(|i| &expected[i]), elements().map(|i| &found[i]))
        };
        let is_inside =
            |i: usize| i < rows * spec.stride && (view.offset..view.offset + view.width).contains(&(i % spec.stride));
        let others = (0..expected.len()).filter(|&i| !is_inside(i));
        let others = compare::numbers(Bound::EXACT, others.clone().map(|i| &expected[i]), others.map(|i| &found[i]));
        inside.and(others)
    }

    /// Gives the GPU what the CPU has made.
    fn take_over(&mut self, written: &Written, step: Step) -> Result<(), ExecuteError> {
        for &tensor in &written.tensors {
            self.gpu.write(tensor, self.cpu.read(tensor));
        }
        for &cache in &written.caches {
            for stream in 0..self.recording.caches[cache.0].streams.len() {
                let rows = self.cpu.read_cache_rows(cache, stream, step.position..step.position + step.tokens)?;
                self.gpu.write_cache_rows(cache, stream, step.position, &rows)?;
            }
        }
        Ok(())
    }

    fn compare_top_logits(&mut self, step: Step) -> Result<KernelRow, CheckError> {
        let vocab = self.recording.logits.map_or(0, |logits| logits.width);
        let (expected, found) = (self.cpu.top_logits(TOP, vocab)?, self.gpu.top_logits(TOP, vocab)?);
        let bits = |top: &[(u32, f32)]| top.iter().map(|(id, logit)| (*id, logit.to_bits())).collect::<Vec<_>>();
        let agrees = bits(&expected) == bits(&found);
        let apart = if agrees { Apart::default() } else { Apart { share: f32::INFINITY, most: f32::INFINITY } };
        Ok(KernelRow::new("logits_top_k", step, format!("{TOP} of {vocab}"), apart, "ids"))
    }

    fn row(
        &self,
        operation: &Operation<'_>,
        shader: &'static str,
        apart: Apart,
        place: &str,
        times: &OperationTime,
    ) -> KernelRow {
        let Operation { index, recorded, step, .. } = operation;
        let (mut shape, mut flops) = (String::new(), None);
        match recorded {
            Recorded::Kernel { kernel, .. } => {
                if let Some(out) = kernel.outputs().first() {
                    let spec = self.recording.spec(out.tensor);
                    shape = match is_packed(spec) {
                        true => format!("{} packed", compare::columns_of(out.width)),
                        false => out.width.to_string(),
                    };
                    if let Some(product) = self.gpu.products_of(*index).first() {
                        let rows = self.recording.rows(out.tensor, step);
                        shape = format!("{}x{}", out.width, product.cols);
                        flops = Some(2.0 * (rows * out.width * product.cols) as f64);
                    }
                }
            }
            Recorded::Experts(op) => {
                shape = op.hidden.cols().to_string();
                // none for SwiGLU by itself
                if let Some(place) = op.place_of(shader) {
                    let pairs = step.tokens * op.out.rows_per_token;
                    shape = format!("{}x{}", place.rows, place.cols);
                    flops = Some(2.0 * (pairs * place.rows * place.cols) as f64);
                }
            }
            Recorded::Route(_) | Recorded::LayerDone(_) => {}
        }
        let mut row = KernelRow::new(shader, *step, shape, apart, place);
        if step.phase == Phase::Prefill && step.tokens < TOKENS {
            row.tensor = format!("{place} of {} tokens", step.tokens);
        }
        let timed = times.kernels.iter().zip(&times.weight_bytes).find(|((kernel, _), _)| *kernel == shader);
        if let Some(((_, time), bytes)) = timed.filter(|((_, time), _)| !time.is_zero()) {
            let seconds = time.as_secs_f64();
            row.us = Some(seconds * 1e6);
            row.timed_by = Some(if times.by_device { TimedBy::Device } else { TimedBy::Host });
            match step.phase {
                Phase::Decode => row.gb_per_s = (*bytes > 0).then(|| *bytes as f64 / seconds / 1e9),
                // all of an op's products, where the host times them together
                Phase::Prefill => row.gflop_per_s = flops.map(|flops| flops / seconds / 1e9),
            }
        }
        row
    }
}

/// Elements of a token in the table of rotations.
fn rotary_dim(recording: &Recording) -> usize {
    let of = |recorded: &Recorded| match recorded {
        Recorded::Kernel { kernel: Op::Attention(attention), .. } => attention.rotary_dim,
        _ => 0,
    };
    recording.steps.iter().map(of).max().unwrap_or(0)
}

/// Whether a state tensor holds the last inputs of a convolution.
fn is_convolution(spec: &TensorSpec) -> bool {
    spec.label.ends_with(".conv")
}

/// Whether a tensor holds packed activations.
fn is_packed(spec: &TensorSpec) -> bool {
    spec.label.ends_with(".int8")
}

/// Changes the largest number, or a bit of the first word.
fn disturb(values: &mut [f32], element: Element) {
    let by_size = |a: &&mut f32, b: &&mut f32| a.abs().total_cmp(&b.abs());
    match element {
        Element::U32 => values.iter_mut().take(1).for_each(|v| *v = f32::from_bits(v.to_bits() ^ 0x40)),
        Element::F32 => values.iter_mut().max_by(by_size).into_iter().for_each(|v| *v *= DISTURBED),
    }
}

/// KernelRows by phase, kernel and shape: of operations of one shape the worst.
#[derive(Default)]
pub(super) struct KernelRows(BTreeMap<(bool, &'static str, String), KernelRow>);

impl KernelRows {
    fn add(&mut self, row: KernelRow) {
        let key = (row.tokens > 1, row.kernel, row.shape.clone());
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(row);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().join(row),
        }
    }

    /// Decode first, then by kernel and shape.
    pub(super) fn into_vec(self) -> Vec<KernelRow> {
        self.0.into_values().collect()
    }

    /// The kernels that there are rows for.
    pub(super) fn kernels(&self) -> impl Iterator<Item = &'static str> {
        self.0.values().map(|row| row.kernel)
    }
}

#[cfg(test)]
mod tests;
