//! `flashflood inspect`: what a model is, how its bytes are spread, and whether it fits this machine. Opens headers and
//! norms; no weights are read.

mod parts;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use flashflood::bytes_for_people;
use flashflood::engine::{Engine, MemoryPlan, OpenedDevice};
use flashflood::model::{FeedForward, Mixer, ModelSource, Shape, Yarn};
use flashflood::weights::pack::{LadderStep, ladder};
use flashflood::weights::{ExpertFile, Listing};
use serde::Serialize;

use super::model::ModelArgs;
use crate::cli::notes;
use parts::ModelPart;
pub(super) use parts::parts;

/// Show a model's shapes, bytes and memory plan
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The model, as with --model
    #[arg(value_name = "MODEL")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model's shape; of its experts those of the first layer that has some.
#[derive(Serialize)]
struct Shapes {
    #[serde(flatten)]
    shape: Shape,
    experts: usize,
    top_k: usize,
    moe_intermediate: usize,
    /// How rotary positions are stretched.
    rope_scaling: Option<Yarn>,
}

impl Shapes {
    fn new(shape: Shape) -> Self {
        let (experts, top_k, width) = shape.moe().map_or((0, 0, 0), |moe| (moe.experts, moe.top_k, moe.width));
        Shapes { rope_scaling: shape.yarn(), shape, experts, top_k, moe_intermediate: width }
    }
}

/// What is printed, as JSON or as text.
#[derive(Serialize)]
struct Summary {
    /// Its folder or file, or the name of the model in the program.
    model: PathBuf,
    /// "pack", "snapshot", "gguf" or "embedded".
    kind: &'static str,
    config: Shapes,
    parameters: u64,
    /// Those that one token is multiplied with.
    parameters_per_token: u64,
    parts: Vec<ModelPart>,
    /// Of the largest routed expert, on disk.
    expert_bytes: u64,
    /// Of a token's experts, when none is in memory.
    expert_bytes_per_token: u64,
    /// What packs of it would read.
    ladder: Vec<Step>,
    files: Vec<ModelFile>,
    device: String,
    plan: Option<MemoryPlan>,
    /// Why there is no plan.
    plan_error: Option<String>,
}

/// A step of the ladder of packs.
#[derive(Serialize)]
struct Step {
    #[serde(flatten)]
    step: LadderStep,
    /// Experts that the memory of the plan holds.
    experts_in_memory: Option<u64>,
}

/// A file of the model's folder.
#[derive(Serialize)]
struct ModelFile {
    name: String,
    bytes: u64,
}

/// Runs the command.
pub(crate) fn run(args: InspectArgs) -> anyhow::Result<()> {
    let InspectArgs { folder, mut model, json } = args;
    if folder.is_some() {
        model.model = folder;
    }
    let options = model.resources.options();
    let source = model.source()?;
    let shape = source.shape_with(options.rope_scaling)?;
    let device = OpenedDevice::open(options.device)?;
    let (plan, plan_error) = match Engine::plan_for(&source, &device, &options) {
        Ok(plan) => (Some(plan), None),
        // a model that does not fit here is still worth looking at
        Err(error) => (None, Some(error.to_string())),
    };
    let parts = parts(&source);
    let per_expert = |parts: &[flashflood::weights::Part]| parts.iter().map(|part| part.len as u64).sum::<u64>();
    let layers = &source.experts().layers;
    let largest = layers.iter().map(|layer| per_expert(&layer.parts)).max().unwrap_or(0);
    let of_a_token = layers.iter().map(|layer| per_expert(&layer.parts) * layer.top_k as u64).sum();
    let summary = Summary {
        kind: kind(&source.root),
        parameters: parts.iter().map(|part| part.parameters).sum(),
        parameters_per_token: per_token(&source, &parts),
        expert_bytes: largest,
        expert_bytes_per_token: of_a_token,
        ladder: steps(&source, plan.as_ref()),
        files: files(&source).with_context(|| source.root.display().to_string())?,
        device: device.name(),
        plan,
        plan_error,
        parts,
        config: Shapes::new(shape),
        model: source.root,
    };
    let mut text = Vec::new();
    match json {
        true => writeln!(text, "{}", notes::json(&summary)?)?,
        false => print(&mut text, &summary)?,
    }
    // names of files and tensors are whatever somebody called them
    let text = String::from_utf8_lossy(&text);
    io::stdout().lock().write_all(notes::printable(&text).as_bytes())?;
    Ok(())
}

/// Of a pack there is no ladder: packs are made of what it was made of.
fn steps(source: &ModelSource, plan: Option<&MemoryPlan>) -> Vec<Step> {
    if matches!(kind(&source.root), "pack" | "embedded") {
        return Vec::new();
    }
    let memory = plan.map(|plan| plan.slots as u64 * plan.slot_bytes);
    let all: u64 = source.experts().layers.iter().map(|layer| layer.experts as u64).sum();
    let step = |step: LadderStep| Step {
        experts_in_memory: memory.map(|memory| (memory / step.expert_bytes.max(1)).min(all)),
        step,
    };
    ladder(source.experts()).into_iter().map(step).collect()
}

fn kind(root: &Path) -> &'static str {
    match flashflood::weights::pack::is_pack(root) {
        true => "pack",
        false if root.is_dir() => "snapshot",
        false if root.is_file() => "gguf",
        false => "embedded",
    }
}

/// The embedding is looked up, not multiplied, unless it is the lm_head as well.
fn per_token(source: &ModelSource, parts: &[ModelPart]) -> u64 {
    let read = parts.iter().filter(|part| match part.name {
        "embedding" => source.shape.tied_embeddings,
        "routed experts" => false,
        _ => true,
    });
    let resident: u64 = read.map(|part| part.parameters).sum();
    let experts = source.experts().layers.iter().map(|layer| Listing::expert_parameters(layer).1);
    resident + experts.sum::<u64>()
}

/// The files of a model's folder and of the folders in it, or those that a GGUF model is split over; none of the model in
/// the program.
fn files(source: &ModelSource) -> io::Result<Vec<ModelFile>> {
    let root = &source.root;
    let mut files = Vec::new();
    if root.is_file() {
        for file in &source.experts().files {
            if let ExpertFile::Path(path) = file {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                files.push(ModelFile { name, bytes: std::fs::metadata(path)?.len() });
            }
        }
        return Ok(files);
    }
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // through links: the files of the Hugging Face cache are links
            match std::fs::metadata(&path) {
                // a pack's experts/; deeper folders are not the model's
                Ok(meta) if meta.is_dir() && folder == *root => folders.push(path),
                Ok(meta) if meta.is_file() => files.push(ModelFile { name, bytes: meta.len() }),
                _ => {}
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn print(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let (all, one) = (count_for_people(summary.parameters), count_for_people(summary.parameters_per_token));
    writeln!(out, "{} ({})", summary.model.display(), summary.kind)?;
    writeln!(out, "{all} parameters, {one} of them in each token\n")?;
    print_shapes(out, &summary.config.shape)?;
    writeln!(out, "\n{:<16}{:>12}{:>12}{:>8}  format", "", "parameters", "bytes", "share")?;
    let bytes: u64 = summary.parts.iter().map(|part| part.bytes).sum();
    for part in &summary.parts {
        let (count, size) = (count_for_people(part.parameters), bytes_for_people(part.bytes));
        let share = part.bytes as f64 * 100.0 / bytes.max(1) as f64;
        writeln!(out, "{:<16}{count:>12}{size:>12}{share:>7.1}%  {}", part.name, part.formats.join(", "))?;
    }
    writeln!(out, "{:<16}{all:>12}{:>12}", "all", bytes_for_people(bytes))?;
    if summary.config.experts > 0 {
        writeln!(
            out,
            "\none expert: {}; a token takes {} in each of {} layers: {}, read unless they are in memory",
            bytes_for_people(summary.expert_bytes),
            summary.config.top_k,
            summary.config.shape.moe_layers().len(),
            bytes_for_people(summary.expert_bytes_per_token)
        )?;
    }
    print_ladder(out, summary)?;
    print_files(out, &summary.files)?;
    writeln!(out, "\nmemory on {}", summary.device)?;
    match (&summary.plan, &summary.plan_error) {
        (Some(plan), _) => write!(out, "{plan}"),
        (None, error) => writeln!(out, "it does not fit: {}", error.as_deref().unwrap_or("no plan")),
    }
}

/// What of the experts each step of packing reads for a token, and how many the memory of the plan would hold.
fn print_ladder(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    if summary.ladder.is_empty() {
        return Ok(());
    }
    let experts = summary.config.experts * summary.config.shape.moe_layers().len();
    writeln!(out, "\npack --bits  bits a weight  one expert     a token         all  in memory here")?;
    for Step { step, experts_in_memory } in &summary.ladder {
        let [one, token, all] = [step.expert_bytes, step.token_bytes, step.bytes].map(bytes_for_people);
        let memory = experts_in_memory.map_or("-".to_owned(), |count| format!("{count} of {experts}"));
        writeln!(out, "{:<12}{:>15.2}{one:>12}{token:>12}{all:>12}  {memory}", step.name, step.bits_per_weight)?;
    }
    Ok(())
}

fn print_shapes(out: &mut impl Write, shape: &Shape) -> io::Result<()> {
    let attention = shape.layers.iter().filter(|layer| matches!(layer.mixer, Mixer::Attention(_))).count();
    let mixers = match shape.layers.len() - attention {
        0 => "attention".to_owned(),
        delta_net => format!("{delta_net} delta-net, {attention} attention"),
    };
    let mut row = |name: &str, text: String| writeln!(out, "{name:<16}{text}");
    row("model type", shape.model_type.to_owned())?;
    row("layers", format!("{}: {mixers}", shape.layers.len()))?;
    row("hidden", shape.hidden.to_string())?;
    if let Some(attention) = shape.attention() {
        let (heads, kv, of) = (attention.heads, attention.kv_heads, attention.head_dim);
        let rotated = attention.rotary_dim;
        let gate = if attention.gate { ", gated" } else { "" };
        let window = attention.window.map_or(String::new(), |window| format!(", of the last {window} positions"));
        let text = format!("{heads} query heads, {kv} key and value heads of {of} ({rotated} rotated){gate}{window}");
        row("attention", text)?;
    }
    if let Some(linear) = shape.delta_net() {
        let (keys, values) = (linear.key_heads, linear.value_heads);
        row(
            "delta-net",
            format!(
                "{keys} key heads of {}, {values} value heads of {}, convolution of {}",
                linear.key_dim, linear.value_dim, linear.conv_kernel
            ),
        )?;
    }
    if let Some(moe) = shape.moe() {
        let shared = moe.shared.map_or(String::new(), |width| format!("; a shared one of width {width}"));
        row("experts", format!("{} of {} in each layer, of width {}{shared}", moe.top_k, moe.experts, moe.width))?;
    }
    let dense = shape.layers.iter().find_map(|layer| match layer.feed_forward {
        FeedForward::Dense { width } => Some(width),
        FeedForward::Moe(_) => None,
    });
    if let Some(width) = dense {
        let count = shape.layers.len() - shape.moe_layers().len();
        row("feed-forward", format!("of width {width} in {count} layers"))?;
    }
    let stretched = shape.yarn().map_or(String::new(), |yarn| {
        format!(", by YaRN {} times the {} that it was trained for", yarn.factor, yarn.original)
    });
    row("context", format!("{} positions{stretched}", shape.max_positions))?;
    row("vocabulary", format!("{} tokens", shape.vocab))
}

/// Weights in one line, the rest by name.
fn print_files(out: &mut impl Write, files: &[ModelFile]) -> io::Result<()> {
    let is_weights = |file: &&ModelFile| file.name.ends_with(".safetensors") || file.name.ends_with(".bin");
    let weights: Vec<_> = files.iter().filter(is_weights).collect();
    let others: Vec<_> = files.iter().filter(|file| !is_weights(file)).map(|file| file.name.as_str()).collect();
    if !weights.is_empty() {
        let bytes = weights.iter().map(|file| file.bytes).sum();
        writeln!(out, "files: {} of weights, {}; {}", weights.len(), bytes_for_people(bytes), others.join(", "))?;
    }
    Ok(())
}

/// `397.0 B`: billions, millions, thousands.
fn count_for_people(count: u64) -> String {
    let units = [(1_000_000_000, " B"), (1_000_000, " M"), (1000, " k")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", count as f64 / unit as f64),
        None => count.to_string(),
    }
}
