//! The table of kernels that `bench` and `run --profile` print: where a step's time goes, beside what the device can do.

use std::io::{self, Write};

use flashflood::compute::{KernelTime, ProfiledSteps};
use flashflood::session::{Session, SessionError};

/// What a profile of some steps has found.
pub(super) struct KernelTable {
    kernels: Vec<KernelTime>,
    steps: ProfiledSteps,
    bandwidth: Option<f64>,
}

impl KernelTable {
    /// What `session` has timed since it was told to profile; measures how fast the device reads memory.
    pub(super) fn of(session: &Session<'_>) -> Result<Self, SessionError> {
        let (kernels, steps) = (session.kernel_times(), session.profiled_steps());
        let bandwidth = if kernels.is_empty() { None } else { session.bandwidth()? };
        Ok(KernelTable { kernels, steps, bandwidth })
    }

    /// Kernels with their share of the device's time, and the speed at which they read weights. Nothing where nothing
    /// was timed.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let all: f64 = self.kernels.iter().map(|t| t.time.as_secs_f64()).sum();
        if all == 0.0 {
            return Ok(());
        }
        let steps = self.steps.steps.max(1) as f64;
        let (device, host) = (all * 1e3 / steps, self.steps.host.as_secs_f64() * 1e3 / steps);
        writeln!(
            out,
            "\nkernels, timed one by one in {steps} steps: {device:.2} ms a step; beside it the host {host:.2} ms"
        )?;
        if let Some(ceiling) = self.bandwidth {
            writeln!(out, "ceiling: {} GB/s, memory that is only read", figure(ceiling / 1e9))?;
        }
        writeln!(out, "\n| kernel | calls/step | us/call | ms/step | share % | weights GB/s | of ceiling % |")?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for t in &self.kernels {
            let seconds = t.time.as_secs_f64();
            let speed = (t.weight_bytes > 0).then(|| t.weight_bytes as f64 / seconds);
            let cell = |value: Option<f64>| value.map_or(String::new(), figure);
            writeln!(
                out,
                "| {} | {:.1} | {:.1} | {:.3} | {:.1} | {} | {} |",
                t.kernel,
                t.calls as f64 / steps,
                seconds * 1e6 / t.calls.max(1) as f64,
                seconds * 1e3 / steps,
                seconds / all * 100.0,
                cell(speed.map(|s| s / 1e9)),
                cell(speed.zip(self.bandwidth).map(|(s, ceiling)| s / ceiling * 100.0)),
            )?;
        }
        Ok(())
    }
}

/// Whole numbers, but of small ones a decimal.
fn figure(value: f64) -> String {
    if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}
