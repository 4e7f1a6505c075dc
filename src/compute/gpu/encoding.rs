use std::time::{Duration, Instant};

use flashflood_backends::gpu::chain::Chain;

use crate::compute::kernel::Dispatch;
use crate::compute::step::HostWork;

use super::profile::Profile;
use super::ready::{ReadyStages, Way};
use super::spans::Spans;

/// Commands that are not submitted yet.
#[derive(Default)]
pub(super) struct Encoding {
    open: Open,
    /// What was encoded before what is open.
    finished: Vec<wgpu::CommandBuffer>,
    /// Dropped after what uses its pipelines and bind groups.
    pub(super) chain: Option<Chain>,
    submitted: u64,
    /// Dispatches that are not submitted yet.
    pending: usize,
    work: HostWork,
    pub(super) spans: Spans,
}

/// The encoder that commands are appended to. One of wgpu's takes either wgpu's commands or those of a chain.
#[derive(Default)]
#[expect(clippy::large_enum_variant, reason = "a device has one, and each is made many times a token")]
enum Open {
    #[default]
    Nothing,
    /// Copies, and dispatches in a pass.
    Wgpu(wgpu::CommandEncoder, Option<wgpu::ComputePass<'static>>),
    /// Dispatches of a chain.
    Chain(wgpu::CommandEncoder),
}

/// Something to wait for.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) index: wgpu::SubmissionIndex,
    /// Counts up from 1.
    pub(super) number: u64,
}

impl Encoding {
    /// Nothing yet; dispatches of stages for a chain need one.
    pub(super) fn new(chain: Option<Chain>) -> Self {
        Encoding { chain, ..Encoding::default() }
    }

    /// Ends what is open.
    fn close(&mut self) {
        match std::mem::take(&mut self.open) {
            Open::Nothing => {}
            Open::Wgpu(encoder, pass) => {
                drop(pass);
                self.finished.push(encoder.finish());
            }
            Open::Chain(mut encoder) => {
                if let Some(chain) = &mut self.chain {
                    chain.end(&mut encoder);
                }
                self.finished.push(encoder.finish());
            }
        }
    }

    /// Encoder and pass of wgpu's commands.
    fn wgpu(&mut self, device: &wgpu::Device) -> (&mut wgpu::CommandEncoder, &mut Option<wgpu::ComputePass<'static>>) {
        if !matches!(self.open, Open::Wgpu(..)) {
            self.close();
            self.open = Open::Wgpu(device.create_command_encoder(&Default::default()), None);
        }
        match &mut self.open {
            Open::Wgpu(encoder, pass) => (encoder, pass),
            _ => unreachable!("it was opened above"),
        }
    }

    /// An encoder for copies: ends the pass.
    pub(super) fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        let (encoder, pass) = self.wgpu(device);
        *pass = None;
        encoder
    }

    /// Appends dispatches of an operation; with a profile, each has a pass of its own, of wgpu.
    pub(super) fn dispatch(
        &mut self,
        device: &wgpu::Device,
        profile: Option<&mut Profile>,
        stages: &ReadyStages,
        dispatches: &[Dispatch],
    ) {
        self.pending += dispatches.len();
        self.work.dispatches += dispatches.len() as u64;
        match (&stages.way, profile) {
            (Way::Chain(stages), _) => {
                if !matches!(self.open, Open::Chain(_)) {
                    self.close();
                    self.open = Open::Chain(device.create_command_encoder(&Default::default()));
                    if let (Some(chain), Open::Chain(encoder)) = (&mut self.chain, &mut self.open) {
                        chain.begin(encoder);
                    }
                }
                if let (Some(chain), Open::Chain(encoder)) = (&mut self.chain, &mut self.open) {
                    let mut links = dispatches.iter().map(|dispatch| stages[dispatch.stage].link(dispatch));
                    let recorded = chain.record(encoder, &mut links);
                    self.work.barriers += recorded.barriers;
                }
            }
            (Way::Passes(stages), None) => {
                let (encoder, pass) = self.wgpu(device);
                let pass =
                    pass.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
                for dispatch in dispatches {
                    stages[dispatch.stage].encode(pass, dispatch);
                }
            }
            (Way::Passes(ready), Some(profile)) => {
                for dispatch in dispatches {
                    let shader = stages.shaders[dispatch.stage];
                    let mut pass = profile.pass(self.encoder(device), shader, dispatch.weight_bytes);
                    ready[dispatch.stage].encode(&mut pass, dispatch);
                }
            }
        }
    }

    /// Takes what was encoded, which was not submitted.
    pub(super) fn take(&mut self) -> Vec<wgpu::CommandBuffer> {
        self.close();
        self.pending = 0;
        std::mem::take(&mut self.finished)
    }

    /// Appends what was [taken](Self::take).
    pub(super) fn put_back(&mut self, commands: Vec<wgpu::CommandBuffer>) {
        self.close();
        self.finished.extend(commands);
    }

    /// Submits what was encoded.
    pub(super) fn submit(&mut self, queue: &wgpu::Queue) -> Submission {
        let start = Instant::now();
        self.close();
        let index = queue.submit(self.finished.drain(..));
        self.submitted += 1;
        self.pending = 0;
        self.work.submissions += 1;
        self.work.submit += start.elapsed();
        self.spans.host("submit", start);
        Submission { index, number: self.submitted }
    }

    /// Submissions up to `number` are done.
    pub(super) fn done(&mut self, number: u64) {
        if let Some(chain) = &mut self.chain {
            chain.done(number);
        }
    }

    /// Dispatches that are not submitted yet.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// The number that the next submission will have.
    pub(super) fn next_number(&self) -> u64 {
        self.submitted + 1
    }

    /// A step has taken the host so long, without its waits and submissions.
    pub(super) fn encoded(&mut self, time: Duration) {
        self.work.encode += time;
    }

    /// A step to come has taken the host so long, while the device computed.
    pub(super) fn recorded_ahead(&mut self, time: Duration) {
        self.work.ahead += time;
    }

    /// What was encoded and submitted so far.
    pub(super) fn work(&self) -> HostWork {
        self.work
    }
}
