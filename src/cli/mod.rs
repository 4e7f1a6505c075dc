//! The commands, one file each. Results go to stdout, everything else to stderr.

mod asking;
mod bench;
mod calibrate;
mod chat;
mod check;
mod compare;
mod completions;
mod config_file;
mod disk;
mod doctor;
mod inspect;
mod kernel_table;
mod list;
mod logits;
mod man;
mod model;
mod models;
mod notes;
mod output;
mod pack;
mod prefill_bar;
mod pull;
mod report;
mod rm;
mod run;
#[cfg(feature = "server")]
mod serve;
mod synth;
mod verify;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use config_file::{ConfigFile, ConfigFileError};
use flashflood_backends::{NO_MEMORY_HINT, NO_THREADS_HINT};

const AFTER_HELP: &str = "A flag --some-flag may also be given as FLASHFLOOD_SOME_FLAG in the environment, or as some-flag \
in the configuration file, ~/.config/flashflood/config.toml (FLASHFLOOD_CONFIG names another). Flags come before the \
environment, the environment before the file.";

/// Runs Mixture-of-Experts language models far larger than memory.
#[derive(Parser)]
#[command(name = "flashflood", version, about, propagate_version = true, after_help = AFTER_HELP)]
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
    Chat(chat::ChatArgs),
    Inspect(inspect::InspectArgs),
    List(list::ListArgs),
    Models(models::ModelsArgs),
    Pull(pull::PullArgs),
    Rm(rm::RmArgs),
    Doctor(doctor::DoctorArgs),
    Check(check::CheckArgs),
    #[cfg(feature = "server")]
    Serve(serve::ServeArgs),
    Calibrate(calibrate::CalibrateArgs),
    Pack(pack::PackArgs),
    Verify(verify::VerifyArgs),
    Compare(compare::CompareArgs),
    Logits(logits::LogitsArgs),
    Synth(synth::SynthArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// Commands that have nothing to configure, and the one that finds out what is wrong with the configuration.
    fn runs_without_configuration(&self) -> bool {
        matches!(self, Command::Doctor(_) | Command::Completions(_) | Command::Man(_))
    }
}

/// Set by Ctrl-C; read after every token.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A chat waits for its user, and nothing reads [`INTERRUPTED`]: a signal ends the program. Ctrl-C is none there, but a key.
static AT_PROMPT: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C was pressed.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An end that is not an error: Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// The arguments of all commands, with the environment as a source of them.
fn arguments() -> clap::Command {
    config_file::with_environment(Cli::command())
}

/// What the user wants, and what they said to say so.
struct Parsed {
    cli: Cli,
    config: Result<ConfigFile, ConfigFileError>,
    /// The arguments of all commands, with defaults from the configuration file.
    program: clap::Command,
    matches: ArgMatches,
}

/// Flags, environment and configuration file. Ends the program for help and for flags that are wrong, whatever the file
/// says.
fn parse() -> Parsed {
    let plain = arguments();
    let (program, config) = match ConfigFile::read(config_file::path(), &plain) {
        Ok(config) => (config.apply(plain), Ok(config)),
        Err(error) => (plain, Err(error)),
    };
    let matches = program.clone().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    Parsed { cli, config, program, matches }
}

/// Parses the command line, runs the command, and turns errors into `error:` and `hint:` lines.
pub(crate) fn main() -> ExitCode {
    flashflood_backends::explain_lost_pages();
    flashflood_backends::explain_no_memory();
    let Parsed { cli, config, program, matches } = parse();
    if let Err(error) = &config
        && !cli.command.runs_without_configuration()
    {
        report(&error.clone().into());
        return ExitCode::from(2);
    }
    // the instance reports as errors what is no more than a machine without a driver
    let level = match (&cli.command, cli.verbose) {
        (_, true) => "flashflood=debug,warn",
        // a line a request
        #[cfg(feature = "server")]
        (Command::Serve(_), false) => {
            "warn,flashflood::server=info,wgpu_hal=error,wgpu_hal::vulkan::instance=off,wgpu_core=error,naga=error"
        }
        _ => "warn,wgpu_hal=error,wgpu_hal::vulkan::instance=off,wgpu_core=error,naga=error",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // that a line could not be written would be said there as well, and end the program
    let log = log.log_internal_errors(false);
    match &cli.command {
        #[cfg(feature = "server")]
        Command::Serve(args) if args.log_format == serve::LogFormat::Json => log.json().flatten_event(true).init(),
        _ => log.with_ansi(colour).without_time().with_target(false).init(),
    }
    if let Err(error) = start_threads() {
        report(&error);
        return ExitCode::FAILURE;
    }
    // the second Ctrl-C does not wait for the token to end
    let handler = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) || AT_PROMPT.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        tracing::warn!("Ctrl-C ends the program at once: {e}");
    }
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::List(args) => list::run(args),
        Command::Models(args) => models::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Doctor(args) => {
            let given = matches.subcommand_matches("doctor").unwrap_or(&matches);
            doctor::run(args, config, &program, given)
        }
        Command::Check(args) => check::run(args),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
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

/// Starts the threads that compute.
fn start_threads() -> anyhow::Result<()> {
    let count = flashflood_backends::machine::threads();
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(|error| {
        anyhow::anyhow!(
            "the system has no {count} threads for this program: {error} (hint: {NO_THREADS_HINT}, or set \
             RAYON_NUM_THREADS=1)"
        )
    })
}

/// Whoever reads our output has enough: `flashflood run … | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// `error: what: why`, and the hint, if there is one, on a line of its own.
fn report(error: &anyhow::Error) {
    let (message, hint) = split_hint(error);
    let hint = hint.or_else(|| error.chain().any(is_no_memory).then(|| NO_MEMORY_HINT.to_owned()));
    // nobody may be reading these either
    let mut out = std::io::stderr();
    let _ = writeln!(out, "error: {}", notes::printable(&message));
    if let Some(hint) = hint {
        let _ = writeln!(out, "hint: {}", notes::printable(&hint));
    }
}

/// Whether an error is that there was no memory.
fn is_no_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::OutOfMemory)
        || error.is::<std::collections::TryReserveError>()
}

/// `what: why` of an error and its causes, and the hint that the message carries at its end.
fn split_hint(error: &anyhow::Error) -> (String, Option<String>) {
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
    match message.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => match message.split_once(" (hint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.strip_suffix(')').unwrap_or(hint).to_owned())),
            None => (message, None),
        },
    }
}
