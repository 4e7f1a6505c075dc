//! One run of a recording: which tokens, what for, and what can go wrong.

use std::ops::Range;
use std::time::{Duration, Instant};

use flashflood_backends::NO_MEMORY_HINT;

use crate::experts::StoreError;
use crate::file_error::FileError;

use super::recording::Recording;

/// Which kernels a step runs. They add up in different orders, so a token's bits depend on its phase, and not on how
/// many tokens are with it. The exception is [`DeltaNet`](super::ops::DeltaNet) in prefill: a prompt gives the same bits
/// however memory decides its chunks as long as all of them but the last are multiples of 32 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Tokens of a prompt: kernels that share every weight they read among many tokens.
    Prefill,
    /// One token after the other: kernels that read every weight as fast as memory gives it.
    Decode,
}

/// One run of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
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
    /// The least tokens of a step after which its state can be [marked](super::Runner::mark): as many inputs as a convolution
    /// may look back at.
    pub(crate) const LEAST_MARK: usize = 8;

    /// The parts of its tokens that end at `marks`, and the rest.
    pub(crate) fn parts<'a>(&self, marks: &'a [usize]) -> impl Iterator<Item = (Range<usize>, Option<usize>)> + 'a {
        let last = (marks.last().is_none_or(|mark| *mark < self.tokens)).then_some((self.tokens, None));
        let ends = marks.iter().enumerate().map(|(index, end)| (*end, Some(index))).chain(last);
        let mut start = 0;
        ends.map(move |(end, mark)| (std::mem::replace(&mut start, end)..end, mark))
    }

    /// A token that follows those that were run, and whose logits are wanted.
    pub(crate) fn decode(position: usize) -> Step {
        Step { phase: Phase::Decode, tokens: 1, position, logits: LogitRows::Last }
    }

    /// Tokens of a prompt.
    pub(crate) fn prefill(tokens: usize, position: usize, logits: LogitRows) -> Step {
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
    pub(crate) fn logit_rows(&self) -> (usize, usize) {
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
pub(crate) type TopLogits = Vec<(u32, f32)>;

/// What a device tells of a row of logits.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogitsSummary {
    /// The most likely tokens, most likely first.
    pub top: Vec<(u32, f32)>,
    /// Of each run of [`RUN`](Self::RUN) tokens, the last of which may be shorter.
    pub runs: Vec<RunTotal>,
    /// Tokens there are.
    pub vocab: usize,
}

/// What a run of logits adds up to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunTotal {
    /// The largest of them.
    pub largest: f32,
    /// The sum of `exp((logit - largest) / temperature)`.
    pub total: f32,
}

impl LogitsSummary {
    /// Tokens of a run.
    pub(crate) const RUN: usize = 1024;

    /// What all runs add up to, of weights where that of a logit `highest` is 1.
    pub(crate) fn total(&self, highest: f64, temperature: f64) -> f64 {
        self.runs.iter().map(|run| run.weight(highest, temperature)).sum()
    }
}

impl RunTotal {
    pub(crate) fn weight(&self, highest: f64, temperature: f64) -> f64 {
        // a run without a number, or of masked tokens alone, weighs nothing
        match self.largest > f32::NEG_INFINITY {
            true => f64::from(self.total) * ((f64::from(self.largest) - highest) / temperature).exp(),
            false => 0.0,
        }
    }
}

/// What can go wrong while a recording runs.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// An expert could not be read.
    #[error(transparent)]
    Experts(#[from] StoreError),
    /// A file of resident weights could not be read, on its way to the device.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// The GPU failed.
    #[error("GPU: {0}")]
    Gpu(String),
    /// The system has no memory for what a model needs beside its weights.
    #[error("there is no memory for the {0} (hint: {hint})", hint = NO_MEMORY_HINT)]
    NoMemory(&'static str),
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
    #[error("{what}: expected {expected} {unit}, found {found}")]
    StateSize {
        /// Name of the state tensor or cache.
        what: String,
        /// What is counted.
        unit: &'static str,
        /// How many it holds.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// Whoever watches a step asked for its end: part of the layers have seen its tokens.
    #[error("interrupted")]
    Interrupted,
    /// No logit is a number.
    #[error("the logits are not numbers (NaN); the weights may be damaged")]
    NotANumber,
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

/// What was timed since [`Runner::profile`](super::Runner::profile), beside the kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProfiledSteps {
    /// Steps.
    pub steps: u64,
    /// Time that the host worked on them: encoding, submitting, the expert cache. Waits for the device and for reads are
    /// left out. A pass per kernel makes encoding dearer than it is without a profile.
    pub host: Duration,
}

/// What the host has done so that a device computes, all of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostWork {
    /// Time of steps, without what follows, and without waits for the device and for reads.
    pub encode: Duration,
    /// Time in which steps were recorded that follow the one that the device computes: nothing waits for it, unless it takes
    /// longer than that.
    pub ahead: Duration,
    /// Time of submissions.
    pub submit: Duration,
    /// Submissions.
    pub submissions: u64,
    /// Dispatches.
    pub dispatches: u64,
    /// Barriers that dispatches wait at; 0 where wgpu records them, which does not tell.
    pub barriers: u64,
}

impl std::ops::Sub for HostWork {
    type Output = HostWork;

    fn sub(self, before: HostWork) -> HostWork {
        HostWork {
            encode: self.encode - before.encode,
            ahead: self.ahead - before.ahead,
            submit: self.submit - before.submit,
            submissions: self.submissions - before.submissions,
            dispatches: self.dispatches - before.dispatches,
            barriers: self.barriers - before.barriers,
        }
    }
}

/// What host or device did for a while, for pictures of a token.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// A kernel, or what the host did.
    pub name: &'static str,
    /// Whether it is a kernel. The device's clock is not the host's: the last kernel of a step ends when the host learns of it.
    pub on_device: bool,
    /// When it began.
    pub start: Instant,
    /// How long it took.
    pub time: Duration,
}
