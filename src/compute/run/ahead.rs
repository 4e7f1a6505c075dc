//! A token's step that is prepared while the device computes the one before.

use super::Runner;
use crate::compute::device::Device;
use crate::compute::step::{ExecuteError, LogitRows, Phase, Step};

impl<D: Device + ?Sized> Runner<D> {
    /// Prepares the step that will probably follow `step`: the next token. What it is does not matter, only where.
    pub(super) fn prepare_next(&mut self, step: &Step) -> Result<(), ExecuteError> {
        let next = Step::decode(step.position + step.tokens);
        let is_expected = step.phase == Phase::Decode || step.logits == LogitRows::Last;
        if !is_expected || !self.patterns.is_empty() || next.check(&self.recording, self.context).is_err() {
            return Ok(());
        }
        if !self.device.looks_up() {
            return Ok(());
        }
        self.device.reach(next.position + next.tokens)?;
        if !self.device.begin_preparing() {
            return Ok(());
        }
        let recording = self.recording.clone();
        // it waits for nothing, so that no expert is asked for
        self.run_operations(&recording, 0..recording.steps.len(), &next, None)?;
        self.device.end_preparing(next);
        Ok(())
    }

    /// Runs a step as it was prepared; `false` where it was not.
    pub(super) fn run_prepared(&mut self, step: &Step) -> bool {
        self.patterns.is_empty() && self.device.run_prepared(step)
    }
}
