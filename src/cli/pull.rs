//! `flashflood pull`: a model from the Hugging Face hub into the cache that all its clients share.

use std::io::Write;

use anyhow::anyhow;
use clap::Args;
use flashflood::bytes_for_people;
use flashflood::hub::{Cache, Hub, HubError, ModelName, Pull, Pulled, Report};
use flashflood::model::{ModelSource, gguf_of};
use glob::Pattern;

use super::pack::bar;
use super::{Interrupted, interrupted};
use crate::cli::notes::note;

/// Download a model from the Hugging Face hub, or go on with a download
///
/// Files go into the Hugging Face cache, where other programs find them as well. What is there is not fetched again; an
/// interrupted download goes on where it stopped when the same command is given again. HF_ENDPOINT, HF_HOME,
/// HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE are respected.
#[derive(Args)]
pub(crate) struct PullArgs {
    /// Repository, such as mlx-community/Qwen3.5-397B-A17B-4bit; of one with GGUF files also which of them, such as
    /// unsloth/Qwen3.5-35B-A3B-GGUF:UD-Q4_K_XL
    repo: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// Files to take, such as '*.json' (may be repeated) [default: weights as safetensors, and the text files beside them]
    #[arg(long, value_name = "GLOB")]
    include: Vec<Pattern>,
    /// Use no network: say where the model is, if it is here
    #[arg(long)]
    local_only: bool,
}

/// Runs the command.
pub(crate) fn run(args: PullArgs) -> anyhow::Result<()> {
    let Some(name) = ModelName::parse(&args.repo) else {
        return Err(HubError::Name { name: args.repo }.into());
    };
    if name.quantisation.is_some() && !args.include.is_empty() {
        return Err(anyhow!("--include and a quantisation ({}) both say which files to take: give one", args.repo));
    }
    let cache = Cache::of_user().ok_or(HubError::NoCache)?;
    if args.local_only || Hub::is_forbidden() {
        let why =
            if args.local_only { "--local-only forbids the network" } else { "HF_HUB_OFFLINE forbids the network" };
        return local(&cache, &name, &args, why);
    }
    let hub = Hub::of_user()?;
    let bar = bar("downloading")?;
    let revision = name.revision.unwrap_or(args.revision);
    let pull = Pull { name: name.repository, revision, include: args.include, quantisation: name.quantisation.clone() };
    let report = |report: Report<'_>| match report {
        Report::Total(bytes) => bar.set_length(bytes),
        Report::Kept(bytes) => {
            bar.inc(bytes);
            bar.reset_eta();
        }
        Report::Came(bytes) => bar.inc(bytes),
        Report::Lost(bytes) => bar.set_position(bar.position().saturating_sub(bytes)),
        Report::Note(text) => bar.suspend(|| note!("note: {text}")),
    };
    let pulled = pull.run(&hub, &cache, &report, &|| !interrupted());
    bar.finish_and_clear();
    match pulled {
        Ok(Pulled { snapshot, files, bytes }) => {
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            note!("{files}, {}", bytes_for_people(bytes));
            let model = name.quantisation.map_or(Ok(snapshot.clone()), |quant| gguf_of(&snapshot, &quant))?;
            writeln!(std::io::stdout(), "{}", model.display())?;
            Ok(())
        }
        Err(HubError::Interrupted) => {
            note!("note: the same command goes on where this one stopped");
            Err(Interrupted.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the model is here and whole, as far as its headers tell.
fn local(cache: &Cache, name: &ModelName, args: &PullArgs, why: &'static str) -> anyhow::Result<()> {
    let missing = |missing: &str| HubError::Offline { name: args.repo.clone(), missing: missing.to_owned(), why };
    let revision = name.revision.as_ref().unwrap_or(&args.revision);
    let Some(folder) = cache.snapshot(&name.repository, revision) else {
        return Err(missing("it is not in the Hugging Face cache").into());
    };
    let found = match &name.quantisation {
        Some(quant) => gguf_of(&folder, quant).map_err(anyhow::Error::from),
        None => Ok(folder),
    };
    let opened = found.and_then(|path| ModelSource::open(&path).map(|_| path).map_err(Into::into));
    match opened {
        Ok(path) => writeln!(std::io::stdout(), "{}", path.display())?,
        Err(error) => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default();
            return Err(anyhow!(missing(&format!("it is in the Hugging Face cache, but cannot be used: {text}"))));
        }
    }
    Ok(())
}
