//! The commands, one file each. Results go to stdout, everything else to stderr.

mod bench;
mod kernel_table;
mod logits;
mod model;
mod pack;
mod run;
#[cfg(feature = "server")]
mod serve;
mod synth;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

/// Runs Mixture-of-Experts language models far larger than memory.
#[derive(Parser)]
#[command(name = "flashflood", version, about, propagate_version = true)]
struct Cli {
    /// Say more about what happens (also: RUST_LOG)
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    #[cfg(feature = "server")]
    Serve(serve::ServeArgs),
    Pack(pack::PackArgs),
    Logits(logits::LogitsArgs),
    Synth(synth::SynthArgs),
    Bench(bench::BenchArgs),
}

/// Set by Ctrl-C; read after every token.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C was pressed.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An end that is not an error: Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// Parses the command line, runs the command, and turns errors into `error:` and `hint:` lines.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // the instance reports as errors what is no more than a machine without a driver
    let level = if cli.verbose {
        "flashflood=debug,warn"
    } else {
        "warn,wgpu_hal=error,wgpu_hal::vulkan::instance=off,wgpu_core=error,naga=error"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .without_time()
        .with_target(false)
        .init();
    // the second Ctrl-C does not wait for the token to end
    let handler = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        tracing::warn!("Ctrl-C ends the program at once: {e}");
    }
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<Interrupted>() => ExitCode::from(130),
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            report(&e);
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads our output has enough: `flashflood run … | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// `error: what: why`, and the hint, if the message carries one in brackets at its end, on a line of its own.
fn report(error: &anyhow::Error) {
    let mut message = String::new();
    let mut last: Option<String> = None;
    for cause in error.chain() {
        let text = cause.to_string();
        // transparent errors say what their source says
        if last.as_ref().is_none_or(|last| !last.contains(&text)) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        last = Some(text);
    }
    // hints come at the end of a message: on a line of their own, or in brackets
    let (message, hint) = match message.split_once("\nhint: ") {
        Some((message, hint)) => (message, Some(hint)),
        None => match message.split_once(" (hint: ") {
            Some((message, hint)) => (message, Some(hint.strip_suffix(')').unwrap_or(hint))),
            None => (message.as_str(), None),
        },
    };
    // nobody may be reading these either
    let mut out = std::io::stderr();
    let _ = writeln!(out, "error: {message}");
    if let Some(hint) = hint {
        let _ = writeln!(out, "hint: {hint}");
    }
}
