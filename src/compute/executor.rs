//! What both executors are: something that runs a recording for a step of tokens.

use std::ops::Range;
use std::time::Duration;

use crate::experts::{ExpertStore, StoreError, StoreStats};

use super::recording::{KvId, Recording, TensorId};

/// Which kernels a step runs. They add up in different orders, so a token's bits depend on its phase, and not on how
/// many tokens are with it. The exception is [`DeltaNet`](super::ops::DeltaNet) in prefill: a prompt gives the same bits
/// however memory decides its chunks as long as all of them but the last are multiples of 32 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Tokens of a prompt: kernels that share every weight they read among many tokens.
    Prefill,
    /// One token after the other: kernels that read every weight as fast as memory gives it.
    Decode,
}

/// One run of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What it is part of.
    pub phase: Phase,
    /// Tokens of this step, at most the recording's `max_tokens`.
    pub tokens: usize,
    /// Position of the first of them.
    pub position: usize,
    /// For which tokens logits are computed.
    pub logits: LogitRows,
}

impl Step {
    /// The least tokens of a step after which its state can be [marked](Executor::mark): as many inputs as a convolution
    /// may look back at.
    pub const LEAST_MARK: usize = 8;

    /// The parts of its tokens that end at `marks`, and the rest.
    pub(crate) fn parts<'a>(&self, marks: &'a [usize]) -> impl Iterator<Item = (Range<usize>, Option<usize>)> + 'a {
        let last = (marks.last().is_none_or(|mark| *mark < self.tokens)).then_some((self.tokens, None));
        let ends = marks.iter().enumerate().map(|(index, end)| (*end, Some(index))).chain(last);
        let mut start = 0;
        ends.map(move |(end, mark)| (std::mem::replace(&mut start, end)..end, mark))
    }

    /// A token that follows those that were run, and whose logits are wanted.
    pub fn decode(position: usize) -> Step {
        Step { phase: Phase::Decode, tokens: 1, position, logits: LogitRows::Last }
    }

    /// Tokens of a prompt.
    pub fn prefill(tokens: usize, position: usize, logits: LogitRows) -> Step {
        Step { phase: Phase::Prefill, tokens, position, logits }
    }

    /// Whether the step fits a recording and caches of `context` positions.
    pub(crate) fn check(&self, recording: &Recording, context: usize) -> Result<(), ExecuteError> {
        let most_tokens = if self.phase == Phase::Decode { 1 } else { recording.max_tokens };
        let limits = [
            ("tokens of a step", most_tokens, self.tokens),
            ("tokens with logits", recording.logit_rows(), self.logit_rows().1),
            ("positions (raise --ctx)", context, self.position + self.tokens),
        ];
        match limits.into_iter().find(|(_, most, found)| found > most) {
            Some((what, most, found)) => Err(ExecuteError::TooLarge { what, most, found }),
            None => Ok(()),
        }
    }

    /// First row and number of rows that get logits.
    pub fn logit_rows(&self) -> (usize, usize) {
        match self.logits {
            LogitRows::None => (0, 0),
            LogitRows::Last => (self.tokens - 1, 1),
            LogitRows::All => (0, self.tokens),
        }
    }
}

/// Tokens of a step that get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a prompt's chunk that is not the last.
    None,
    /// The last token.
    Last,
    /// Every token.
    All,
}

/// The largest logits of the last token, largest first.
pub type TopLogits = Vec<(u32, f32)>;

/// What can go wrong while a recording runs.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// An expert could not be read.
    #[error(transparent)]
    Experts(#[from] StoreError),
    /// The GPU failed.
    #[error("GPU: {0}")]
    Gpu(String),
    /// A step that the recording was not made for.
    #[error("{what}: expected at most {most}, found {found}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        most: usize,
        /// What was asked for.
        found: usize,
    },
    /// The router chose something that is not an expert: NaN in the activations.
    #[error(
        "layer {layer}: the router chose expert {found}, expected less than {experts}; the weights may be damaged (try `flashflood pack --verify`)"
    )]
    Router {
        /// Layer.
        layer: usize,
        /// What it chose.
        found: u32,
        /// Experts in the layer.
        experts: usize,
    },
    /// State of another shape than the recording's.
    #[error("{what}: expected {expected} values, found {found}")]
    StateSize {
        /// Name of the state tensor or KV cache.
        what: String,
        /// Values that it holds.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// Whoever watches a step asked for its end: part of the layers have seen its tokens.
    #[error("interrupted")]
    Interrupted,
    /// No logit is a number.
    #[error("the logits are not numbers (NaN); the weights may be damaged")]
    NotANumber,
}

/// Whether `found` values are what `what` holds.
pub(super) fn check_state(what: &str, expected: usize, found: usize) -> Result<(), ExecuteError> {
    match expected == found {
        true => Ok(()),
        false => Err(ExecuteError::StateSize { what: what.to_owned(), expected, found }),
    }
}

/// Whether `positions` are inside a cache of `context` positions.
pub(super) fn check_kv_rows(context: usize, positions: &Range<usize>) -> Result<(), ExecuteError> {
    match positions.end <= context {
        true => Ok(()),
        false => Err(ExecuteError::TooLarge { what: "positions (raise --ctx)", most: context, found: positions.end }),
    }
}

/// Time that one kernel took.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelTime {
    /// Name, with the weight format.
    pub kernel: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// On the device, all calls.
    pub time: Duration,
    /// Weights that it read, all calls.
    pub weight_bytes: u64,
}

/// What was timed since [`Executor::profile`], beside the kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProfiledSteps {
    /// Steps.
    pub steps: u64,
    /// Time that the host worked on them: encoding, submitting, the expert cache. Waits for the device and for reads are
    /// left out. A pass per kernel makes encoding dearer than it is without a profile.
    pub host: std::time::Duration,
}

/// Runs a recording, step after step. State lives in the executor until [`Executor::reset`].
pub trait Executor: Send {
    /// Name of the device, for people.
    fn device(&self) -> String;

    /// Forgets everything: recurrent state to zero; the KV cache is overwritten from position 0.
    fn reset(&mut self) -> Result<(), ExecuteError>;

    /// Runs one step on `embedded` `[tokens, hidden]` and `rope` `[tokens, rotary_dim]` (cosines, then sines).
    fn run(&mut self, step: Step, embedded: &[f32], rope: &[f32]) -> Result<(), ExecuteError> {
        self.run_watched(step, embedded, rope, &mut |_| true)
    }

    /// As [`run`](Self::run). `layer_done` is told how many layers are done, after each while experts are streamed (with
    /// all of them resident the host is ahead of the device, and so is what it tells); it ends the step by returning
    /// `false`. Decode on the CPU tells nothing.
    ///
    /// # Errors
    /// [`ExecuteError::Interrupted`] where it was asked to end. The recurrent state of some layers has seen the tokens
    /// then, as after any other error: [`reset`](Self::reset) or [`write_state`](Self::write_state) come next. KV rows
    /// before the step's position are as they were.
    fn run_watched(
        &mut self,
        step: Step,
        embedded: &[f32],
        rope: &[f32],
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ExecuteError>;

    /// Asks the next step, one of a prompt, to keep copies of the recurrent state after so many of its tokens: in ascending
    /// order, each at least [`Step::LEAST_MARK`] and at most the step's tokens. So the experts of a chunk are read once
    /// however many checkpoints it has.
    fn mark(&mut self, after_tokens: Vec<usize>);

    /// The copies that the last step made: for each mark the state tensors of the recording, in its order and as
    /// [`read_state`](Executor::read_state) gives them.
    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError>;

    /// Asks for the outputs of operations whose label contains one of `patterns`, from the next step on.
    fn dump(&mut self, patterns: Vec<String>);

    /// What the operations wrote that were asked for: (label, width, values), in order.
    fn take_dumps(&mut self) -> Vec<(String, usize, Vec<f32>)>;

    /// The logits of the last step's rows, `[rows, vocab]`.
    fn logits(&mut self) -> Result<Vec<f32>, ExecuteError>;

    /// The `top_k` largest of the first `vocab` logits of the last token.
    fn top_logits(&mut self, top_k: usize, vocab: usize) -> Result<TopLogits, ExecuteError>;

    /// Makes [`Executor::routing`] known after every step, also where the host does not need it: this costs a wait.
    fn keep_routing(&mut self) {}

    /// The experts that each token of the last step chose: per layer `[tokens, top_k]`.
    fn routing(&self) -> &[Vec<u32>];

    /// Reads a state tensor, rows of `width` elements.
    fn read_state(&mut self, tensor: TensorId) -> Result<Vec<f32>, ExecuteError>;

    /// Reads several state tensors, each as [`read_state`](Self::read_state) does, with few waits for the device.
    fn read_states(&mut self, tensors: &[TensorId]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        tensors.iter().map(|&tensor| self.read_state(tensor)).collect()
    }

    /// Overwrites a state tensor with what [`read_state`](Self::read_state) gave.
    fn write_state(&mut self, tensor: TensorId, values: &[f32]) -> Result<(), ExecuteError>;

    /// Reads keys and values of positions `0..positions`, `[positions, width]` each.
    fn read_kv(&mut self, kv: KvId, positions: usize) -> Result<(Vec<f32>, Vec<f32>), ExecuteError> {
        self.read_kv_rows(kv, 0..positions)
    }

    /// Reads keys and values of some positions, `[positions, width]` each.
    fn read_kv_rows(&mut self, kv: KvId, positions: Range<usize>) -> Result<(Vec<f32>, Vec<f32>), ExecuteError>;

    /// Overwrites keys and values from position `first` on, `[positions, width]` each.
    fn write_kv_rows(&mut self, kv: KvId, first: usize, keys: &[f32], values: &[f32]) -> Result<(), ExecuteError>;

    /// Times every kernel from now on. This costs a pass per kernel; `false` when the device has no timestamps.
    fn profile(&mut self) -> bool {
        false
    }

    /// Times since [`Executor::profile`], longest first.
    fn kernel_times(&self) -> Vec<KernelTime> {
        Vec::new()
    }

    /// Time that the host has waited for the device so far, reads of experts left out.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// How long the host waits for a submission that does nothing: what each wait for the router costs at least.
    /// `None` for a device that the host does not wait for.
    fn round_trip(&mut self) -> Result<Option<Duration>, ExecuteError> {
        Ok(None)
    }

    /// Steps since [`Executor::profile`].
    fn profiled_steps(&self) -> ProfiledSteps {
        ProfiledSteps::default()
    }

    /// Bytes per second at which the device reads its memory, measured now; `None` where that cannot be timed.
    fn bandwidth(&self) -> Result<Option<f64>, ExecuteError> {
        Ok(None)
    }

    /// Waits until everything that was submitted is done.
    fn finish(&mut self) -> Result<(), ExecuteError> {
        Ok(())
    }

    /// The expert store of a recording with routed experts.
    fn expert_store(&mut self) -> Option<&mut ExpertStore>;

    /// Counters of the expert store.
    fn expert_stats(&self) -> StoreStats;

    /// Sets the counters of the expert store to zero.
    fn reset_expert_stats(&mut self);
}
