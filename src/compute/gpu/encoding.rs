use crate::compute::kernel::Dispatch;

use super::pipelines::ReadyStage;
use super::profile::Profile;

/// Commands that are not submitted yet: one encoder with one pass.
#[derive(Default)]
pub(super) struct Encoding {
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    submitted: u64,
    /// Dispatches that are not submitted yet.
    pending: usize,
}

/// Something to wait for.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) index: wgpu::SubmissionIndex,
    /// Counts up from 1.
    pub(super) number: u64,
}

impl Encoding {
    /// The encoder, for copies: ends the pass.
    pub(super) fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    fn pass(&mut self, device: &wgpu::Device) -> &mut wgpu::ComputePass<'static> {
        let encoder = self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        self.pass.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime())
    }

    /// Appends dispatches of `stages` to the pass; with a profile, each has a pass of its own.
    pub(super) fn dispatch(
        &mut self,
        device: &wgpu::Device,
        profile: Option<&mut Profile>,
        stages: &[ReadyStage],
        dispatches: &[Dispatch],
    ) {
        self.pending += dispatches.len();
        match profile {
            None => {
                let pass = self.pass(device);
                for dispatch in dispatches {
                    stages[dispatch.stage].encode(pass, dispatch);
                }
            }
            Some(profile) => {
                for dispatch in dispatches {
                    let stage = &stages[dispatch.stage];
                    let mut pass = profile.pass(self.encoder(device), stage.shader, dispatch.weight_bytes);
                    stage.encode(&mut pass, dispatch);
                }
            }
        }
    }

    /// Submits what was encoded.
    pub(super) fn submit(&mut self, queue: &wgpu::Queue) -> Submission {
        self.pass = None;
        let index = queue.submit(self.encoder.take().map(wgpu::CommandEncoder::finish));
        self.submitted += 1;
        self.pending = 0;
        Submission { index, number: self.submitted }
    }

    /// Dispatches that are not submitted yet.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// The number that the next submission will have.
    pub(super) fn next_number(&self) -> u64 {
        self.submitted + 1
    }
}
