//! A recording with random contents, run on the CPU, and on the GPU with and without wgpu's runtime checks in shaders.
//!
//! - The GPU agrees with the CPU within each tensor's tolerance; a tensor without one is equal to the bit: ids, and
//!   whatever the kernel has no business to write. Rows of tokens beyond the step's and the padding at the end of a row
//!   hold NaN, so reading them shows as much as writing them.
//! - Checks or not, the bits are the same.
//! - On both devices a token of a prompt has the same bits however the prompt is cut into steps: as drawn, or one by one;
//!   unless a kernel says that cuts matter to it, and then it is within the tolerances.
//! - Decode, one token after the other, agrees within the tolerances.

use std::sync::{Arc, OnceLock};

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{Adapters, Gpu, GpuExecutor, GpuOptions, GpuSlots, Landing, Teams, open};
use crate::compute::ops;
use crate::compute::{CacheId, LogitRows, MatrixId, Op, Phase, Recorded, Recording, Step, TensorId, VectorId, View};
use crate::experts::{ExpertStore, FileReader, HostSlots, SlotMemory, SlotSets};
use crate::weights::{ExpertLayout, Matrix, WeightFormat};
use flashflood_formats::CacheFormat;
use proptest::test_runner::TestCaseError;

use super::msl;
use super::random::Random;
use super::tolerance::{Tolerance, close, close_packed};

/// The device of all tests. There is no skipping: a machine without one cannot say that the kernels are right.
pub(crate) fn gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    let open = || match pollster::block_on(open(Adapters::Any)) {
        Ok(gpu) => gpu,
        Err(e) => panic!("{e}; the tests of kernels need a GPU or a software driver (Debian: mesa-vulkan-drivers)"),
    };
    GPU.get_or_init(open).clone()
}

/// Writes one row of a tensor.
pub(crate) type Fill = Box<dyn Fn(&mut Random, &mut [f32])>;

struct Tensor {
    view: View,
    fill: Fill,
    tolerance: Tolerance,
    /// Activations in a row, where they are packed in 8 bits.
    packed: Option<usize>,
}

/// The experts of a trial: the layers of the layout, in `slots` slots.
#[derive(Clone)]
pub(crate) struct Experts {
    pub(crate) layout: Arc<ExpertLayout>,
    pub(crate) slots: usize,
    pub(crate) top_k: usize,
}

/// A recording and what its tensors hold before each step.
pub(crate) struct Trial {
    recording: Arc<Recording>,
    pub(crate) random: Random,
    tensors: Vec<Tensor>,
    states: Vec<Tensor>,
    kv: Vec<CacheId>,
    kv_tolerance: Tolerance,
    /// Of keys and values, and of what is made of them, where a number lay between two codes and got either.
    other_codes: Option<(Tolerance, Tolerance)>,
    /// Whether to run with wgpu's runtime checks as well.
    pub(crate) with_checks: bool,
    pub(crate) binding: u64,
    pub(crate) threads: u32,
    pub(crate) teams: Teams,
    pub(crate) logits: LogitRows,
    pub(crate) rotary_dim: usize,
    pub(crate) experts: Option<Experts>,
    /// Whether all experts are in their slots before the first step on the GPU, for good.
    pub(crate) resident: bool,
    /// How experts get into slots on the GPU.
    pub(crate) landing: Option<Landing>,
    /// Positions from which on a token's attention is that of a prompt's tiles.
    pub(crate) deep_attention: Option<usize>,
    /// Whether Apple's matrix units make the products of prompts, where these are those of Metal.
    pub(crate) on_matrix_units: bool,
    /// Whether a token of a prompt has the same bits however the prompt is cut.
    pub(crate) same_however_cut: bool,
}

/// The phase of a step, by its number.
type PhaseOf<'a> = &'a dyn Fn(usize) -> Phase;

/// What a run left: whole tensors after every step, state after the last.
pub(crate) struct Outcome {
    steps: Vec<(usize, Vec<Vec<u32>>)>,
    states: Vec<Vec<u32>>,
    kv: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Trial {
    pub(crate) fn new(seed: u64, max_tokens: usize) -> Self {
        Trial {
            recording: Arc::new(Recording::new(max_tokens)),
            random: Random::new(seed),
            tensors: Vec::new(),
            states: Vec::new(),
            kv: Vec::new(),
            kv_tolerance: Tolerance::default(),
            other_codes: None,
            with_checks: true,
            binding: u64::MAX,
            threads: u32::MAX,
            teams: Teams::BuiltIn,
            logits: LogitRows::All,
            rotary_dim: 0,
            experts: None,
            resident: false,
            landing: None,
            deep_attention: None,
            on_matrix_units: false,
            same_however_cut: true,
        }
    }

    fn recording(&mut self) -> &mut Recording {
        Arc::get_mut(&mut self.recording).expect("executors are gone when a trial is changed")
    }

    /// A tensor with `rows` rows per token between -1 and 1.
    pub(crate) fn tensor(&mut self, rows: usize, width: usize) -> View {
        self.filled(rows, width, |random, row| row.fill_with(|| random.uniform(-1.0, 1.0)))
    }

    /// A tensor whose rows `fill` writes.
    pub(crate) fn filled(
        &mut self,
        rows: usize,
        width: usize,
        fill: impl Fn(&mut Random, &mut [f32]) + 'static,
    ) -> View {
        let label = format!("tensor {}", self.tensors.len());
        let view = self.recording().tensor(label, rows, width);
        self.tensors.push(Tensor { view, fill: Box::new(fill), tolerance: Tolerance::default(), packed: None });
        view
    }

    /// A tensor of ids, as the bits of what `fill` writes.
    pub(crate) fn ids(&mut self, width: usize, fill: impl Fn(&mut Random, &mut [f32]) + 'static) -> View {
        let label = format!("tensor {}", self.tensors.len());
        let view = self.recording().ids(label, width);
        self.tensors.push(Tensor { view, fill: Box::new(fill), tolerance: Tolerance::default(), packed: None });
        view
    }

    /// `x` in 8 bits, as products with weights of `format` take it; as it is where they take f32.
    pub(crate) fn quantised(&mut self, x: View, format: WeightFormat) -> ops::Input {
        let Some(interleave) = format.interleave() else { return x.into() };
        let out = self.recording().quantised(x, interleave).unwrap();
        if self.tensors.iter().all(|t| t.view.tensor != out.words.tensor) {
            self.packed(out);
        }
        out.into()
    }

    /// A tensor of packed activations that an operation makes on the way.
    pub(crate) fn inner(&mut self, rows: usize, cols: usize, format: WeightFormat) -> ops::Input {
        let Some(interleave) = format.interleave() else { return self.tensor(rows, cols).into() };
        let label = format!("tensor {}", self.tensors.len());
        let out = ops::Quantised::tensor(self.recording(), &label, rows, cols, interleave);
        self.packed(out);
        out.into()
    }

    fn packed(&mut self, out: ops::Quantised) {
        let fill = |random: &mut Random, row: &mut [f32]| row.fill_with(|| f32::from_bits(random.bits() as u32));
        let (tolerance, packed) = (Tolerance::default(), Some(out.cols));
        self.tensors.push(Tensor { view: out.words, fill: Box::new(fill), tolerance, packed });
    }

    /// Room for the sums of squares of what `norm` takes apart, which is whole groups.
    pub(crate) fn unscaled(&mut self, norm: &ops::RmsNorm) -> ops::Unscaled {
        ops::Unscaled::of(self.tensor(1, norm.out.width / 32), norm.eps)
    }

    /// Some columns of a wider tensor; the first is a multiple of `align`.
    pub(crate) fn columns(&mut self, width: usize, align: usize) -> View {
        let (before, after) = (align * self.random.below(4), self.random.below(5));
        self.tensor(1, before + width + after).columns(before, width)
    }

    /// State that is not zero at the start.
    pub(crate) fn state(&mut self, rows: usize, width: usize, largest: f32) -> View {
        self.filled_state(rows, width, move |random, row| row.fill_with(|| random.uniform(-largest, largest)))
    }

    /// State whose rows `fill` writes at the start.
    pub(crate) fn filled_state(
        &mut self,
        rows: usize,
        width: usize,
        fill: impl Fn(&mut Random, &mut [f32]) + 'static,
    ) -> View {
        let view = self.recording().state("state", rows, width);
        self.states.push(Tensor { view, fill: Box::new(fill), tolerance: Tolerance::default(), packed: None });
        view
    }

    pub(crate) fn kv_cache(&mut self, width: usize, formats: [CacheFormat; 2]) -> CacheId {
        let kv = self.recording().kv_cache("kv", width, formats);
        self.kv.push(kv);
        kv
    }

    pub(crate) fn vector(&mut self, len: usize, from: f32, to: f32) -> VectorId {
        let values = self.random.floats(len, from, to);
        self.this_vector(&values)
    }

    pub(crate) fn this_vector(&mut self, values: &[f32]) -> VectorId {
        self.recording().vector("vector", values)
    }

    pub(crate) fn matrix(&mut self, format: WeightFormat, rows: usize, cols: usize) -> MatrixId {
        let matrix = self.random.matrix(format, rows, cols);
        self.recording().matrix(matrix)
    }

    pub(crate) fn this_matrix(&mut self, matrix: Matrix) -> MatrixId {
        self.recording().matrix(matrix)
    }

    pub(crate) fn push(&mut self, kernel: impl Into<Op>) {
        let kernel = kernel.into();
        let name = kernel.name();
        self.recording().push(name, kernel).unwrap();
    }

    /// Routes by the ids that are there, and runs the experts.
    pub(crate) fn push_experts(&mut self, ids: View, op: ops::Experts) {
        op.check(&self.recording).unwrap();
        let route = Recorded::Route(ops::Route { layer: op.layer, ids, ahead: None });
        self.recording().steps.extend([route, Recorded::Experts(Box::new(op))]);
    }

    /// How far from its twin a kernel may be in a tensor that it writes.
    pub(crate) fn within(&mut self, view: View, atol: f32, rtol: f32) {
        let all = self.tensors.iter_mut().chain(&mut self.states);
        all.filter(|t| t.view.tensor == view.tensor).for_each(|t| t.tolerance = Tolerance { atol, rtol });
    }

    /// Takes what all tensors with a tolerance may be apart up to `atol`.
    pub(crate) fn loosen(&mut self, atol: f32) {
        let compared = self.tensors.iter_mut().filter(|tensor| tensor.tolerance.atol > 0.0);
        compared.for_each(|tensor| tensor.tolerance.atol = tensor.tolerance.atol.max(atol));
    }

    /// The same for keys and values of all caches.
    pub(crate) fn kv_within(&mut self, atol: f32, rtol: f32) {
        self.kv_tolerance = Tolerance { atol, rtol };
    }

    /// What lies between two codes of a cache may get either: then keys and values may be apart by `kv`, and what is made of
    /// them by `out`.
    pub(crate) fn other_codes_within(&mut self, kv: f32, out: f32) {
        self.other_codes = Some((Tolerance { atol: kv, rtol: 0.0 }, Tolerance { atol: out, rtol: 0.0 }));
    }

    /// Runs steps of so many tokens and compares all that the module says.
    pub(crate) fn check(&self, steps: &[usize]) -> Result<(), TestCaseError> {
        self.check_cut(steps, &vec![1; steps.iter().sum()])
    }

    /// The same, with the tokens cut in another way than one by one.
    pub(crate) fn check_cut(&self, steps: &[usize], other: &[usize]) -> Result<(), TestCaseError> {
        if let Some(phase) = msl::phase() {
            return self.check_msl(phase, steps);
        }
        // rows of logits are not rows of tokens
        let other = if self.logits == LogitRows::All { other } else { &[] };
        let singles = if other.is_empty() { vec![] } else { vec![1; steps.iter().sum()] };
        let runs = [(Phase::Prefill, steps), (Phase::Prefill, other), (Phase::Decode, &singles)];
        let [cpu, cpu_cut, cpu_decode] = self.on_cpu(runs);
        let [gpu, gpu_cut, gpu_decode] = self.on_gpu(false, runs);
        let fail = |what: &str, reason: String| TestCaseError::fail(format!("{what}: {reason}"));
        self.compare(&cpu, &gpu, false).map_err(|e| fail("GPU against CPU", e))?;
        if self.with_checks {
            let [checked] = self.on_gpu(true, [(Phase::Prefill, steps)]);
            self.compare(&gpu, &checked, true).map_err(|e| fail("without checks against with checks", e))?;
        }
        if !other.is_empty() {
            self.same_tokens(&cpu, &cpu_cut, true).map_err(|e| fail("CPU, cut otherwise", e))?;
            let cut = self.same_tokens(&gpu, &gpu_cut, self.same_however_cut);
            cut.map_err(|e| fail("GPU, cut otherwise", e))?;
            self.compare(&cpu_decode, &gpu_decode, false).map_err(|e| fail("decode on the GPU against CPU", e))?;
        }
        Ok(())
    }

    /// Prefill and decode as Apple's GPUs would compute them, within the tolerances: see [`msl`].
    fn check_msl(&self, phase: msl::Phase, steps: &[usize]) -> Result<(), TestCaseError> {
        // whole tensors go through files: of a long prompt only the last tokens are decoded
        let tokens: usize = steps.iter().sum();
        let prefilled = if tokens > 40 { tokens - 8 } else { 0 };
        let rest = prefilled % self.recording.max_tokens;
        let mut cut = vec![self.recording.max_tokens; prefilled / self.recording.max_tokens];
        cut.extend((rest > 0).then_some(rest));
        let prompts = cut.len();
        cut.extend(vec![1; tokens - prefilled]);
        let Some(case) = msl::Case::next(phase) else { return Ok(()) };
        let limits = (self.binding, self.threads);
        let mut device = case.device(self.recording.clone(), tokens, self.experts.clone(), limits);
        if self.resident {
            device.look_up();
        }
        device.deepen(self.deep_attention);
        if self.on_matrix_units {
            device.use_matrix_units();
        }
        let prefill = self.run(&mut device, |_| Phase::Prefill, steps);
        let phase_of = |step| if step < prompts { Phase::Prefill } else { Phase::Decode };
        let decode = self.run(&mut device, phase_of, &cut);
        if case.finish(device) {
            let [expected] = self.on_cpu([(Phase::Prefill, steps)]);
            let [expected_decode] = self.on_cpu_in([(&phase_of, &cut)]);
            let outcome = self.compare(&expected, &prefill, false).map_err(|e| format!("MSL against CPU: {e}"));
            let decoded = || self.compare(&expected_decode, &decode, false);
            let outcome = outcome.and_then(|()| decoded().map_err(|e| format!("decode in MSL against CPU: {e}")));
            return outcome.map_err(|e| {
                msl::failed();
                TestCaseError::fail(e)
            });
        }
        Ok(())
    }

    pub(crate) fn on_cpu<const N: usize>(&self, runs: [(Phase, &[usize]); N]) -> [Outcome; N] {
        let phases = runs.map(|(phase, _)| move |_| phase);
        self.on_cpu_in(std::array::from_fn(|run| (&phases[run] as PhaseOf<'_>, runs[run].1)))
    }

    /// The same, with the phase of each step.
    fn on_cpu_in<const N: usize>(&self, runs: [(PhaseOf<'_>, &[usize]); N]) -> [Outcome; N] {
        let memory = self
            .experts
            .as_ref()
            .map(|experts| Arc::new(HostSlots::new(experts.slots, experts.layout.slot_bytes()).unwrap()));
        let store = self.experts.as_ref().zip(memory.clone()).map(|(experts, memory)| experts.store(memory));
        let executor = CpuExecutor::new(self.recording.clone(), context(&runs.map(|(_, steps)| steps)), memory);
        let mut device = WithStore { executor, store };
        runs.map(|(phase, steps)| self.run(&mut device, phase, steps))
    }

    pub(crate) fn on_gpu<const N: usize>(&self, checks: bool, runs: [(Phase, &[usize]); N]) -> [Outcome; N] {
        let phases = runs.map(|(phase, _)| move |_| phase);
        self.on_gpu_in(checks, std::array::from_fn(|run| (&phases[run] as PhaseOf<'_>, runs[run].1)))
    }

    /// A prompt, then tokens of decode, on the GPU and on the CPU.
    pub(crate) fn same_behind_a_prompt(&self, prompt: usize, tokens: usize) -> Result<(), String> {
        let steps: Vec<usize> = std::iter::once(prompt).chain(vec![1; tokens]).collect();
        let phase = |step| if step == 0 { Phase::Prefill } else { Phase::Decode };
        let ([expected], [found]) =
            (self.on_cpu_in([(&phase, &steps)]), self.on_gpu_in(false, [(&phase as PhaseOf<'_>, &steps)]));
        self.compare(&expected, &found, false)
    }

    fn on_gpu_in<const N: usize>(&self, checks: bool, runs: [(PhaseOf<'_>, &[usize]); N]) -> [Outcome; N] {
        let gpu = gpu();
        let options = GpuOptions {
            checks,
            binding: self.binding,
            threads: self.threads,
            teams: self.teams,
            // the twin multiplies integers; matrix units round them to 16 bits, and are tested at every start
            cooperative: Some(false),
            deep_attention: self.deep_attention,
            landing: self.landing,
            ..GpuOptions::default()
        };
        let memory = self.experts.as_ref().map(|experts| {
            let (bytes, binding) = (experts.layout.slot_bytes(), options.binding_on(&gpu));
            let sets = SlotSets::new(&experts.layout, experts.slots);
            let memory = GpuSlots::new(&gpu, sets, bytes, experts.top_k, binding, options.landing).unwrap();
            Arc::new(memory)
        });
        let mut store = self.experts.as_ref().zip(memory.clone()).map(|(experts, memory)| experts.store(memory));
        let (recording, context) = (self.recording.clone(), context(&runs.map(|(_, steps)| steps)));
        let mut executor = GpuExecutor::new(gpu, recording, context, memory, options).unwrap();
        if let (true, Some(store)) = (self.resident, &mut store) {
            executor.make_resident(store).unwrap();
        }
        let mut device = WithStore { executor, store };
        runs.map(|(phase, steps)| self.run(&mut device, phase, steps))
    }

    /// Compares all teams that products may have, and what measuring chooses, with the built-in one.
    pub(crate) fn same_with_any_team(&mut self, tokens: usize) {
        let steps = vec![1; tokens];
        let [expected] = self.on_gpu(false, [(Phase::Decode, &steps)]);
        for teams in (1..5).map(Teams::Candidate).chain([Teams::Measured { kept: false }]) {
            self.teams = teams;
            let [found] = self.on_gpu(false, [(Phase::Decode, &steps)]);
            self.compare(&expected, &found, true).unwrap_or_else(|e| panic!("{teams:?}: {e}"));
        }
    }

    /// Runs steps of so many tokens, each of the phase that its index has.
    fn run(&self, device: &mut impl Device, phase: impl Fn(usize) -> Phase, steps: &[usize]) -> Outcome {
        device.reset();
        for (i, state) in self.states.iter().enumerate() {
            let mut values = vec![f32::NAN; self.recording.elements(state.view.tensor)];
            for (r, row) in values.chunks_exact_mut(state.view.stride).enumerate() {
                (state.fill)(
                    &mut self.random.keyed(1 << 60 | (i as u64) << 32 | r as u64),
                    &mut row[..state.view.width],
                );
            }
            device.write(state.view.tensor, &values);
        }
        let mut after = Vec::new();
        let mut position = 0;
        for (step, &tokens) in steps.iter().enumerate() {
            for (i, tensor) in self.tensors.iter().enumerate() {
                device.write(tensor.view.tensor, &self.contents(i, tensor, position, tokens));
            }
            let rope: Vec<f32> = (position..position + tokens).flat_map(|p| self.rope(p)).collect();
            let phase = phase(step);
            device.run(Step { phase, tokens, position, logits: self.logits }, &rope);
            after.push((tokens, self.tensors.iter().map(|t| bits(&device.read(t.view.tensor))).collect()));
            position += tokens;
        }
        let states = self.states.iter().map(|s| bits(&device.read(s.view.tensor))).collect();
        let kv = self.kv.iter().map(|&kv| {
            let ([keys, values], streams) = (device.read_kv(kv, position), &self.recording.caches[kv.0].streams);
            (bits(&streams[0].unpack(&keys)), bits(&streams[1].unpack(&values)))
        });
        Outcome { steps: after, states, kv: kv.collect() }
    }

    /// A whole tensor: rows of the step's tokens depend on the position alone, all else is NaN.
    fn contents(&self, index: usize, tensor: &Tensor, position: usize, tokens: usize) -> Vec<f32> {
        let view = tensor.view;
        let mut values = vec![f32::NAN; self.recording.elements(view.tensor)];
        for (r, row) in values.chunks_exact_mut(view.stride).take(tokens * view.rows_per_token).enumerate() {
            let key = (index as u64) << 32 | (position * view.rows_per_token + r) as u64;
            (tensor.fill)(&mut self.random.keyed(key), &mut row[..view.width]);
        }
        values
    }

    /// Cosines, then sines, of any angles.
    fn rope(&self, position: usize) -> Vec<f32> {
        let mut random = self.random.keyed(1 << 61 | position as u64);
        let angles = random.floats(self.rotary_dim / 2, -3.0, 3.0);
        angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect()
    }

    /// Within the tolerances, or to the bit.
    pub(crate) fn compare(&self, expected: &Outcome, found: &Outcome, to_the_bit: bool) -> Result<(), String> {
        let own = |tolerance: Tolerance| if to_the_bit { tolerance.to_the_bit() } else { tolerance };
        let outcome = self.compare_within(expected, found, own(self.kv_tolerance), own);
        match (&outcome, self.other_codes) {
            (Err(_), Some((kv, out))) if !to_the_bit && self.few_codes_differ(expected, found) => {
                let loose = |own: Tolerance| {
                    if own.atol > 0.0 { Tolerance { atol: own.atol.max(out.atol), ..own } } else { own }
                };
                self.compare_within(expected, found, kv, loose)
            }
            _ => outcome,
        }
    }

    /// Whether keys or values differ beyond what computing them explains, and are few.
    fn few_codes_differ(&self, expected: &Outcome, found: &Outcome) -> bool {
        let Tolerance { atol, rtol } = self.kv_tolerance;
        let both = expected.kv.iter().zip(&found.kv);
        let pairs = both.flat_map(|(e, f)| e.0.iter().chain(&e.1).zip(f.0.iter().chain(&f.1)));
        let pairs = pairs.map(|(e, f)| (f32::from_bits(*e), f32::from_bits(*f)));
        let (mut differ, mut all) = (0, 0);
        for (e, f) in pairs {
            all += 1;
            differ += usize::from((e - f).abs() > atol + rtol * e.abs());
        }
        // one code changes the factor of its head
        let width = self.recording.caches.iter().flat_map(|cache| &cache.streams).map(|stream| stream.width).max();
        differ > 0 && differ <= (all / 50).max(2 * width.unwrap_or(0))
    }

    /// With tolerances of keys and values, and of all else by their own.
    fn compare_within(
        &self,
        expected: &Outcome,
        found: &Outcome,
        kv: Tolerance,
        within: impl Fn(Tolerance) -> Tolerance,
    ) -> Result<(), String> {
        for (step, (expected, found)) in expected.steps.iter().zip(&found.steps).enumerate() {
            for ((tensor, expected), found) in self.tensors.iter().zip(&expected.1).zip(&found.1) {
                let label = &self.recording.spec(tensor.view.tensor).label;
                let outcome = close_in(tensor, within(tensor.tolerance), expected, found);
                outcome.map_err(|e| format!("step {step}, {label}, {e}"))?;
            }
        }
        for ((state, expected), found) in self.states.iter().zip(&expected.states).zip(&found.states) {
            close(within(state.tolerance), state.view.stride, expected, found).map_err(|e| format!("state, {e}"))?;
        }
        for ((spec, expected), found) in self.recording.caches.iter().zip(&expected.kv).zip(&found.kv) {
            for (what, expected, found) in [("keys", &expected.0, &found.0), ("values", &expected.1, &found.1)] {
                close(kv, spec.streams[0].width, expected, found).map_err(|e| format!("{what}, {e}"))?;
            }
        }
        Ok(())
    }

    /// Whether every token, and state and caches at the end, are the same: to the bit, or within the tolerances.
    fn same_tokens(&self, expected: &Outcome, found: &Outcome, to_the_bit: bool) -> Result<(), String> {
        for (i, tensor) in self.tensors.iter().enumerate() {
            let rows = |outcome: &Outcome| -> Vec<u32> {
                let per_token = tensor.view.stride * tensor.view.rows_per_token;
                outcome.steps.iter().flat_map(|(tokens, all)| all[i][..tokens * per_token].to_vec()).collect()
            };
            let label = &self.recording.spec(tensor.view.tensor).label;
            let (expected, found) = (rows(expected), rows(found));
            let tolerance = if to_the_bit { tensor.tolerance.to_the_bit() } else { tensor.tolerance };
            close_in(tensor, tolerance, &expected, &found).map_err(|e| format!("{label}, {e}"))?;
        }
        let last = |o: &Outcome| Outcome { steps: Vec::new(), states: o.states.clone(), kv: o.kv.clone() };
        self.compare(&last(expected), &last(found), to_the_bit)
    }
}

impl Experts {
    fn store(&self, memory: Arc<dyn SlotMemory>) -> ExpertStore {
        let reader = Arc::new(FileReader::open(&self.layout).unwrap());
        ExpertStore::new(self.layout.clone(), memory, reader, 2).unwrap()
    }
}

fn close_in(tensor: &Tensor, tolerance: Tolerance, expected: &[u32], found: &[u32]) -> Result<(), String> {
    match tensor.packed {
        Some(cols) if tolerance.atol > 0.0 => close_packed(tolerance, tensor.view.stride, cols, expected, found),
        _ => close(tolerance, tensor.view.stride, expected, found),
    }
}

fn context(runs: &[&[usize]]) -> usize {
    runs.iter().map(|steps| steps.iter().sum()).max().unwrap_or(0)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// What a trial asks of whatever runs its recording.
pub(crate) trait Device {
    fn reset(&mut self);
    fn run(&mut self, step: Step, rope: &[f32]);
    fn write(&mut self, tensor: TensorId, values: &[f32]);
    fn read(&mut self, tensor: TensorId) -> Vec<f32>;
    fn read_kv(&mut self, kv: CacheId, positions: usize) -> [Vec<u8>; 2];
}

/// An executor and what reads its experts.
struct WithStore<E> {
    executor: E,
    store: Option<ExpertStore>,
}

macro_rules! device {
    ($executor:ty, $read:expr) => {
        impl Device for WithStore<$executor> {
            fn reset(&mut self) {
                self.executor.reset().unwrap();
            }

            fn run(&mut self, step: Step, rope: &[f32]) {
                self.executor.run(step, &[], rope, self.store.as_mut()).unwrap();
            }

            fn write(&mut self, tensor: TensorId, values: &[f32]) {
                self.executor.write(tensor, values);
            }

            fn read(&mut self, tensor: TensorId) -> Vec<f32> {
                $read(&mut self.executor, tensor)
            }

            fn read_kv(&mut self, kv: CacheId, positions: usize) -> [Vec<u8>; 2] {
                [0, 1].map(|stream| self.executor.read_cache_rows(kv, stream, 0..positions).unwrap())
            }
        }
    };
}
device!(CpuExecutor, |executor: &mut CpuExecutor, tensor| CpuExecutor::read(executor, tensor).to_vec());
device!(GpuExecutor, |executor: &mut GpuExecutor, tensor| GpuExecutor::read(executor, tensor).unwrap());
