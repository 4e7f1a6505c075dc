use std::ops::Range;
use std::sync::Arc;

use crate::compute::executor::{ExecuteError, Executor, Phase, Step, TopLogits, check_kv_rows, check_state};
use crate::compute::kernel::Kernel;
use crate::compute::ops::{Experts, LogitsTopK};
use crate::compute::recording::{KvId, Recorded, Recording, TensorId, View};
use crate::compute::routing::{ExpertPairs, group_by_expert, read_ahead};
use crate::experts::{ExpertStore, HostSlots, StoreStats, Sweep};

use super::memory::{CpuMemory, row};

const HAS_STORE: &str = "a recording with experts is given a store";

/// Runs a recording on the CPU.
pub struct CpuExecutor {
    recording: Arc<Recording>,
    memory: CpuMemory,
    context: usize,
    store: Option<(ExpertStore, Arc<HostSlots>)>,
    experts: usize,
    routing: Vec<Vec<u32>>,
    /// The guess at the next layer's choice.
    ahead: Vec<u32>,
    look_ahead: usize,
    last: Option<Step>,
    /// Tokens of the next step after which the state is kept, and the copies.
    marks: Vec<usize>,
    marked: Vec<Vec<Vec<f32>>>,
    patterns: Vec<String>,
    dumps: Vec<(String, usize, Vec<f32>)>,
}

impl CpuExecutor {
    /// Allocates tensors and caches for `context` positions. `store` reads `experts` experts a layer into `slots`; a
    /// recording without routed experts needs none.
    pub fn new(
        recording: Arc<Recording>,
        context: usize,
        experts: usize,
        store: Option<(ExpertStore, Arc<HostSlots>)>,
    ) -> Self {
        let memory = CpuMemory::new(&recording, context);
        CpuExecutor {
            recording,
            memory,
            context,
            store,
            experts,
            routing: Vec::new(),
            ahead: Vec::new(),
            look_ahead: 0,
            last: None,
            marks: Vec::new(),
            marked: Vec::new(),
            patterns: Vec::new(),
            dumps: Vec::new(),
        }
    }

    /// Reads `experts` experts of the next layer before its router has chosen; the recording must have guesses.
    #[must_use]
    pub fn with_look_ahead(self, experts: usize) -> Self {
        CpuExecutor { look_ahead: experts, ..self }
    }

    /// Writes a tensor, rows of its stride: for tests of kernels.
    pub fn write(&mut self, tensor: TensorId, values: &[f32]) {
        self.memory.write(tensor, values);
    }

    /// Reads a tensor, rows of its stride: for tests of kernels.
    pub fn read(&self, tensor: TensorId) -> &[f32] {
        self.memory.tensor(tensor)
    }

    /// Begins a step whose operations [`run_operation`](Self::run_operation) runs: `embedded` `[tokens, hidden]`, `rope`
    /// `[tokens, rotary_dim]`.
    pub fn begin(&mut self, step: Step, embedded: &[f32], rope: &[f32]) -> Result<(), ExecuteError> {
        self.take_inputs(step, embedded, rope)?;
        self.last = Some(step);
        Ok(())
    }

    fn take_inputs(&mut self, step: Step, embedded: &[f32], rope: &[f32]) -> Result<(), ExecuteError> {
        step.check(&self.recording, self.context)?;
        self.memory.set_rope(rope);
        if let Some(input) = self.recording.input {
            self.memory.write(input.tensor, embedded);
        }
        self.routing.clear();
        self.ahead.clear();
        self.dumps.clear();
        Ok(())
    }

    /// Runs operation `index` of the recording; those before it are done.
    pub fn run_operation(&mut self, index: usize, step: Step) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        rayon::scope(|_| self.run_on_pool(&recording.steps[index..=index], step))
    }

    /// Runs some operations of a step.
    fn run_on_pool(&mut self, operations: &[Recorded], step: Step) -> Result<(), ExecuteError> {
        for recorded in operations {
            match recorded {
                Recorded::Kernel { label, kernel } => {
                    self.run_kernel(kernel.as_ref(), &step);
                    self.dump_outputs(label, &kernel.outputs(), &step);
                }
                Recorded::Route(route) => {
                    let ids = self.memory.tensor(route.ids.tensor);
                    let ids = (0..step.tokens).flat_map(|t| row(ids, route.ids, t)).map(|v| v.to_bits()).collect();
                    self.routing.push(ids);
                    // a chunk of a prompt needs most experts of every layer: there is nothing to guess
                    if let Some(ahead) = route.ahead.filter(|_| step.phase == Phase::Decode) {
                        let ids = self.memory.tensor(ahead.tensor);
                        self.ahead = row(ids, ahead, 0).iter().map(|v| v.to_bits()).collect();
                    }
                }
                Recorded::Experts(op) => {
                    self.run_experts(op, &step)?;
                    self.dump_outputs(&format!("layer.{}.experts", op.layer), &[op.out], &step);
                }
            }
        }
        Ok(())
    }

    fn run_kernel(&mut self, kernel: &dyn Kernel, step: &Step) {
        let state = if self.marks.is_empty() { Vec::new() } else { kernel.state() };
        if state.is_empty() {
            return kernel.run_on_cpu(&mut self.memory, step);
        }
        let marks = std::mem::take(&mut self.marks);
        for (part, mark) in step.parts(&marks) {
            kernel.run_part_on_cpu(&mut self.memory, step, part);
            let Some(mark) = mark else { continue };
            for &tensor in &state {
                self.marked[mark][self.recording.state_index(tensor)] = self.state_of(tensor);
            }
        }
        self.marks = marks;
    }

    fn state_of(&self, tensor: TensorId) -> Vec<f32> {
        let spec = self.recording.spec(tensor);
        self.memory.tensor(tensor).chunks_exact(spec.stride).flat_map(|r| r[..spec.width].to_vec()).collect()
    }

    fn run_experts(&mut self, op: &Experts, step: &Step) -> Result<(), ExecuteError> {
        let ids = &self.routing[op.layer];
        let top_k = op.out.rows_per_token;
        let groups = group_by_expert(op.layer, ids, top_k, self.experts)?;
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        let is_there = |group: &ExpertPairs| store.has_place(op.layer, group.expert);
        let sweep = Sweep::new(groups, store.capacity(op.layer), is_there);
        let mut held = Vec::new();
        let outcome = self.run_windows(op, step, &sweep, &mut held);
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        store.release(&held);
        outcome
    }

    /// `held` are the slots of windows that are not done.
    fn run_windows(
        &mut self,
        op: &Experts,
        step: &Step,
        sweep: &Sweep<ExpertPairs>,
        held: &mut Vec<usize>,
    ) -> Result<(), ExecuteError> {
        let (store, slots) = self.store.as_mut().expect(HAS_STORE);
        let ahead = (&mut self.ahead, self.experts, self.look_ahead);
        let mut open = |store: &mut ExpertStore, held: &mut Vec<usize>, groups: &[ExpertPairs]| {
            let wanted: Vec<u32> = groups.iter().map(|g| g.expert).collect();
            let acquired = store.acquire(op.layer, &wanted)?;
            let slots: Vec<usize> = acquired.iter().map(|a| a.slot).collect();
            store.hold(&slots);
            held.extend(slots);
            // behind what this layer misses
            read_ahead(store, op.layer + 1, ahead.0, ahead.1, ahead.2)?;
            Ok::<_, ExecuteError>(acquired)
        };
        let mut windows = sweep.windows().peekable();
        let mut next = windows.peek().map(|groups| open(store, held, groups)).transpose()?;
        while let (Some(groups), Some(now)) = (windows.next(), next.take()) {
            if sweep.overlaps() {
                next = windows.peek().map(|groups| open(store, held, groups)).transpose()?;
            }
            for (group, acquired) in groups.iter().zip(&now) {
                if !acquired.hit {
                    store.wait(&[acquired.slot])?;
                }
                let bytes = slots.read(acquired.slot);
                op.run_on_cpu(&mut self.memory, &group.pairs, &bytes, step);
            }
            store.release(&held.drain(..now.len()).collect::<Vec<_>>());
            if !sweep.overlaps() {
                next = windows.peek().map(|groups| open(store, held, groups)).transpose()?;
            }
        }
        Ok(())
    }

    fn dump_outputs(&mut self, label: &str, views: &[View], step: &Step) {
        if !self.patterns.iter().any(|p| label.contains(p.as_str())) {
            return;
        }
        for (i, &view) in views.iter().enumerate() {
            let tensor = self.memory.tensor(view.tensor);
            let values =
                (0..self.recording.rows(view.tensor, step)).flat_map(|r| row(tensor, view, r).to_vec()).collect();
            let name = if i == 0 { label.to_owned() } else { format!("{label}.{i}") };
            self.dumps.push((name, view.width, values));
        }
    }
}

impl Executor for CpuExecutor {
    fn device(&self) -> String {
        format!("CPU ({} threads)", rayon::current_num_threads())
    }

    fn reset(&mut self) -> Result<(), ExecuteError> {
        for &tensor in &self.recording.state {
            let mut state = self.memory.take(tensor);
            state.fill(0.0);
            self.memory.put_back(tensor, state);
        }
        self.last = None;
        Ok(())
    }

    fn run_watched(
        &mut self,
        step: Step,
        embedded: &[f32],
        rope: &[f32],
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ExecuteError> {
        self.take_inputs(step, embedded, rope)?;
        let recording = self.recording.clone();
        self.marked = vec![vec![Vec::new(); recording.state.len()]; self.marks.len()];
        // whoever watches is called on this thread; a token of decode is over too soon to be watched
        let is_end = |recorded: &Recorded| matches!(recorded, Recorded::Experts(_)) && step.phase == Phase::Prefill;
        let mut layers = 0;
        for part in recording.steps.split_inclusive(is_end) {
            // on a thread of the pool: from outside, each operation would wake one and wait for it
            rayon::scope(|_| self.run_on_pool(part, step))?;
            if part.last().is_some_and(is_end) {
                layers += 1;
                if !layer_done(layers) {
                    return Err(ExecuteError::Interrupted);
                }
            }
        }
        self.marks.clear();
        self.last = Some(step);
        Ok(())
    }

    fn mark(&mut self, after_tokens: Vec<usize>) {
        self.marks = after_tokens;
    }

    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        Ok(std::mem::take(&mut self.marked))
    }

    fn dump(&mut self, patterns: Vec<String>) {
        self.patterns = patterns;
    }

    fn take_dumps(&mut self) -> Vec<(String, usize, Vec<f32>)> {
        std::mem::take(&mut self.dumps)
    }

    fn logits(&mut self) -> Result<Vec<f32>, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let tensor = self.memory.tensor(view.tensor);
        Ok((0..step.logit_rows().1).flat_map(|r| row(tensor, view, r).to_vec()).collect())
    }

    fn top_logits(&mut self, top_k: usize, vocab: usize) -> Result<TopLogits, ExecuteError> {
        let (Some(view), Some(step)) = (self.recording.logits, self.last) else { return Ok(Vec::new()) };
        let last = step.logit_rows().1.saturating_sub(1);
        let op = LogitsTopK { top_k, vocab: vocab.min(view.width), offset: last * view.stride };
        let top = op.on_cpu(self.memory.tensor(view.tensor));
        if top.is_empty() { Err(ExecuteError::NotANumber) } else { Ok(top) }
    }

    fn routing(&self) -> &[Vec<u32>] {
        &self.routing
    }

    fn read_state(&mut self, tensor: TensorId) -> Result<Vec<f32>, ExecuteError> {
        Ok(self.state_of(tensor))
    }

    fn write_state(&mut self, tensor: TensorId, values: &[f32]) -> Result<(), ExecuteError> {
        let spec = self.recording.spec(tensor);
        let (stride, width) = (spec.stride, spec.width);
        let mut state = self.memory.take(tensor);
        let checked = check_state(&spec.label, state.len() / stride * width, values.len());
        if checked.is_ok() {
            for (row, values) in state.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
                row[..width].copy_from_slice(values);
            }
        }
        self.memory.put_back(tensor, state);
        self.last = None;
        checked
    }

    fn read_kv_rows(&mut self, kv: KvId, positions: Range<usize>) -> Result<(Vec<f32>, Vec<f32>), ExecuteError> {
        check_kv_rows(self.context, &positions)?;
        let width = self.recording.kv[kv.0].width;
        let elements = positions.start * width..positions.end * width;
        let kv = self.memory.kv(kv);
        Ok((kv.keys[elements.clone()].to_vec(), kv.values[elements].to_vec()))
    }

    fn write_kv_rows(&mut self, kv: KvId, first: usize, keys: &[f32], values: &[f32]) -> Result<(), ExecuteError> {
        let spec = &self.recording.kv[kv.0];
        let positions = keys.len() / spec.width;
        check_state(&spec.label, positions * spec.width, keys.len())?;
        check_state(&spec.label, keys.len(), values.len())?;
        check_kv_rows(self.context, &(first..first + positions))?;
        let elements = first * spec.width..(first + positions) * spec.width;
        let mut cache = self.memory.take_kv(kv);
        cache.keys[elements.clone()].copy_from_slice(keys);
        cache.values[elements].copy_from_slice(values);
        self.memory.put_back_kv(kv, cache);
        Ok(())
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
