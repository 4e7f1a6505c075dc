//! `flashflood doctor`: what this machine has for running models, what is missing, and where settings come from.

mod device;
mod disk;
mod settings;

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Command};
use flashflood::bytes_for_people;
use flashflood::engine::{Device, Engine, OpenedDevice};
use flashflood::hub::{Cache, Hub};
use flashflood::model::ModelSource;
use flashflood::text::GenerationConfig;
use flashflood_backends::machine;
use flashflood_backends::memory::{available_memory, total_memory};
use serde::Serialize;

use super::config_file::{self, ConfigFile, ConfigFileError};
use super::model::ModelArgs;
use super::report;
use super::{Interrupted, interrupted, split_hint};
use crate::cli::notes::note;
use settings::{Setting, settings};

/// Less free memory than this holds no model of use.
const LITTLE_MEMORY: u64 = 4_000_000_000;

/// Check this machine, and say where settings come from
///
/// Without --model, the speed of the disk is measured with a file of 256 MB in the Hugging Face cache, which is removed
/// again. Exit code 1 if a check fails.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Do not measure the disk
    #[arg(long)]
    skip_disk: bool,
    /// Write a page to share: what was found, and the JSON in it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Pass,
    /// It works, but less well than it could.
    Warn,
    /// Something will not work.
    Fail,
}

/// What a check found.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    text: String,
    /// What to do about it.
    hint: Option<String>,
}

impl Finding {
    fn pass(check: &'static str, text: impl Into<String>) -> Self {
        Finding { check, status: Status::Pass, text: text.into(), hint: None }
    }

    fn warn(check: &'static str, text: impl Into<String>, hint: &str) -> Self {
        Finding { check, status: Status::Warn, text: text.into(), hint: Some(hint.to_owned()) }
    }

    /// Of an error, which may carry its own hint.
    fn fail(check: &'static str, error: &anyhow::Error) -> Self {
        let (text, hint) = split_hint(error);
        Finding { check, status: Status::Fail, text, hint }
    }
}

/// What is printed.
#[derive(Serialize)]
struct Diagnosis {
    version: &'static str,
    findings: Vec<Finding>,
    settings: Vec<Setting>,
}

/// Runs the command. `program` has the flags of all commands, with their defaults from the file; `given` is what the
/// user gave to this one.
pub(crate) fn run(
    args: DoctorArgs,
    config: Result<ConfigFile, ConfigFileError>,
    program: &Command,
    given: &ArgMatches,
) -> anyhow::Result<()> {
    let resources = args.model.resources.options();
    let mut findings = vec![system(), memory()];
    let device = OpenedDevice::open(resources.device);
    findings.push(device::adapter(&device, resources.device));
    if let Ok(device @ OpenedDevice::Gpu(_)) = &device {
        findings.push(device::kernels(device));
    }
    let source = args.model.model.is_some().then(|| args.model.source());
    if let (Some(source), Ok(device)) = (&source, &device) {
        findings.push(match source {
            Ok(source) => plan(source, device, &resources),
            Err(error) => Finding::fail("model", error),
        });
    }
    let cache = Cache::of_user();
    findings.push(huggingface(cache.as_ref()));
    let source = source.and_then(Result::ok);
    if !args.skip_disk {
        let place = cache.as_ref().map(Cache::root);
        findings.extend(disk::findings(source.as_ref().map(ModelSource::experts), place)?);
    }
    findings.push(port());
    let generation = source.as_ref().and_then(generation_config);
    let config = match config {
        Ok(config) => {
            findings.push(match (&config.path, config_file::path()) {
                (Some(path), _) => Finding::pass("configuration", path.display().to_string()),
                (None, Some(path)) => Finding::pass("configuration", format!("no file at {}", path.display())),
                (None, None) => Finding::pass("configuration", "no file"),
            });
            config
        }
        Err(error) => {
            findings.push(Finding::fail("configuration", &error.into()));
            ConfigFile::default()
        }
    };
    if interrupted() {
        return Err(Interrupted.into());
    }
    let settings = settings(program, &config, given, generation.as_ref());
    let diagnosis = Diagnosis { version: env!("CARGO_PKG_VERSION"), findings, settings };
    if let Some(file) = &args.report {
        report::write(file, "doctor", args.model.model.as_deref(), &serde_json::to_value(&diagnosis)?)?;
        note!("{}: a page to share", file.display());
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", crate::cli::notes::json(&diagnosis)?)?,
        false => print(&mut out, &diagnosis)?,
    }
    let failed = diagnosis.findings.iter().filter(|finding| finding.status == Status::Fail).count();
    match failed {
        0 => Ok(()),
        1 => anyhow::bail!("a check failed"),
        _ => anyhow::bail!("{failed} checks failed"),
    }
}

fn system() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (system, processor) = (machine::system(), machine::processor());
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    Finding::pass("system", format!("{system}, {processor}, {threads}"))
}

fn memory() -> Finding {
    let (total, free) = (total_memory(), available_memory());
    let text = format!("{}, of which {} are free", bytes_for_people(total), bytes_for_people(free));
    match free < LITTLE_MEMORY {
        true => Finding::warn("memory", text, "close other programs: what is free holds weights and experts"),
        false => Finding::pass("memory", text),
    }
}

fn plan(source: &ModelSource, device: &OpenedDevice, options: &flashflood::engine::EngineOptions) -> Finding {
    match Engine::plan_for(source, device, options) {
        Ok(plan) => {
            let (all, free) = (bytes_for_people(plan.total()), bytes_for_people(plan.available));
            let text = format!(
                "{}: {all} of {free} free; {} of {} experts in memory, {} positions",
                source.root.display(),
                plan.slots,
                plan.all_slots,
                plan.context
            );
            Finding::pass("model", text)
        }
        Err(error) => Finding::fail("model", &error.into()),
    }
}

fn generation_config(source: &ModelSource) -> Option<GenerationConfig> {
    let json = source.text_files.generation_config.as_ref()?;
    GenerationConfig::from_json(&source.root.join("generation_config.json"), json).ok()
}

fn huggingface(cache: Option<&Cache>) -> Finding {
    let check = "Hugging Face";
    let Some(cache) = cache else {
        return Finding::warn(check, "no cache folder: the user has no home", "set HF_HOME to a folder");
    };
    let token = if Hub::has_token() { "a token" } else { "no token, which public models do not need" };
    let offline = if Hub::is_forbidden() { "; HF_HUB_OFFLINE forbids the network" } else { "" };
    match cache.repositories() {
        Ok(models) => {
            let (count, root) = (models.len(), cache.root().display());
            Finding::pass(check, format!("{count} models in {root}; {token}{offline}"))
        }
        Err(error) => Finding::fail(check, &error.into()),
    }
}

fn port() -> Finding {
    match TcpListener::bind(("127.0.0.1", 8080)) {
        Ok(_) => Finding::pass("port", "8080 is free"),
        Err(error) => Finding::warn("port", format!("8080: {error}"), "flashflood serve --port takes another"),
    }
}

fn print(out: &mut impl Write, diagnosis: &Diagnosis) -> io::Result<()> {
    for Finding { check, status, text, hint } in &diagnosis.findings {
        let status = match status {
            Status::Pass => "PASS",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        writeln!(out, "{status}  {check:<14}{text}")?;
        if let Some(hint) = hint {
            writeln!(out, "      {:<14}hint: {hint}", "")?;
        }
    }
    writeln!(out, "\nsettings of `flashflood run`, and where they come from")?;
    for Setting { flag, value, from } in &diagnosis.settings {
        if let Some(value) = value {
            writeln!(out, "  --{flag:<20}{value:<16}  {from}")?;
        }
    }
    Ok(())
}

/// Whether a check of the device may ask for a GPU: the user has not said otherwise.
fn wants_gpu(device: Device) -> bool {
    device != Device::Cpu
}
