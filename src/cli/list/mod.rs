//! `flashflood list`: the models on this machine, in the Hugging Face cache, among flashflood's own packs, and where LM
//! Studio and ollama keep theirs.

mod gguf;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::notes::{json, note, printable};
use anyhow::Context;
use clap::Args;
use etcetera::BaseStrategy;
use flashflood::bytes_for_people;
use flashflood::hub::{Cache, OllamaStore};
use flashflood::model::{dangling_in, read_config, shape_of_config};
use flashflood::weights::pack;
use serde::Serialize;
use serde_json::Value;

/// List the models in the Hugging Face cache, the packs in the user's data folder, and the models of LM Studio and ollama
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model on this machine.
#[derive(Serialize)]
struct Listed {
    /// What --model takes.
    name: String,
    kind: &'static str,
    state: State,
    bytes: u64,
    /// Architecture and how weights are stored.
    format: String,
    folder: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Complete,
    /// Files are missing.
    Partial,
    /// Of another architecture.
    NotSupported,
    /// Damaged: why stands in the place of the format.
    Broken,
}

/// Runs the command.
pub(crate) fn run(args: ListArgs) -> anyhow::Result<()> {
    let mut models = Vec::new();
    let cache = Cache::of_user();
    if let Some(cache) = &cache {
        for repository in cache.repositories()? {
            // other programs keep models of all kinds here; a repository without weights for us is still on the disk
            let begun = models.len();
            gguf::of_repository(&repository, &mut models);
            let main = repository.snapshots.iter().find(|s| s.refs.iter().any(|name| name == "main"));
            let folder = main.or(repository.snapshots.last()).map(|snapshot| snapshot.folder.clone());
            if models.len() > begun && !folder.as_deref().is_some_and(has_safetensors) {
                continue;
            }
            let (state, format) = folder.as_deref().map_or((State::Partial, String::new()), look_at);
            let folder = folder.unwrap_or(repository.folder);
            models.push(Listed {
                name: repository.name,
                kind: "snapshot",
                state,
                bytes: repository.bytes,
                format,
                folder,
            });
        }
    }
    let packs = packs_folder();
    if let Some(packs) = &packs {
        find_packs(packs, 2, &mut models).with_context(|| packs.display().to_string())?;
    }
    gguf::of_lm_studio(&mut models);
    let stores = OllamaStore::of_user();
    stores.iter().for_each(|store| gguf::of_ollama(store, &mut models));
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json(&models)?)?;
    } else if models.is_empty() {
        let places = [cache.as_ref().map(Cache::root), packs.as_deref()].into_iter().flatten();
        let places: Vec<String> = places.map(|place| place.display().to_string()).collect();
        note!("no models in {}", places.join(" or "));
        note!(
            "hint: flashflood pull REPO downloads one; `flashflood run` without --model uses a small one in the program"
        );
    } else {
        print(&mut out, &models)?;
    }
    Ok(())
}

/// Where packs are looked for.
pub(super) fn packs_folder() -> Option<PathBuf> {
    Some(etcetera::choose_base_strategy().ok()?.data_dir().join("flashflood"))
}

/// Finished and unfinished packs, at most `depth` folders down.
fn find_packs(folder: &Path, depth: usize, models: &mut Vec<Listed>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    for folder in folders {
        let is_pack = pack::is_pack(&folder);
        if is_pack || folder.join(pack::RESIDENT).exists() || folder.join("progress.json").exists() {
            let (state, format) = if is_pack { look_at_pack(&folder) } else { (State::Partial, String::new()) };
            let bytes = bytes_in(&folder)? + bytes_in(&folder.join("experts"))?;
            models.push(Listed { name: folder.display().to_string(), kind: "pack", state, bytes, format, folder });
        } else if depth > 1 {
            find_packs(&folder, depth - 1, models)?;
        }
    }
    Ok(())
}

/// Bytes of the files right in a folder; none where there is no folder.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let meta = entry?.metadata()?;
            bytes += if meta.is_file() { meta.len() } else { 0 };
        }
    }
    Ok(bytes)
}

fn json_in(path: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// What a snapshot is, from its JSON files alone: a machine may have dozens.
fn look_at(folder: &Path) -> (State, String) {
    let path = folder.join("config.json");
    let Some((text, json)) = read_config(folder).ok().flatten().and_then(|text| {
        let json: Value = serde_json::from_str(&text).ok()?;
        Some((text, json))
    }) else {
        return (State::Partial, String::new());
    };
    let quantised = ["quantization", "quantization_config"].iter().find_map(|key| json.get(key));
    let method = quantised.and_then(|q| q.get("quant_method")).and_then(Value::as_str);
    let weights = match quantised.and_then(|q| q.get("bits")).and_then(Value::as_u64) {
        Some(bits) => format!("{bits}-bit"),
        None => {
            let text_config = json.get("text_config").unwrap_or(&Value::Null);
            let dtype =
                |of: &Value| of.get("dtype").or(of.get("torch_dtype")).and_then(Value::as_str).map(str::to_owned);
            method.map(str::to_owned).or_else(|| dtype(&json)).or_else(|| dtype(text_config)).unwrap_or_default()
        }
    };
    let architecture = json.get("model_type").and_then(Value::as_str).unwrap_or("no model_type");
    let format = format!("{architecture} {weights}").trim_end().to_owned();
    let state = match shape_of_config(&path, &text) {
        Err(_) => State::NotSupported,
        Ok(_) if has_all_weights(folder) && dangling_in(folder).is_none() => State::Complete,
        Ok(_) => State::Partial,
    };
    (state, format)
}

/// Whether there are weights beside GGUF files.
fn has_safetensors(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().contains(".safetensors"))
}

/// Whether every file that the index names is there, or the only one.
fn has_all_weights(folder: &Path) -> bool {
    match json_in(&folder.join("model.safetensors.index.json")) {
        Some(index) => index.get("weight_map").and_then(Value::as_object).is_some_and(|map| {
            let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
            files.sort_unstable();
            files.dedup();
            !files.is_empty() && files.iter().all(|file| folder.join(file).is_file())
        }),
        None => folder.join("model.safetensors").is_file() || has_all_parts(folder),
    }
}

/// Whether all parts of a model without an index are there.
fn has_all_parts(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count_of = |name: &str| {
        let (_, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        count.parse::<usize>().ok()
    };
    let counts: Vec<usize> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| count_of(entry.file_name().to_str()?))
        .collect();
    counts.first().is_some_and(|first| counts.len() == *first && counts.iter().all(|count| count == first))
}

fn look_at_pack(folder: &Path) -> (State, String) {
    match pack::open(folder) {
        Ok(pack) => {
            let model_type = shape_of_config(&pack.manifest, &pack.config).map_or("unknown", |shape| shape.model_type);
            let bits = pack.source.options.bits;
            let bits = if bits == 0 { pack.source.experts } else { format!("{bits}-bit") };
            (State::Complete, format!("{} {bits}", model_type))
        }
        Err(_) => (State::Partial, String::new()),
    }
}

fn print(out: &mut impl Write, models: &[Listed]) -> io::Result<()> {
    let width = models.iter().map(|model| model.name.chars().count()).max().unwrap_or(0);
    writeln!(out, "{:<width$}  {:>9}  {:<13}  format", "model", "size", "state")?;
    for model in models {
        let state = match model.state {
            State::Complete => "complete",
            State::Partial => "partial",
            State::NotSupported => "not supported",
            State::Broken => "broken",
        };
        let line =
            format!("{:<width$}  {:>9}  {state:<13}  {}", model.name, bytes_for_people(model.bytes), model.format);
        writeln!(out, "{}", printable(line.trim_end()))?;
    }
    Ok(())
}
