//! The arguments that every command with a model has.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use flashflood::engine::{Device, Engine, EngineOptions, ExpertBudget};
use flashflood::experts::Reads;
use flashflood::model::ModelSource;

/// Which model, and with what resources.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model: a snapshot folder or a pack [default: the small model in this program]
    #[arg(short, long, env = "FLASHFLOOD_MODEL")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

/// Device and memory.
#[derive(Args)]
pub(crate) struct ResourceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t, env = "FLASHFLOOD_DEVICE")]
    pub(crate) device: Device,
    /// Positions that the context has room for [default: 8192, or what the model was trained for]
    #[arg(short = 'c', long = "ctx", value_name = "N", env = "FLASHFLOOD_CTX")]
    pub(crate) context: Option<usize>,
    /// Memory for experts: auto, all, or a size such as 512MB or 8GB
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = budget, env = "FLASHFLOOD_EXPERT_CACHE")]
    pub(crate) expert_cache: ExpertBudget,
    /// How experts are read from disk
    #[arg(long, value_enum, value_name = "HOW", default_value_t, env = "FLASHFLOOD_READS")]
    pub(crate) reads: Reads,
    /// A folder on another disk whose experts/ holds some layers' files of the pack (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub(crate) stripe: Vec<PathBuf>,
}

impl ResourceArgs {
    pub(crate) fn options(&self) -> EngineOptions {
        EngineOptions {
            device: self.device,
            context: self.context,
            experts: self.expert_cache,
            reads: self.reads,
            ..EngineOptions::default()
        }
    }
}

impl ModelArgs {
    /// Opens the model's files.
    pub(crate) fn source(&self) -> anyhow::Result<ModelSource> {
        match &self.model {
            Some(path) => Ok(ModelSource::open_striped(path, &self.resources.stripe)?),
            None if !self.resources.stripe.is_empty() => {
                anyhow::bail!("--stripe is for a pack on disk (hint: give it with --model)")
            }
            None => ModelSource::embedded().context("the model in this program"),
        }
    }

    /// Opens the model.
    pub(crate) fn open(&self, options: &EngineOptions) -> anyhow::Result<Engine> {
        let engine = Engine::from_source(self.source()?, options)?;
        tracing::info!("{}, memory:\n{}", engine.device(), engine.plan());
        Ok(engine)
    }
}

/// `auto`, `all`, or a number with an optional unit (powers of 1000 for kB, MB, GB; of 1024 for KiB, MiB, GiB).
fn budget(text: &str) -> Result<ExpertBudget, String> {
    match text {
        "auto" => return Ok(ExpertBudget::Auto),
        "all" => return Ok(ExpertBudget::All),
        _ => {}
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit '{other}'; expected B, kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("expected auto, all or a size such as 8GB, found '{text}'"))?;
    Ok(ExpertBudget::Bytes((number * unit) as u64))
}
