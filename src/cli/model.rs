//! The arguments that every command with a model has.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget, KvFormat};
use flashflood::experts::Reads;
use flashflood::hub::{Cache, HubError, ModelName, OllamaModel, OllamaStore};
use flashflood::model::{GgufHead, ModelSource, RopeScaling, gguf_of};

/// Which model, and with what resources.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model: a snapshot folder, a GGUF file, a pack, the name of a repository in the Hugging Face cache (with GGUF files
    /// ORG/NAME:Q4_K_M), or ollama:NAME:TAG [default: the small model in this program]
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
    /// What quantised weights are multiplied with
    #[arg(long, value_enum, value_name = "FORM", default_value_t, env = "FLASHFLOOD_ACTIVATIONS")]
    pub(crate) activations: Activations,
    /// Positions that the context has room for [default: what an eighth of free memory holds, 8192 at least, up to what the model knows]
    #[arg(short = 'c', long = "ctx", value_name = "N", env = "FLASHFLOOD_CTX")]
    pub(crate) context: Option<usize>,
    /// How keys and values of the context are kept: each half of the one before it, and k8v4 between q8 and tq4
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, env = "FLASHFLOOD_KV")]
    pub(crate) kv: KvFormat,
    /// Rotary positions for contexts that the model was not trained for: auto (what its config.json says), none, or YaRN as
    /// its card recommends, such as yarn:4 for 4 times as many (yarn:4:32768 for 4 times 32768, where config.json says more)
    #[arg(long, value_name = "HOW", default_value_t, env = "FLASHFLOOD_ROPE_SCALING")]
    pub(crate) rope_scaling: RopeScaling,
    /// Memory for experts: auto, all, or a size such as 512MB or 8GB
    #[arg(long, value_name = "SIZE", default_value = "auto", env = "FLASHFLOOD_EXPERT_CACHE")]
    pub(crate) expert_cache: ExpertBudget,
    /// How experts are read from disk
    #[arg(long, value_enum, value_name = "HOW", default_value_t, env = "FLASHFLOOD_READS")]
    pub(crate) reads: Reads,
    /// Most tokens of a prompt at a time: each expert is read once for all of them [default: what memory has room for, at
    /// most 4096]
    #[arg(long, value_name = "N", env = "FLASHFLOOD_CHUNK", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunk: Option<u32>,
    /// Experts of the next layer to read before its router has chosen: helps where the disk rests between layers and most
    /// guesses are right
    #[arg(long, value_name = "N", default_value_t = 0, env = "FLASHFLOOD_LOOK_AHEAD")]
    pub(crate) look_ahead: usize,
    /// Do not measure which workgroups suit this GPU: take the built-in ones
    #[arg(long, env = "FLASHFLOOD_NO_AUTOTUNE", value_parser = FalseyValueParser::new())]
    pub(crate) no_autotune: bool,
    /// Percent of the time to work: less leaves more to other programs, the fan and the battery
    #[arg(long, value_name = "N", default_value_t = 100, env = "FLASHFLOOD_POWER",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) power: u32,
    /// Do not hold a pack's resident weights and tokenizer against its checksums when it opens
    #[arg(long, env = "FLASHFLOOD_NO_VERIFY", value_parser = FalseyValueParser::new())]
    pub(crate) no_verify: bool,
    /// A folder on another disk whose experts/ holds some layers' files of the pack (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub(crate) stripe: Vec<PathBuf>,
}

impl ResourceArgs {
    pub(crate) fn options(&self) -> EngineOptions {
        EngineOptions {
            device: self.device,
            activations: self.activations,
            context: self.context,
            kv: self.kv,
            rope_scaling: self.rope_scaling,
            experts: self.expert_cache,
            reads: self.reads,
            chunk: self.chunk.map(|tokens| tokens as usize),
            look_ahead: self.look_ahead,
            autotune: !self.no_autotune,
            stripe: self.stripe.clone(),
            power: self.power,
            verify: !self.no_verify,
        }
    }
}

/// What the names of ollama's models begin with.
const OLLAMA: &str = "ollama:";

/// What `model` names: itself, or of a repository in the Hugging Face cache (`ORG/NAME`, `ORG/NAME@REVISION`) the snapshot,
/// or the GGUF file in it that `:QUANT` means; or the blob of a model of ollama's (`ollama:NAME:TAG`).
pub(crate) fn folder_of(model: &Path) -> anyhow::Result<PathBuf> {
    let text = model.to_string_lossy();
    if let Some(name) = text.strip_prefix(OLLAMA) {
        return of_ollama(name);
    }
    // a folder comes before a repository of the same name
    let Some(name) = ModelName::parse(&text).filter(|_| !model.exists()) else {
        return Ok(model.to_owned());
    };
    let cache = Cache::of_user().ok_or(HubError::NoCache)?;
    match cache.snapshot(&name.repository, name.revision()) {
        Some(folder) => match &name.quantisation {
            Some(quant) => Ok(gguf_of(&folder, quant)?),
            None => Ok(folder),
        },
        None => bail!(
            "{text}: no such folder, and no such model in the Hugging Face cache {} (hint: flashflood pull {text})",
            cache.root().display()
        ),
    }
}

fn of_ollama(name: &str) -> anyhow::Result<PathBuf> {
    let stores = OllamaStore::of_user();
    let shown = |stores: &[OllamaStore]| stores.iter().map(|store| store.root().display().to_string()).collect();
    match stores.iter().find_map(|store| store.find(name)) {
        Some(OllamaModel { blob: Some(blob), .. }) if blob.exists() => Ok(blob),
        Some(OllamaModel { blob: Some(blob), .. }) => {
            bail!("{OLLAMA}{name}: {}: the file is missing (hint: ollama pull {name})", blob.display())
        }
        Some(OllamaModel { name, blob: None, .. }) => bail!("{OLLAMA}{name}: its manifest names no GGUF file"),
        None => {
            let places: Vec<String> = shown(&stores);
            let names: Vec<String> =
                stores.iter().flat_map(OllamaStore::models).map(|model| format!("{OLLAMA}{}", model.name)).collect();
            let found = if names.is_empty() { "no models".to_owned() } else { names.join(", ") };
            bail!(
                "{OLLAMA}{name}: expected a model of ollama's in {}, found {found} (hint: ollama pull {name})",
                places.join(" or ")
            )
        }
    }
}

/// Opens the files of the model that `model` names.
pub(crate) fn open_source(model: &Path, stripe: &[PathBuf]) -> anyhow::Result<ModelSource> {
    let opened = ModelSource::open_striped(&folder_of(model)?, stripe);
    match model.to_string_lossy() {
        // its file is called by a hash
        name if name.starts_with(OLLAMA) => opened.context(name.into_owned()),
        _ => Ok(opened?),
    }
}

/// What the model at a path is called: the last part of the path, without `.gguf`.
fn name_of(path: &Path) -> String {
    let text = path.to_string_lossy();
    if let Some(name) = text.strip_prefix(OLLAMA) {
        return name.to_owned();
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let in_file = || OllamaStore::name_of(path).or_else(|| GgufHead::name_in(path));
    match name.strip_prefix("sha256") {
        // a blob: whoever gives its path knows the model by another name
        Some(hash) if hash.len() > 32 => in_file().unwrap_or_else(|| name.into_owned()),
        _ => name.strip_suffix(".gguf").unwrap_or(&name).to_owned(),
    }
}

impl ModelArgs {
    /// Opens the model's files.
    pub(crate) fn source(&self) -> anyhow::Result<ModelSource> {
        self.check_stripe()?;
        match &self.model {
            Some(path) => open_source(path, &self.resources.stripe),
            None => ModelSource::embedded().context("the model in this program"),
        }
    }

    /// What the model is called.
    pub(crate) fn name(&self) -> String {
        self.model.as_deref().map_or_else(|| "small-moe".to_owned(), name_of)
    }

    /// Opens the model.
    pub(crate) fn open(&self) -> anyhow::Result<Engine> {
        let options = self.resources.options();
        self.check_stripe()?;
        let engine = match &self.model {
            Some(path) => Engine::from_source(open_source(path, &options.stripe)?, &options)?,
            None => Engine::embedded(&options)?,
        };
        tracing::info!("{}, memory:\n{}", engine.device(), engine.plan());
        Ok(engine)
    }

    fn check_stripe(&self) -> anyhow::Result<()> {
        let is_meant = self.model.is_some() || self.resources.stripe.is_empty();
        anyhow::ensure!(is_meant, "--stripe is for a pack on disk (hint: give it with --model)");
        Ok(())
    }

    /// Makes a model ready whose files are open.
    pub(crate) fn open_source(&self, source: ModelSource, options: &EngineOptions) -> anyhow::Result<Engine> {
        let engine = Engine::from_source(source, options)?;
        tracing::info!("{}, memory:\n{}", engine.device(), engine.plan());
        Ok(engine)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn what_models_are_called() {
        let name = |path: &str| name_of(Path::new(path));
        assert_eq!(name("/models/Qwen3.5-35B-Q4_K_M.gguf"), "Qwen3.5-35B-Q4_K_M");
        assert_eq!(name("org/name"), "name");
        assert_eq!(name("org/name:Q4_K_M"), "name:Q4_K_M");
        assert_eq!(name("ollama:qwen3.5:35b"), "qwen3.5:35b");
        assert_eq!(name("ollama:hf.co/org/name:Q4_K_M"), "hf.co/org/name:Q4_K_M");
        // a blob by its path: what the store calls it
        let folder = tempfile::tempdir().unwrap();
        let (blobs, manifests) = (folder.path().join("blobs"), "manifests/registry.ollama.ai/library/qwen3.5");
        let manifests = folder.path().join(manifests);
        [&blobs, &manifests].iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
        let hash = "0123456789abcdef".repeat(4);
        let blob = blobs.join(format!("sha256-{hash}"));
        assert_eq!(name_of(&blob), format!("sha256-{hash}"), "nobody knows it");
        let layer = format!(r#"{{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{hash}"}}"#);
        std::fs::write(manifests.join("35b"), format!(r#"{{"layers": [{layer}]}}"#)).unwrap();
        assert_eq!(name_of(&blob), "qwen3.5:35b");
    }
}
