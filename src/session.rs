//! One timeline of tokens: extend it, make it another one that begins alike, read logits.

#[cfg(test)]
pub(crate) mod contents;
mod probabilities;
mod saved;
mod step_size;
mod sync;

use std::time::Duration;

pub use probabilities::LogProbabilities;
pub(crate) use probabilities::PromptScores;
pub use saved::Restored;
pub use sync::{PrefillProgress, Synced};

use rayon::prelude::*;

use crate::compute::{ExecuteError, HostWork, KernelTime, LogitRows, Phase, ProfiledSteps, Span, Step};
use crate::engine::{Engine, Pace};
use crate::experts::trace::Trace;
use crate::experts::{ExpertStore, StoreStats};
use crate::state::{CheckpointOptions, Checkpoints, SessionFileError};
use crate::text::{GrammarError, Sampler, TextError, TokenMask};

/// Largest number of candidates that are taken from the GPU instead of all logits.
const CANDIDATES: usize = 64;

/// The same where the choice may not be certain from them.
const MOST_CANDIDATES: usize = 256;

/// What can go wrong while a session runs.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The device or the experts.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The sampler.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The grammar of the answer.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// An id that is not a token.
    #[error("token {id} of the prompt: expected less than {vocab} (rows of the embedding)")]
    Token {
        /// What was given.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// More tokens than caches have room for. Nothing is cut off silently.
    #[error("the context holds {context} tokens, {position} are in use and {more} more were given (hint: raise --ctx)")]
    ContextFull {
        /// Positions there are.
        context: usize,
        /// Positions in use.
        position: usize,
        /// Tokens to add.
        more: usize,
    },
    /// A step failed before, halfway through the layers: recurrent state cannot be rewound. [`Session::sync`] goes back
    /// to the last checkpoint.
    #[error("an earlier step of this session failed halfway; start a new session")]
    Broken,
    /// A session file.
    #[error(transparent)]
    File(#[from] SessionFileError),
}

#[cfg(feature = "server")]
impl SessionError {
    /// Whether somebody gave up what was to be done, and nothing is wrong.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self, SessionError::Execute(ExecuteError::Interrupted))
    }
}

/// One timeline of tokens on an engine.
pub struct Session<'a> {
    engine: &'a mut Engine,
    tokens: Vec<u32>,
    broken: bool,
    trace: Option<Trace>,
    checkpoints: Checkpoints,
}

impl Engine {
    /// A new timeline of tokens. An engine has one at a time: starting another ends the last.
    pub fn session(&mut self) -> Result<Session<'_>, ExecuteError> {
        Session::new(self)
    }
}

impl<'a> Session<'a> {
    fn new(engine: &'a mut Engine) -> Result<Self, ExecuteError> {
        engine.runner.reset()?;
        let checkpoints = Checkpoints::new(CheckpointOptions::on_this_machine(), engine.recording.tensor_bytes(true));
        Ok(Session { engine, tokens: Vec::new(), broken: false, trace: None, checkpoints })
    }

    /// Positions that there is room for.
    pub(crate) fn context(&self) -> usize {
        self.engine.context
    }

    /// All tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Runs `tokens`, which were not sampled one by one, in steps of at most the engine's chunk, and of fewer when all logits
    /// are wanted. Logits are kept for the last step's rows; `each_step` is
    /// called after every step with the session and the tokens done, and ends the work early by returning `false`.
    pub fn extend(
        &mut self,
        tokens: &[u32],
        logits: LogitRows,
        mut each_step: impl FnMut(&mut Self, usize) -> bool,
    ) -> Result<(), SessionError> {
        self.check(tokens)?;
        let recording = &self.engine.recording;
        let chunk = if logits == LogitRows::All { recording.logit_rows() } else { recording.max_tokens };
        let steps = tokens.len().div_ceil(chunk);
        let mut done = 0;
        for (i, now) in tokens.chunks(chunk).enumerate() {
            let rows = if logits == LogitRows::Last && i + 1 < steps { LogitRows::None } else { logits };
            self.step(now, Step::prefill(now.len(), self.tokens.len(), rows))?;
            done += now.len();
            if !each_step(self, done) {
                break;
            }
        }
        Ok(())
    }

    /// Runs a token that was chosen from the logits of the last, and keeps its logits.
    pub fn decode(&mut self, token: u32) -> Result<(), SessionError> {
        self.check(&[token])?;
        self.step(&[token], Step::decode(self.tokens.len()))
    }

    /// Whether `more` tokens can follow.
    fn check(&self, more: &[u32]) -> Result<(), SessionError> {
        if self.broken {
            return Err(SessionError::Broken);
        }
        self.check_from(self.tokens.len(), more)
    }

    /// Whether `more` are tokens, and have room from `position` on.
    fn check_from(&self, position: usize, more: &[u32]) -> Result<(), SessionError> {
        let vocab = self.engine.embed.rows;
        if let Some(&id) = more.iter().find(|id| **id as usize >= vocab) {
            return Err(SessionError::Token { id, vocab });
        }
        let context = self.engine.context;
        if position + more.len() > context {
            return Err(SessionError::ContextFull { context, position, more: more.len() });
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], step: Step) -> Result<(), SessionError> {
        self.step_watched(tokens, step, &mut |_| true)
    }

    /// Runs a step; `layer_done` is as in [`Runner::run_watched`](crate::compute::Runner::run_watched).
    fn step_watched(
        &mut self,
        tokens: &[u32],
        step: Step,
        layer_done: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), SessionError> {
        let engine = &mut *self.engine;
        let hidden = engine.shape.hidden;
        let mut embedded = vec![0.0; tokens.len() * hidden.next_multiple_of(4)];
        let rows = embedded.par_chunks_exact_mut(hidden.next_multiple_of(4));
        rows.zip(tokens).for_each(|(row, &id)| {
            engine.embed.unpack_row(id as usize, &mut row[..hidden]);
        });
        let rope = engine.shape.rope_table(step.position, tokens.len());
        engine.relieve_memory();
        let begun = engine.activity().begin(|| engine.waits());
        // a panic within leaves a session that is broken as well
        self.broken = true;
        engine.runner.run_watched(step, &embedded, &rope, engine.store.as_mut(), layer_done)?;
        self.broken = false;
        if let Some(begun) = begun {
            engine.activity().end(&begun, tokens.len(), step.phase == Phase::Prefill, engine.waits());
        }
        self.tokens.extend_from_slice(tokens);
        if let Some(trace) = &mut self.trace {
            trace.steps.push(self.engine.runner.routing().to_vec());
        }
        Ok(())
    }

    /// Logits of the last step's rows, `[rows, vocab]`.
    pub fn logits(&mut self) -> Result<Vec<f32>, SessionError> {
        Ok(self.engine.runner.logits()?)
    }

    /// The experts that each token of the last step chose: per layer `[tokens, top_k]`. Nothing where the device finds all
    /// experts in memory by itself, unless logits of all rows or a trace were asked for.
    pub fn routing(&self) -> &[Vec<u32>] {
        self.engine.runner.routing()
    }

    /// Records which experts are chosen, from the next step on.
    pub fn trace_experts(&mut self) {
        self.engine.runner.keep_routing();
        self.trace = Some(Trace::new(self.engine.trace_shape()));
    }

    /// Ends the recording: what was chosen since [`trace_experts`](Self::trace_experts), if that was called.
    pub fn take_expert_trace(&mut self) -> Option<Trace> {
        self.trace.take()
    }

    /// How fast the engine works.
    pub(crate) fn pace(&self) -> &Pace {
        self.engine.pace()
    }

    /// Lets at most `slots` experts stay in memory from the next step on, for a program that is asked to give memory
    /// back; never fewer than a token needs, never more than the memory plan has. The text does not depend on it. With
    /// every expert in memory for good (`ExpertBudget::All`) nothing is given back.
    pub fn limit_experts(&mut self, slots: usize) {
        if let Some(store) = &mut self.engine.store {
            store.set_limit(slots);
        }
    }

    /// Chooses the next token after the last one run with logits. `vocab` leaves padding rows out.
    pub fn sample(&mut self, sampler: &mut Sampler, vocab: usize) -> Result<u32, SessionError> {
        let vocab = vocab.min(self.engine.shape.vocab);
        match sampler.candidates_needed().filter(|n| *n <= CANDIDATES) {
            Some(candidates) => {
                let top = self.engine.runner.top_logits(candidates, vocab)?;
                Ok(sampler.sample_from(&top)?)
            }
            None => {
                if let Some(token) = self.sample_from_summary(sampler, vocab)? {
                    return Ok(token);
                }
                let mut logits = self.engine.runner.logits()?;
                // no logits, before the first step, are an error of the sampler
                let last = logits.len().saturating_sub(self.engine.shape.vocab);
                let end = logits.len().min(last + vocab);
                Ok(sampler.sample(&mut logits[last..end], &self.tokens)?)
            }
        }
    }

    /// The same token from a few KB of what a GPU tells of its logits, where that is certain.
    fn sample_from_summary(&mut self, sampler: &mut Sampler, vocab: usize) -> Result<Option<u32>, SessionError> {
        let runner = &mut self.engine.runner;
        let Some(candidates) = sampler.candidates_wanted(MOST_CANDIDATES) else { return Ok(None) };
        match runner.summarise_logits(candidates, vocab, sampler.summed_at())? {
            Some(summary) => {
                sampler.sample_from_summary(&summary, &self.tokens, |run| Ok(runner.run_of_logits(run, vocab)?))
            }
            None => Ok(None),
        }
    }

    /// As [`sample`](Self::sample), among the tokens of `mask` if there is one; with the probabilities of the chosen token
    /// and of the `top` most likely ones if they are asked for.
    pub(crate) fn sample_among(
        &mut self,
        sampler: &mut Sampler,
        vocab: usize,
        mask: Option<&TokenMask>,
        top: Option<usize>,
    ) -> Result<(u32, Option<LogProbabilities>), SessionError> {
        if mask.is_none() && top.is_none() {
            return Ok((self.sample(sampler, vocab)?, None));
        }
        let rows = self.engine.runner.logits()?;
        let last = rows.len().saturating_sub(self.engine.shape.vocab);
        let end = rows.len().min(last + vocab.min(self.engine.shape.vocab));
        let mut logits = rows[last..end].to_vec();
        if let Some(mask) = mask {
            mask.apply(&mut logits);
        }
        let token = sampler.sample(&mut logits, &self.tokens)?;
        Ok((token, top.map(|top| LogProbabilities::of(&rows[last..], vocab, token, top))))
    }

    /// Asks for the outputs of operations whose label contains one of `patterns`, from the next step on.
    pub fn dump(&mut self, patterns: Vec<String>) {
        self.engine.runner.dump(patterns);
    }

    /// What the operations of the last step wrote that were asked for: (label, width, values).
    pub fn take_dumps(&mut self) -> Vec<(String, usize, Vec<f32>)> {
        self.engine.runner.take_dumps()
    }

    /// Times every kernel from now on; `false` when the device has no timestamps.
    pub fn profile(&mut self) -> bool {
        self.engine.runner.profile()
    }

    /// Times of kernels since [`Session::profile`], longest first.
    pub fn kernel_times(&self) -> Vec<KernelTime> {
        self.engine.runner.kernel_times()
    }

    /// What the host has done so that the device computes.
    pub fn host_work(&self) -> HostWork {
        self.engine.runner.host_work()
    }

    /// Keeps what host and device do from now on, and when: kernels with a [profile](Session::profile) only.
    pub fn keep_spans(&mut self) {
        self.engine.runner.keep_spans();
    }

    /// What was kept; nothing is kept any more.
    pub fn take_spans(&mut self) -> Vec<Span> {
        self.engine.runner.take_spans()
    }

    /// Time that the host has waited for the device so far, reads of experts left out.
    pub fn waited(&self) -> Duration {
        self.engine.runner.waited()
    }

    /// How long the host waits for a submission that does nothing; `None` for a device that it does not wait for.
    pub fn round_trip(&mut self) -> Result<Option<Duration>, SessionError> {
        Ok(self.engine.runner.round_trip()?)
    }

    /// Steps since [`Session::profile`], and what the host did in them.
    pub fn profiled_steps(&self) -> ProfiledSteps {
        self.engine.runner.profiled_steps()
    }

    /// Bytes per second at which the device reads its memory, measured now; `None` where that cannot be timed.
    pub fn bandwidth(&self) -> Result<Option<f64>, SessionError> {
        Ok(self.engine.runner.bandwidth()?)
    }

    /// Waits until the device has done everything asked of it.
    pub fn finish(&mut self) -> Result<(), SessionError> {
        Ok(self.engine.runner.finish()?)
    }

    /// Counters of the expert store.
    pub fn expert_stats(&self) -> StoreStats {
        self.engine.store.as_ref().map(ExpertStore::stats).unwrap_or_default()
    }

    /// Sets the counters of the expert store to zero.
    pub fn reset_expert_stats(&mut self) {
        if let Some(store) = &mut self.engine.store {
            store.reset_stats();
        }
    }
}
