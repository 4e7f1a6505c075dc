//! `flashflood check`: every kernel on this GPU against its CPU twin, and a small model from end to end.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use flashflood::bytes_for_people;
use flashflood::check::{CheckError, CheckOptions, CheckReport, CheckShapes, KernelRow, TimedBy, check};
use flashflood::weights::WeightFormat;

use super::model::open_source;
use super::{Interrupted, interrupted};

/// Check that this GPU computes what the CPU does: every kernel, and a small model
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The model whose shapes kernels run at, with random weights: a snapshot folder, a GGUF file, a pack, or the name of a
    /// repository in the Hugging Face cache [default: Qwen3.5-397B-A17B, which need not be there]
    #[arg(short, long, env = "FLASHFLOOD_MODEL")]
    model: Option<PathBuf>,
    /// Only kernels with NAME in their name, such as matvec or delta_net (may be repeated)
    #[arg(short, long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Small shapes, which any device computes in seconds [default: on software drivers]
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The model's shapes on software drivers too
    #[arg(long)]
    full: bool,
    /// Print JSON, for bug reports
    #[arg(long)]
    json: bool,
    /// Time kernels by the host's clock, as on devices without timestamps
    #[arg(long, hide = true)]
    host_clock: bool,
    /// Change what kernels with NAME in their name compute: the check must fail
    #[arg(long, value_name = "NAME", hide = true)]
    disturb: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: CheckArgs) -> anyhow::Result<()> {
    let model = match &args.model {
        Some(path) => {
            let source = open_source(path, &[])?;
            let bits = match source.experts().layers.first().map(|layer| layer.slot.gate.format) {
                Some(WeightFormat::Affine(affine)) => affine.bits,
                _ => 4,
            };
            Some((source.shape, bits))
        }
        None => None,
    };
    let shapes = match (args.quick, args.full) {
        (true, _) => CheckShapes::Small,
        (_, true) => CheckShapes::Model,
        _ => CheckShapes::Auto,
    };
    let options =
        CheckOptions { model, shapes, kernels: args.kernel, host_clock: args.host_clock, disturb: args.disturb };
    let mut line = StatusLine { is_shown: io::stderr().is_terminal() };
    let report = check(&options, &mut |what, part| {
        line.show(&format!("{what}: {part}"));
        !interrupted()
    });
    line.show("");
    let report = match report {
        Err(CheckError::Interrupted) => return Err(Interrupted.into()),
        Err(CheckError::Device(error)) => anyhow::bail!(
            "{error} (hint: on Linux install the GPU's Vulkan driver, on Windows its vendor's driver; the software driver of \
             mesa-vulkan-drivers is checked as well)"
        ),
        report => report?,
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        false => print(&mut out, &report)?,
    }
    let mismatches = report.mismatches();
    let Some(first) = mismatches.first() else { return Ok(()) };
    let others = match mismatches.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    anyhow::bail!(
        "{}: does not compute what the CPU does: {first}{others}\nhint: update the driver; if that does not help, report the \
         output of `flashflood check --json`. --device cpu runs without the GPU",
        report.device.name,
    )
}

/// What is being checked, on one line of a terminal.
struct StatusLine {
    is_shown: bool,
}

impl StatusLine {
    fn show(&mut self, text: &str) {
        if self.is_shown {
            let text: String = text.chars().take(78).collect();
            // nobody may be reading it
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

fn print(out: &mut impl Write, report: &CheckReport) -> io::Result<()> {
    let device = &report.device;
    writeln!(out, "{} ({}, {}) {}; {}", device.name, device.backend, device.kind, device.driver, report.system)?;
    writeln!(
        out,
        "buffers up to {}, bindings up to {}; subgroups of {} to {}; workgroups of {} threads with {}{}{}",
        bytes_for_people(device.max_buffer),
        bytes_for_people(device.max_binding),
        device.subgroups.0,
        device.subgroups.1,
        device.max_threads,
        bytes_for_people(device.max_workgroup_memory.into()),
        device.matrix_units.as_ref().map_or(String::new(), |size| format!("; matrix units of {size}")),
        device.bandwidth_gb_per_s.map_or(String::new(), |rate| format!("; reads memory at {rate:.1} GB/s")),
    )?;
    writeln!(out, "shapes: {}", report.shapes)?;
    if !report.rows.is_empty() {
        writeln!(out, "\n| kernel | tokens | shape | error / tolerance | us | rate | |")?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
    }
    for row in &report.rows {
        let error = row.error.map_or("not a number".to_owned(), |error| format!("{error:.3}"));
        let verdict = if row.agrees { "" } else { "MISMATCH" };
        let us = row.us.map_or(String::new(), |us| format!("{us:.1}"));
        let (kernel, tokens, shape, rate) = (row.kernel, row.tokens, &row.shape, rate(row));
        writeln!(out, "| {kernel} | {tokens} | {shape} | {error} | {us} | {rate} | {verdict} |")?;
    }
    if report.rows.iter().any(|row| row.timed_by == Some(TimedBy::Host)) {
        writeln!(out, "\ntimes are of the host, around all kernels of an operation: this device has no timestamps")?;
    }
    if !report.small_moe.is_empty() {
        writeln!(out, "\n| small model | same tokens | logits apart | allowed | GPU t/s | CPU t/s | |")?;
        writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
    }
    for row in &report.small_moe {
        let apart = row.logits_apart.map_or("not numbers".to_owned(), |apart| format!("{apart:.0e}"));
        writeln!(
            out,
            "| {} | {} of {} | {apart} | {:.0e} | {:.1} | {:.1} | {} |",
            row.activations,
            row.same_tokens,
            row.tokens,
            row.tolerance,
            row.gpu_tokens_per_s,
            row.cpu_tokens_per_s,
            if row.agrees { "" } else { "MISMATCH" },
        )?;
    }
    writeln!(out)?;
    if !report.not_on_this_device.is_empty() {
        writeln!(out, "not on this device: {}", report.not_on_this_device.join(", "))?;
    }
    let mismatches = report.mismatches();
    let seconds = report.seconds;
    match (mismatches.is_empty(), report.kernels()) {
        (true, 0) => writeln!(out, "none of these kernels is used on this device"),
        (true, 1) => writeln!(out, "1 kernel agrees with its CPU twin ({seconds:.0} s)"),
        (true, kernels) => writeln!(out, "all {kernels} kernels agree with their CPU twins ({seconds:.0} s)"),
        _ => mismatches.iter().try_for_each(|mismatch| writeln!(out, "MISMATCH  {mismatch}")),
    }
}

/// GB/s of weights, or GFLOP/s of products.
fn rate(row: &KernelRow) -> String {
    match (row.gb_per_s, row.gflop_per_s) {
        (Some(rate), _) => format!("{rate:.1} GB/s"),
        (_, Some(rate)) => format!("{rate:.1} GFLOP/s"),
        _ => String::new(),
    }
}
