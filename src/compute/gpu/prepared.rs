//! A token that is recorded while the one before is computed. Which token it is, is written into the inputs just before it
//! is submitted; where it is, is part of what is recorded.

use std::time::Instant;

use super::device::GpuDevice;
use crate::compute::step::Step;

/// A step that is recorded, and not submitted.
pub(super) struct Prepared {
    step: Step,
    commands: Vec<wgpu::CommandBuffer>,
}

impl GpuDevice {
    /// Records what follows without submitting it; `false` with a profile, whose steps are made of other commands.
    pub(super) fn begin_recording_ahead(&mut self) -> bool {
        if self.profile.is_some() {
            return false;
        }
        self.submit_after[1] = usize::MAX;
        self.started = Instant::now();
        true
    }

    /// Keeps what was recorded for `step`.
    pub(super) fn end_recording_ahead(&mut self, step: Step) {
        let commands = self.encoding.take();
        self.prepared = Some(Prepared { step, commands });
        self.encoding.recorded_ahead(self.started.elapsed());
        self.encoding.spans.host("record the next token", self.started);
    }

    /// Puts what was recorded for `step` in the place of recording it now. What was recorded for another is dropped.
    pub(super) fn take_recorded(&mut self, step: &Step) -> bool {
        match self.prepared.take() {
            Some(prepared) if prepared.step == *step && self.profile.is_none() => {
                self.encoding.put_back(prepared.commands);
                true
            }
            _ => false,
        }
    }
}
