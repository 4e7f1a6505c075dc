//! Making the timeline what a prompt says, from the nearest state there is.

use std::time::{Duration, Instant};

use super::step_size::StepSize;
use super::{PromptScores, Session, SessionError};
use crate::compute::{ExecuteError, LogitRows, Step};
use crate::experts::ExpertStore;
use crate::state::{Checkpoint, CheckpointOptions, Checkpoints, Reason, common_prefix};

/// What [`Session::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose state was there.
    pub reused: usize,
    /// Tokens that were run.
    pub computed: usize,
    /// Whoever watched asked for an end before the last token. The timeline is a beginning of the prompt then, and the
    /// session goes on from there.
    pub interrupted: bool,
}

/// How far [`Session::sync`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillProgress {
    /// Tokens of the prompt that are done, reused ones among them.
    pub done: usize,
    /// Tokens of the prompt.
    pub total: usize,
    /// Tokens of the step that runs; 0 between steps.
    pub step: usize,
    /// Layers that are done in this step.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
}

impl PrefillProgress {
    /// Tokens that are done, those of the step that runs by the share of its layers.
    pub fn tokens(&self) -> f64 {
        self.done as f64 + self.step as f64 * self.layer as f64 / self.layers.max(1) as f64
    }
}

impl Session<'_> {
    /// Sets how many checkpoints of the state are kept, from now on; those there are, are dropped. Without this, a
    /// session keeps those of [`CheckpointOptions::on_this_machine`].
    pub fn keep_checkpoints(&mut self, options: CheckpointOptions) {
        self.checkpoints = Checkpoints::new(options, self.engine.recording.tensor_bytes(true));
    }

    /// Positions of the checkpoints there are.
    #[cfg(test)]
    pub(crate) fn checkpoints(&self) -> Vec<usize> {
        self.checkpoints.kept().iter().map(|checkpoint| checkpoint.position).collect()
    }

    /// Makes the timeline equal to `tokens`, with logits for the last of them. Goes on from the live state when `tokens`
    /// extend it, else from the nearest checkpoint before they part, and runs the rest as a prompt. At least the last
    /// token is run, for its logits.
    ///
    /// Keeps checkpoints on the way: at `boundaries` (positions that later prompts are likely to share the tokens
    /// before), every so many tokens, and where the timeline stood before when it goes on from there.
    ///
    /// `on_progress` is called at the start, after every step, and after every layer within one, or more often; it ends the work early by
    /// returning `false`. When that is in the middle of a step, the timeline goes back to the last checkpoint. A session
    /// that is [`Broken`](SessionError::Broken) is whole again after this.
    ///
    /// # Errors
    /// Ids that are no tokens and more tokens than the context has room for, before anything is changed; and whatever
    /// stops a step.
    pub(crate) fn sync(
        &mut self,
        tokens: &[u32],
        boundaries: &[usize],
        on_progress: impl FnMut(PrefillProgress) -> bool,
    ) -> Result<Synced, SessionError> {
        self.check_from(0, tokens)?;
        let reused = self.go_back_for(tokens)?;
        self.run_from(reused, tokens, boundaries, None, on_progress)
    }

    /// As [`sync`](Self::sync), and finds out how likely the tokens were. For that every token is run, in steps of as many
    /// as may have logits.
    pub(crate) fn sync_and_score(
        &mut self,
        tokens: &[u32],
        boundaries: &[usize],
        scores: &mut PromptScores,
        on_progress: impl FnMut(PrefillProgress) -> bool,
    ) -> Result<Synced, SessionError> {
        self.check_from(0, tokens)?;
        self.go_back(0)?;
        self.run_from(0, tokens, boundaries, Some(scores), on_progress)
    }

    /// Keeps the state as it is now, for [`rewind`](Self::rewind).
    ///
    /// # Errors
    /// The device's, and for a session that a step failed in.
    pub fn mark(&mut self) -> Result<(), SessionError> {
        if self.broken {
            return Err(SessionError::Broken);
        }
        self.checkpoint(Reason::Turn)
    }

    /// Makes the timeline end at `position`, or at the last before it whose state was kept, and gives where. There are no
    /// logits until the next step.
    ///
    /// # Errors
    /// The device's.
    pub fn rewind(&mut self, position: usize) -> Result<usize, SessionError> {
        if position >= self.tokens.len() && !self.broken {
            return Ok(self.tokens.len());
        }
        let kept = self.checkpoint_until(position.min(self.tokens.len()));
        self.go_back(kept)?;
        Ok(kept)
    }

    /// Runs what of `tokens` is not done.
    fn run_from(
        &mut self,
        reused: usize,
        tokens: &[u32],
        boundaries: &[usize],
        mut scores: Option<&mut PromptScores>,
        mut on_progress: impl FnMut(PrefillProgress) -> bool,
    ) -> Result<Synced, SessionError> {
        let (total, layers) = (tokens.len(), self.engine.state.len());
        let mut progress = PrefillProgress { done: reused, total, step: 0, layer: 0, layers };
        let mut go_on = on_progress(progress);
        let mut stops = self.checkpoints.stops(reused, total, boundaries).into_iter().peekable();
        let most = match scores {
            Some(_) => self.engine.recording.logit_rows(),
            None => self.engine.recording.max_tokens,
        };
        let is_in_memory = self.engine.store.as_ref().is_none_or(ExpertStore::holds_all);
        let mut size = StepSize::new(most, is_in_memory, self.engine.runner.is_on_pool());
        while go_on && self.tokens.len() < total {
            let done = self.tokens.len();
            let mut end = total.min(done + size.tokens());
            // state is copied in the middle of a step where that can be: a step more would read the experts once more
            if let Some((at, _)) = stops.peek().filter(|(at, _)| *at < done + Step::LEAST_MARK) {
                end = end.min(*at);
            }
            let marks: Vec<_> = std::iter::from_fn(|| stops.next_if(|(at, _)| *at <= end)).collect();
            self.engine.runner.mark(marks.iter().filter(|(at, _)| *at < end).map(|(at, _)| at - done).collect());
            let now = &tokens[done..end];
            let rows = match scores {
                Some(_) => LogitRows::All,
                None if end == total => LogitRows::Last,
                None => LogitRows::None,
            };
            let (mut since, mut slowest) = (Instant::now(), Duration::ZERO);
            let mut layer_done = |layer| {
                slowest = slowest.max(since.elapsed());
                let go_on = on_progress(PrefillProgress { done, step: now.len(), layer, ..progress });
                // what whoever watches takes is not the layer's
                since = Instant::now();
                go_on
            };
            match self.step_watched(now, Step::prefill(now.len(), done, rows), &mut layer_done) {
                Err(SessionError::Execute(ExecuteError::Interrupted)) => {
                    let kept = self.checkpoint_until(done);
                    self.go_back(kept)?;
                    return Ok(Synced {
                        reused: reused.min(kept),
                        computed: kept.saturating_sub(reused),
                        interrupted: true,
                    });
                }
                result => result?,
            }
            size.learn(now.len(), slowest);
            if let Some(scores) = &mut scores {
                scores.add(
                    &self.engine.runner.logits()?,
                    self.engine.shape.vocab,
                    &tokens[done + 1..total.min(end + 1)],
                );
            }
            for ((position, reason), state) in marks.iter().zip(self.engine.runner.take_marked()?) {
                self.checkpoints.insert(Checkpoint { position: *position, reason: *reason, state });
            }
            if let Some((_, reason)) = marks.last().filter(|(at, _)| *at == end) {
                self.checkpoint(*reason)?;
            }
            progress.done = self.tokens.len();
            go_on = on_progress(progress);
        }
        let computed = self.tokens.len() - reused;
        Ok(Synced { reused, computed, interrupted: self.tokens.len() < total })
    }

    /// How many of `tokens` have their state in this session: at most all but the last.
    pub(super) fn usable(&self, tokens: &[u32]) -> usize {
        let most = common_prefix(&self.tokens, tokens).min(tokens.len().saturating_sub(1));
        if self.tokens.len() <= most && !self.broken { self.tokens.len() } else { self.checkpoint_until(most) }
    }

    /// The last position until `most` that the session can go back to.
    fn checkpoint_until(&self, most: usize) -> usize {
        match self.engine.recording.state.is_empty() {
            // attention alone: rows of the cache that are not wanted are overwritten
            true => most,
            false => self.checkpoints.last_until(most).map_or(0, |checkpoint| checkpoint.position),
        }
    }

    /// Goes to where `tokens` are run from, and gives the position.
    fn go_back_for(&mut self, tokens: &[u32]) -> Result<usize, SessionError> {
        let start = self.usable(tokens);
        if start == self.tokens.len() && !self.broken {
            // The live state is that of the end of a turn. It is kept now that it will be overwritten: most turns of
            // templates that drop thoughts part before it, and would have copied it for nothing.
            if self.checkpoints.is_worth(start) {
                self.checkpoint(Reason::Turn)?;
            }
        } else {
            self.go_back(start)?;
        }
        Ok(start)
    }

    /// Makes `position` the end of the timeline: 0, that of a checkpoint, or any where there is no recurrent state. Drops
    /// the checkpoints beyond it.
    fn go_back(&mut self, position: usize) -> Result<(), SessionError> {
        // until the state is whole
        self.broken = true;
        self.engine.runner.reset()?;
        if let Some(checkpoint) = self.checkpoints.last_until(position).filter(|c| c.position == position) {
            for (&tensor, values) in self.engine.recording.state.iter().zip(&checkpoint.state) {
                self.engine.runner.write_state(tensor, values)?;
            }
        }
        self.tokens.truncate(position);
        self.checkpoints.forget_beyond(position);
        self.broken = false;
        Ok(())
    }

    /// Keeps a checkpoint of the live state.
    fn checkpoint(&mut self, reason: Reason) -> Result<(), SessionError> {
        let engine = &mut *self.engine;
        let state = engine.runner.read_states(&engine.recording.state)?;
        self.checkpoints.insert(Checkpoint { position: self.tokens.len(), reason, state });
        Ok(())
    }
}
