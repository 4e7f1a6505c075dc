//! `flashflood models`: which published models this machine can run, about how fast, and how to get them.
//!
//! Sizes and memory plans are those of the models' shapes in 4 bits. How fast is what reading takes: of experts that are
//! not in memory from the disk, of all that a token is multiplied with from memory. Both rates are measured.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use flashflood::bytes_for_people;
use flashflood::engine::{Engine, EngineOptions, MemoryPlan, OpenedDevice};
use flashflood::hub::Cache;
use flashflood::model::{ModelSource, Published};
use serde::Serialize;

use super::disk;
use super::inspect::parts;
use super::model::ResourceArgs;

/// Show which published models this machine can run, about how fast, and how to get them
///
/// The speed of the disk is measured with a file of 256 MB in the Hugging Face cache, which is removed again. Nothing is
/// downloaded.
#[derive(Args)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    resources: ResourceArgs,
    /// GB/s of the disk, instead of measuring it
    #[arg(long, value_name = "GB/S", value_parser = positive)]
    disk_rate: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("expected GB/s above 0, such as 3.5, found {text:?}"))
}

/// Tokens a second at which one can talk: about as fast as people read.
const TALKS: f64 = 3.0;

/// What is offered, the largest first: name, shape and the repository that has it in 4 bits.
const OFFERED: [(&str, Published, &str); 8] = [
    ("Qwen3.5-397B-A17B", Published::Qwen35A17b, "mlx-community/Qwen3.5-397B-A17B-4bit"),
    ("Qwen3.5-122B-A10B", Published::Qwen35A10b, "mlx-community/Qwen3.5-122B-A10B-4bit"),
    ("Qwen3-Coder-Next", Published::Qwen3NextA3b, "mlx-community/Qwen3-Coder-Next-4bit"),
    ("Qwen3-Next-80B-A3B", Published::Qwen3NextA3b, "mlx-community/Qwen3-Next-80B-A3B-Instruct-4bit"),
    ("Qwen3.6-35B-A3B", Published::Qwen35A3b, "mlx-community/Qwen3.6-35B-A3B-4bit"),
    ("Qwen3.5-35B-A3B", Published::Qwen35A3b, "mlx-community/Qwen3.5-35B-A3B-4bit"),
    ("Qwen3.6-27B", Published::Qwen3527b, "mlx-community/Qwen3.6-27B-4bit"),
    ("Qwen3-4B", Published::Qwen34b, "mlx-community/Qwen3-4B-4bit"),
];

/// What a machine reads, GB/s.
#[derive(Clone, Copy, Serialize)]
struct Rates {
    disk: f64,
    memory: f64,
}

#[derive(Serialize)]
struct Machine {
    device: String,
    memory_free: u64,
    /// In the Hugging Face cache; not known for every file system.
    disk_free: Option<u64>,
    rates: Rates,
}

/// A model, as this machine would run it.
#[derive(Serialize)]
struct Model {
    name: &'static str,
    repository: &'static str,
    /// Of all its weights.
    bytes: u64,
    /// Whether it is in the Hugging Face cache, at least in part.
    is_here: bool,
    fits_disk: bool,
    /// Share of its experts that memory holds, 0 to 1; `None` where it does not fit memory.
    in_memory: Option<f64>,
    /// Bytes that a token reads from the disk.
    read_per_token: Option<u64>,
    tokens_per_s: Option<f64>,
    /// Why it does not fit memory.
    error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: ModelsArgs) -> anyhow::Result<()> {
    let options = args.resources.options();
    let device = OpenedDevice::open(options.device)?;
    let cache = Cache::of_user();
    let place = cache.as_ref().map(Cache::root);
    let folder = disk::folder(place);
    let disk_rate = match args.disk_rate {
        Some(rate) => rate,
        None => disk::rate(&folder)?,
    };
    let rates = Rates { disk: disk_rate, memory: memory_rate(&options)? };
    let machine = Machine {
        device: device.name(),
        memory_free: flashflood_backends::memory::available_memory(),
        disk_free: fs4::available_space(&folder).ok(),
        rates,
    };
    let here = cache.as_ref().map_or_else(|| Ok(Vec::new()), Cache::repositories)?;
    let mut models = Vec::new();
    for (name, shape, repository) in OFFERED {
        let source = shape.synthesise(None, 4, 4, 0)?;
        let is_here = here.iter().any(|known| known.name == repository);
        let plan = Engine::plan_for(&source, &device, &options);
        models.push(model((name, repository), &source, plan.map_err(|error| error.to_string()), &machine, is_here));
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => {
            let all = serde_json::json!({ "machine": machine, "models": models });
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        false => print(&mut out, &machine, &models, &folder)?,
    }
    Ok(())
}

/// GB/s of the device's memory: asked of the small model in the program.
fn memory_rate(options: &EngineOptions) -> anyhow::Result<f64> {
    let small = EngineOptions { device: options.device, ..EngineOptions::default() };
    let rate = Engine::embedded(&small)?.session()?.bandwidth()?;
    // a driver that cannot be timed: what a plain desktop has
    Ok(rate.map_or(40.0, |rate| rate / 1e9))
}

fn model(
    (name, repository): (&'static str, &'static str),
    source: &ModelSource,
    plan: Result<MemoryPlan, String>,
    machine: &Machine,
    is_here: bool,
) -> Model {
    let experts = source.experts();
    let per_token = experts.layers.iter().map(|layer| {
        let expert: u64 = layer.parts.iter().map(|part| part.len as u64).sum();
        expert * layer.top_k as u64
    });
    let (bytes, per_token) = (parts(source).iter().map(|part| part.bytes).sum(), per_token.sum());
    let (plan, error) = match plan {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(error)),
    };
    let estimate = plan.map(|plan| Estimate::new(&plan, per_token, machine.rates));
    Model {
        name,
        repository,
        bytes,
        is_here,
        fits_disk: machine.disk_free.is_none_or(|free| is_here || bytes < free),
        in_memory: estimate.as_ref().map(|estimate| estimate.in_memory),
        read_per_token: estimate.as_ref().map(|estimate| estimate.read),
        tokens_per_s: estimate.as_ref().map(|estimate| estimate.tokens_per_s),
        error,
    }
}

/// What a token takes.
struct Estimate {
    in_memory: f64,
    read: u64,
    tokens_per_s: f64,
}

impl Estimate {
    /// With every expert as likely as any other: real routers repeat themselves, which is faster.
    fn new(plan: &MemoryPlan, experts_per_token: u64, rates: Rates) -> Estimate {
        let in_memory = match plan.all_slots {
            0 => 1.0,
            all => (plan.slots as f64 / all as f64).min(1.0),
        };
        let read = experts_per_token as f64 * (1.0 - in_memory);
        let reading = if read > 0.0 { read / rates.disk / 1e9 } else { 0.0 };
        let seconds = reading + (plan.resident + experts_per_token) as f64 / rates.memory / 1e9;
        Estimate { in_memory, read: read as u64, tokens_per_s: 1.0 / seconds }
    }
}

fn print(out: &mut impl Write, machine: &Machine, models: &[Model], folder: &Path) -> io::Result<()> {
    let Machine { device, memory_free, disk_free, rates } = machine;
    writeln!(out, "{device}: {} of memory free, read at {:.1} GB/s", bytes_for_people(*memory_free), rates.memory)?;
    let free = disk_free.map_or("unknown".to_owned(), bytes_for_people);
    writeln!(out, "disk of {}: {free} free, experts read at {:.2} GB/s\n", folder.display(), rates.disk)?;
    let columns = ["size", "in memory", "read a token", "tokens/s"];
    writeln!(out, "{:<20}{:>10}{:>12}{:>14}{:>10}", "model", columns[0], columns[1], columns[2], columns[3])?;
    for model in models {
        let dash = || "-".to_owned();
        let share = model.in_memory.map_or_else(dash, |share| format!("{:.0} %", share * 100.0));
        let read = model.read_per_token.map_or_else(dash, bytes_for_people);
        let speed = model.tokens_per_s.map_or_else(dash, speed_for_people);
        let size = bytes_for_people(model.bytes);
        writeln!(out, "{:<20}{size:>10}{share:>12}{read:>14}{speed:>10}  {}", model.name, remark(model))?;
    }
    writeln!(out, "\nin memory: of a model's experts; the others are read from the disk when they are chosen")?;
    writeln!(out, "tokens/s: about, from both rates; flashflood bench --model MODEL measures")?;
    if let Some(model) = suggested(models) {
        let begin = if model.is_here { "chat with" } else { "begin with" };
        writeln!(out, "\n{begin} {}:", model.name)?;
        if !model.is_here {
            writeln!(out, "  flashflood pull {}", model.repository)?;
        }
        writeln!(out, "  flashflood chat --model {}", model.repository)?;
    }
    Ok(())
}

/// The largest that one can talk with, else the fastest.
fn suggested(models: &[Model]) -> Option<&Model> {
    let speed = |model: &Model| model.tokens_per_s.filter(|_| model.fits_disk).unwrap_or_default();
    let fastest = || models.iter().max_by(|a, b| speed(a).total_cmp(&speed(b)));
    let talks = models.iter().find(|model| speed(model) >= TALKS);
    talks.or_else(fastest).filter(|model| speed(model) > 0.0)
}

fn speed_for_people(speed: f64) -> String {
    if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") }
}

/// What stands in the way of a model, or what gets it.
fn remark(model: &Model) -> String {
    match (&model.error, model.fits_disk, model.is_here) {
        (Some(error), _, _) => format!("does not fit: {}", error.split(" (hint").next().unwrap_or_default()),
        (None, false, _) => "no room on this disk".to_owned(),
        (None, true, true) => "here".to_owned(),
        (None, true, false) => model.repository.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use flashflood::engine::KvFormat;

    use super::*;

    fn plan(slots: usize) -> MemoryPlan {
        MemoryPlan {
            resident: 1_000_000_000,
            experts: 0,
            slots,
            slot_bytes: 1,
            all_slots: 100,
            kv: 0,
            kv_format: KvFormat::default(),
            context: 1,
            state: 0,
            activations: 0,
            chunk: 1,
            available: 0,
        }
    }

    #[test]
    fn what_is_read_takes_its_time() {
        let rates = Rates { disk: 2.0, memory: 10.0 };
        // a quarter in memory: 0.75 GB at 2 GB/s, and 2 GB at 10 GB/s
        let some = Estimate::new(&plan(25), 1_000_000_000, rates);
        assert_eq!((some.in_memory, some.read), (0.25, 750_000_000));
        assert!((some.tokens_per_s - 1.0 / (0.375 + 0.2)).abs() < 1e-9, "{}", some.tokens_per_s);
        let all = Estimate::new(&plan(100), 1_000_000_000, rates);
        assert_eq!((all.in_memory, all.read), (1.0, 0));
        assert!((all.tokens_per_s - 5.0).abs() < 1e-9, "{}", all.tokens_per_s);
    }

    #[test]
    fn the_largest_to_talk_with_is_suggested_else_the_fastest() {
        let model = |name, fits_disk, tokens_per_s| Model {
            name,
            repository: "",
            bytes: 0,
            is_here: false,
            fits_disk,
            in_memory: None,
            read_per_token: None,
            tokens_per_s,
            error: None,
        };
        let name = |models: &[Model]| suggested(models).map(|model| model.name);
        let large =
            [model("large", true, Some(0.4)), model("middle", true, Some(4.0)), model("small", true, Some(40.0))];
        assert_eq!(name(&large), Some("middle"));
        let slow = [model("large", true, Some(0.1)), model("small", true, Some(2.0)), model("none", true, None)];
        assert_eq!(name(&slow), Some("small"));
        assert_eq!(name(&[model("large", false, Some(9.0)), model("other", true, None)]), None);
    }
}
