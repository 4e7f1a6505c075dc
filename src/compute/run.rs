//! The step loop: a recording, operation after operation, on whatever device.
//!
//! What the operations are, is the recording's; how they are computed, the device's. Here is what lies between: the order
//! in which routed experts come in and are computed, parts of a step that end at marks, dumps, and whoever watches.

mod ahead;
mod experts;
mod memory;
mod one_layer;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::experts::ExpertStore;

pub(super) use memory::without_padding;
pub(crate) use one_layer::LayerRunner;
use watch::{Stride, Watch};

use super::device::{Choice, Device, ExpertLayer};
use super::kernel::Kernel;
use super::recording::{Recorded, Recording, View};
use super::step::{ExecuteError, HostWork, KernelTime, LogitRows, Phase, ProfiledSteps, Span, Step};

const HAS_STORE: &str = "a recording with experts is run with a store";

/// Runs a recording on a device, step after step. State lives in the device until [`Runner::reset`].
pub(crate) struct Runner<D: Device + ?Sized> {
    pub(super) recording: Arc<Recording>,
    pub(super) context: usize,
    /// Experts of the next layer that are read before its router has chosen.
    look_ahead: usize,
    keep_routing: bool,
    pub(super) routing: Vec<Vec<u32>>,
    /// The guess that came with the last of them.
    guess: Vec<u32>,
    /// A router's choice is on its way.
    is_choosing: bool,
    /// Layers of the model that are done in this step.
    layers_done: usize,
    last: Option<Step>,
    /// How much of a prompt is done before whoever watches is asked.
    stride: Stride,
    /// Tokens of the next step after which the state is kept.
    marks: Vec<usize>,
    patterns: Vec<String>,
    dumps: Vec<(String, usize, Vec<f32>)>,
    pub(super) device: D,
}

impl<D: Device> Runner<D> {
    /// Runs `recording` on a device that was made for it, with caches of `context` positions.
    pub(super) fn of(recording: Arc<Recording>, context: usize, device: D) -> Self {
        Runner {
            recording,
            context,
            look_ahead: 0,
            keep_routing: false,
            routing: Vec::new(),
            guess: Vec::new(),
            is_choosing: false,
            layers_done: 0,
            last: None,
            stride: Stride::default(),
            marks: Vec::new(),
            patterns: Vec::new(),
            dumps: Vec::new(),
            device,
        }
    }

    /// Reads `experts` experts of the next layer before its router has chosen; the recording must have guesses.
    #[must_use]
    pub(crate) fn with_look_ahead(self, experts: usize) -> Self {
        Runner { look_ahead: experts, ..self }
    }
}

impl<D: Device + ?Sized> Runner<D> {
    /// Name of the device, for people.
    pub(crate) fn device(&self) -> String {
        self.device.name()
    }

    /// Runs one step on `embedded` `[tokens, hidden]` and `rope` `[tokens, rotary_dim]` (cosines, then sines). `store` reads
    /// the experts of a recording that has some, into the slots that the device was made with.
    ///
    /// # Errors
    /// As [`run_watched`](Self::run_watched).
    pub(crate) fn run(
        &mut self,
        step: Step,
        embedded: &[f32],
        rope: &[f32],
        store: Option<&mut ExpertStore>,
    ) -> Result<(), ExecuteError> {
        self.run_watched(step, embedded, rope, store, &mut |_| true)
    }

    /// As [`run`](Self::run). In a prompt, `layer_done` is told how many layers of the model are done, after each (a device
    /// that works behind the host's back may be behind what it tells), and again and again within one that takes long; it
    /// ends the step by returning `false`, within half a second unless one operation, or one read, takes longer. A token
    /// of decode is over too soon to be watched.
    ///
    /// # Errors
    /// A step that does not fit, experts that cannot be read, the device's errors, and [`ExecuteError::Interrupted`] where
    /// it was asked to end. The recurrent state of some layers may have seen the tokens then: [`reset`](Self::reset) or
    /// [`write_state`](Self::write_state) come next. Rows of caches before the step's position are as they were.
    pub(crate) fn run_watched(
        &mut self,
        step: Step,
        embedded: &[f32],
        rope: &[f32],
        store: Option<&mut ExpertStore>,
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ExecuteError> {
        let begun = self.begin(step, embedded, rope);
        let outcome = begun.and_then(|()| {
            let outcome = self.run_layers(&step, store, layer_done);
            if outcome.is_err() {
                self.device.abandon();
                self.last = None;
            }
            outcome
        });
        // those of a step that failed are nobody's
        self.marks.clear();
        outcome
    }

    /// Begins a step whose operations [`run_operation`](Self::run_operation) runs.
    ///
    /// # Errors
    /// A step that does not fit the recording or the caches.
    pub(crate) fn begin(&mut self, step: Step, embedded: &[f32], rope: &[f32]) -> Result<(), ExecuteError> {
        step.check(&self.recording, self.context)?;
        self.routing.clear();
        self.guess.clear();
        self.dumps.clear();
        self.is_choosing = false;
        self.layers_done = 0;
        self.device.reach(step.position + step.tokens)?;
        self.device.begin(embedded, rope, self.marks.len());
        self.last = Some(step);
        Ok(())
    }

    fn run_layers(
        &mut self,
        step: &Step,
        mut store: Option<&mut ExpertStore>,
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        match step.phase {
            Phase::Decode if self.run_prepared(step) => {}
            Phase::Decode => {
                self.run_operations(&recording, 0..recording.steps.len(), step, store.as_deref_mut())?;
            }
            Phase::Prefill => {
                let watch = &mut Watch::new(layer_done);
                self.run_watched_operations(&recording, step, store.as_deref_mut(), watch)?;
            }
        }
        if self.device.looks_up() && (self.keep_routing || step.logits == LogitRows::All) {
            self.read_all_choices(&recording, step, store.as_deref())?;
        }
        self.device.end()?;
        // they are this step's
        self.marks.clear();
        self.prepare_next(step)
    }

    /// Runs operation `index` of the recording; those before it are done. Routed experts are those that the last route has
    /// chosen, or of [`set_routing`](Self::set_routing).
    ///
    /// # Errors
    /// Experts that cannot be read, and the device's.
    pub(crate) fn run_operation(
        &mut self,
        index: usize,
        step: &Step,
        store: Option<&mut ExpertStore>,
    ) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        let outcome = self.run_operations(&recording, index..index + 1, step, store);
        let outcome = outcome.and_then(|()| self.finish_choice());
        outcome.and(self.device.end())
    }

    /// Whether the processor computes, while whoever asked waits.
    pub(crate) fn is_on_pool(&self) -> bool {
        self.device.is_on_pool()
    }

    fn run_operations(
        &mut self,
        recording: &Recording,
        operations: Range<usize>,
        step: &Step,
        store: Option<&mut ExpertStore>,
    ) -> Result<(), ExecuteError> {
        self.on_pool(|runner| runner.run_one_by_one(recording, operations, step, store))
    }

    /// Does some work where the device's operations are to be asked for.
    fn on_pool<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        match self.device.is_on_pool() {
            true => rayon::scope(|_| work(self)),
            false => work(self),
        }
    }

    /// All operations of a prompt's step. Whoever watches is asked on this thread: they need not be one that may go to
    /// others.
    fn run_watched_operations(
        &mut self,
        recording: &Recording,
        step: &Step,
        mut store: Option<&mut ExpertStore>,
        watch: &mut Watch<'_>,
    ) -> Result<(), ExecuteError> {
        let looks_up = self.device.looks_up();
        let is_apart = |recorded: &Recorded| match recorded {
            Recorded::Experts(_) => !looks_up,
            Recorded::LayerDone(_) => true,
            Recorded::Kernel { .. } | Recorded::Route(_) => false,
        };
        // operations since the device was waited for, and since when
        let (mut next, mut done, mut since) = (0, 0, Instant::now());
        while let Some(recorded) = recording.steps.get(next) {
            match recorded {
                Recorded::Experts(op) if !looks_up => {
                    self.finish_choice()?;
                    let streaming = Instant::now();
                    let layer = ExpertLayer { index: next, op, step };
                    self.run_experts(&layer, store.as_deref_mut().expect(HAS_STORE), Some(watch))?;
                    // reads say nothing about operations
                    since += streaming.elapsed();
                    next += 1;
                }
                Recorded::LayerDone(layers) => {
                    self.layers_done = *layers;
                    watch.layer_done(*layers)?;
                    next += 1;
                }
                _ => {
                    let most = self.stride.operations.saturating_sub(done).max(1);
                    let together = recording.steps[next..].iter().take(most).take_while(|step| !is_apart(step)).count();
                    self.run_operations(recording, next..next + together, step, store.as_deref_mut())?;
                    (next, done) = (next + together, done + together);
                    if done >= self.stride.operations {
                        self.device.keep_up()?;
                        self.stride.learn_operations(since.elapsed());
                        watch.look(self.layers_done)?;
                        (done, since) = (0, Instant::now());
                    }
                }
            }
        }
        Ok(())
    }

    fn run_one_by_one(
        &mut self,
        recording: &Recording,
        operations: Range<usize>,
        step: &Step,
        mut store: Option<&mut ExpertStore>,
    ) -> Result<(), ExecuteError> {
        let looks_up = self.device.looks_up();
        for index in operations {
            match &recording.steps[index] {
                Recorded::Kernel { label, kernel } => {
                    self.run_kernel(index, &**kernel, step);
                    if self.is_dumped(label) {
                        self.dump_outputs(label, &kernel.outputs(), step)?;
                    }
                }
                Recorded::Route(_) if looks_up => {}
                Recorded::Route(route) => {
                    // a chunk of a prompt needs most experts of every layer: there is nothing to guess
                    let guess = route.ahead.filter(|_| step.phase == Phase::Decode && self.look_ahead > 0);
                    self.device.begin_choice(route.ids, guess, step);
                    self.is_choosing = true;
                }
                Recorded::Experts(op) => {
                    let layer = ExpertLayer { index, op, step };
                    if looks_up {
                        self.device.look_up_experts(&layer);
                        self.dump_experts(&layer)?;
                    } else {
                        self.run_experts(&layer, store.as_deref_mut().expect(HAS_STORE), None)?;
                    }
                }
                Recorded::LayerDone(layers) => self.layers_done = *layers,
            }
        }
        Ok(())
    }

    fn run_experts(
        &mut self,
        layer: &ExpertLayer<'_>,
        store: &mut ExpertStore,
        watch: Option<&mut Watch<'_>>,
    ) -> Result<(), ExecuteError> {
        // what was recorded between the route and here runs under the reads
        self.finish_choice()?;
        self.stream_experts(layer, store, watch)?;
        self.dump_experts(layer)
    }

    fn dump_experts(&mut self, layer: &ExpertLayer<'_>) -> Result<(), ExecuteError> {
        if !self.patterns.is_empty() {
            let label = format!("layer.{}.experts", self.layers_done);
            if self.is_dumped(&label) {
                self.dump_outputs(&label, &[layer.op.out], layer.step)?;
            }
        }
        Ok(())
    }

    fn run_kernel(&mut self, index: usize, kernel: &dyn Kernel, step: &Step) {
        let state = if self.marks.is_empty() { Vec::new() } else { kernel.state() };
        if state.is_empty() {
            return self.device.run_kernel(index, kernel, step, None);
        }
        for (part, mark) in step.parts(&self.marks) {
            self.device.run_kernel(index, kernel, step, Some(part));
            if let Some(mark) = mark {
                self.device.keep_state(mark, &state);
            }
        }
    }

    fn finish_choice(&mut self) -> Result<(), ExecuteError> {
        if std::mem::take(&mut self.is_choosing) {
            let Choice { ids, guess } = self.device.finish_choice()?;
            self.routing.push(ids);
            self.guess = guess;
        }
        Ok(())
    }

    /// The router's choices of a step that did not need the host.
    fn read_all_choices(
        &mut self,
        recording: &Recording,
        step: &Step,
        store: Option<&ExpertStore>,
    ) -> Result<(), ExecuteError> {
        // with the layer of the model that each is in
        let (mut layer, mut routes) = (0, Vec::new());
        for recorded in &recording.steps {
            match recorded {
                Recorded::Route(route) => routes.push((layer, route)),
                Recorded::LayerDone(layers) => layer = *layers,
                _ => {}
            }
        }
        let rows: Vec<_> = routes.iter().map(|(_, route)| (route.ids.tensor, step.tokens)).collect();
        let all = self.device.read_rows(&rows)?;
        let layers = store.map_or(&[][..], |store| &store.layout().layers);
        for (ids, (layer, route)) in all.iter().zip(routes) {
            let ids: Vec<u32> = rows_of(ids, route.ids).map(f32::to_bits).collect();
            if let Some(experts) = layers.get(route.layer).map(|layer| layer.experts)
                && let Some(&found) = ids.iter().find(|id| **id as usize >= experts)
            {
                return Err(ExecuteError::Router { layer, found, experts });
            }
            self.routing.push(ids);
        }
        Ok(())
    }

    fn is_dumped(&self, label: &str) -> bool {
        self.patterns.iter().any(|pattern| label.contains(pattern.as_str()))
    }

    fn dump_outputs(&mut self, label: &str, views: &[View], step: &Step) -> Result<(), ExecuteError> {
        for (i, &view) in views.iter().enumerate() {
            let rows = self.recording.rows(view.tensor, step);
            let values = self.device.read_rows(&[(view.tensor, rows)])?;
            let values = values.iter().flat_map(|rows| rows_of(rows, view)).collect();
            let name = if i == 0 { label.to_owned() } else { format!("{label}.{i}") };
            self.dumps.push((name, view.width, values));
        }
        Ok(())
    }

    /// Asks the next step, one of a prompt, to keep copies of the recurrent state after so many of its tokens: in ascending
    /// order, each at least [`Step::LEAST_MARK`] and at most the step's tokens. So the experts of a chunk are read once
    /// however many checkpoints it has.
    pub(crate) fn mark(&mut self, after_tokens: Vec<usize>) {
        self.marks = after_tokens;
    }

    /// Asks for the outputs of operations whose label contains one of `patterns`, from the next step on.
    pub(crate) fn dump(&mut self, patterns: Vec<String>) {
        self.device.write_all_outputs(!patterns.is_empty());
        self.patterns = patterns;
    }

    /// What the operations wrote that were asked for: (label, width, values), in order.
    pub(crate) fn take_dumps(&mut self) -> Vec<(String, usize, Vec<f32>)> {
        std::mem::take(&mut self.dumps)
    }

    /// Makes [`routing`](Self::routing) known after every step, also where the host does not need it: this costs a wait.
    pub(crate) fn keep_routing(&mut self) {
        self.keep_routing = true;
    }

    /// The experts that each token of the last step chose: per layer with experts `[tokens, top_k]`.
    pub(crate) fn routing(&self) -> &[Vec<u32>] {
        &self.routing
    }

    /// Lets [`run_operation`](Self::run_operation) run these experts, whatever the device's router chooses.
    pub(crate) fn set_routing(&mut self, routing: &[Vec<u32>]) {
        self.routing = routing.to_vec();
    }

    /// Times every kernel from now on. This costs a pass per kernel; `false` when the device has no timestamps.
    pub(crate) fn profile(&mut self) -> bool {
        self.device.profile()
    }

    /// Times since [`Runner::profile`], longest first.
    pub(crate) fn kernel_times(&self) -> Vec<KernelTime> {
        self.device.kernel_times()
    }

    /// Steps since [`Runner::profile`].
    pub(crate) fn profiled_steps(&self) -> ProfiledSteps {
        self.device.profiled_steps()
    }

    /// What the host has done so that the device computes.
    pub(crate) fn host_work(&self) -> HostWork {
        self.device.host_work()
    }

    /// Keeps what host and device do from now on: kernels where there is a profile.
    pub(crate) fn keep_spans(&mut self) {
        self.device.keep_spans();
    }

    /// What was kept; nothing is kept any more.
    pub(crate) fn take_spans(&mut self) -> Vec<Span> {
        self.device.take_spans()
    }

    /// Time that the host has waited for the device so far, reads of experts left out.
    pub(crate) fn waited(&self) -> Duration {
        self.device.waited()
    }

    /// How long the host waits for a submission that does nothing: what each wait for the router costs at least.
    /// `None` for a device that the host does not wait for.
    pub(crate) fn round_trip(&mut self) -> Result<Option<Duration>, ExecuteError> {
        self.device.round_trip()
    }

    /// Bytes per second at which the device reads its memory, measured now; `None` where that cannot be timed.
    pub(crate) fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        self.device.bandwidth()
    }

    /// Waits until the device has done everything asked of it.
    pub(crate) fn finish(&mut self) -> Result<(), ExecuteError> {
        self.device.finish()
    }
}

/// The columns of a view in rows of its tensor, one row after the other.
fn rows_of(rows: &[f32], view: View) -> impl Iterator<Item = f32> + '_ {
    rows.chunks_exact(view.stride).flat_map(move |row| row[view.offset..][..view.width].iter().copied())
}

#[cfg(test)]
mod tests;
