//! What a step takes at least, by figures measured in the same run.

use std::io::{self, Write};
use std::time::Duration;

use flashflood::engine::{EngineOptions, ExpertBudget, MemoryPlan};
use flashflood::experts::Reads;
use flashflood::session::Session;
use flashflood::weights::ExpertLayout;

use super::experts;

pub(super) struct Ceiling {
    /// GB/s of the disk for reads of one expert each.
    pub(super) read_rate: Option<f64>,
    /// How many such reads were under way at a time.
    pub(super) depth: usize,
    /// All kernels of a step, one after the other.
    pub(super) kernels: Option<Duration>,
    /// A wait for the device that does nothing.
    pub(super) round_trip: Option<Duration>,
    /// How often the host waits for the device in a step.
    pub(super) waits: usize,
}

impl Ceiling {
    /// How often the host waits in a step: for the router of each layer with experts, but where all of them are in memory.
    pub(super) fn waits(options: &EngineOptions, plan: &MemoryPlan, layers: usize) -> usize {
        if plan.slots == plan.all_slots && options.experts == ExpertBudget::All { 1 } else { layers }
    }

    /// What the disk gives when the runs have read `read` bytes past the page cache; `None` when they have not.
    pub(super) fn read_rate(
        options: &EngineOptions,
        layout: &ExpertLayout,
        read: u64,
        depth: usize,
    ) -> anyhow::Result<Option<f64>> {
        let direct = options.reads.is_direct(layout, flashflood_backends::memory::available_memory());
        if !direct || read == 0 || layout.disk_bytes() == 0 {
            return Ok(None);
        }
        experts::ceiling(layout, options.reads != Reads::Threads, depth)
    }

    /// Time of all kernels of a step that `session` has profiled.
    pub(super) fn kernels(session: &Session<'_>) -> Duration {
        let all: Duration = session.kernel_times().iter().map(|t| t.time).sum();
        all.div_f64(session.profiled_steps().steps.max(1) as f64)
    }

    /// Time to read `bytes`.
    pub(super) fn reads(&self, bytes: f64) -> Duration {
        self.read_rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes / rate / 1e9))
    }

    /// The longer of kernels and the reads of `bytes`, and the waits.
    pub(super) fn least(&self, bytes: f64) -> Duration {
        let waits = self.round_trip.unwrap_or_default() * self.waits as u32;
        self.reads(bytes).max(self.kernels.unwrap_or_default()) + waits
    }

    pub(super) fn explain(&self, out: &mut impl Write) -> io::Result<()> {
        let reads = self.read_rate.map(|rate| format!("reads {rate:.2} GB/s ({} experts at a time)", self.depth));
        let kernels = self.kernels.map(|time| format!("kernels {:.2} ms", time.as_secs_f64() * 1e3));
        let waits =
            self.round_trip.map(|time| format!("{} x {:.0} us for the router", self.waits, time.as_secs_f64() * 1e6));
        let parts: Vec<String> = [reads, kernels, waits].into_iter().flatten().collect();
        if parts.is_empty() {
            Ok(())
        } else {
            writeln!(out, "\nceiling, measured after the runs: {}", parts.join("; "))
        }
    }
}
