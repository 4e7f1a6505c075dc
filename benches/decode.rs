//! Tokens a second, reading a prompt and writing after it, beside what the memory of the machine would allow.
//!
//!     cargo bench --bench decode -- [MODEL] >> benches/results/MACHINE.csv
//!
//! prints rows to stdout and tables to stderr. The first pass begins with empty expert slots (`cold`), the second finds
//! them as the first left them (`warm`); files are in the page cache or not as they happen to be.

mod rows;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use flashflood::bytes_for_people;
use flashflood::compute::LogitRows;
use flashflood::engine::{Device, Engine, EngineOptions, ExpertBudget};
use flashflood::experts::StoreStats;
use flashflood::model::ModelSource;
use flashflood::text::{Sampler, SamplerOptions};
use rayon::prelude::*;
use rows::{Row, Rows, format_of};

/// Text that prompts are cut from; routing depends on what the words are.
const TEXT: &str = "Once upon a time there was a little seal named Otis who lived near the tower. On the table was a \
                    silver shell, and Otis felt scared. They went to the tower together and sat under a tree. ";
/// Far more than the caches of a processor hold.
const CEILING_BYTES: usize = 1 << 29;

#[derive(Parser)]
struct Arguments {
    /// Folder of a snapshot or pack; `embedded` is the model in the program
    #[arg(default_value = "embedded")]
    model: PathBuf,
    /// Where to compute (may be given several times) [default: cpu and gpu]
    #[arg(long, value_enum)]
    device: Vec<Device>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 256)]
    prompt: usize,
    /// Tokens to write after it
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Memory for experts: auto, all, or a size such as 512MB or 8GB
    #[arg(long, default_value = "auto")]
    expert_cache: ExpertBudget,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One pass over the prompt, or over the tokens written after it.
struct Pass {
    tokens: usize,
    time: Duration,
    stats: StoreStats,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows = Rows::new("decode");
    let model = arguments.model.file_name().unwrap_or(arguments.model.as_os_str()).to_string_lossy().into_owned();
    let ceiling = memory_ceiling(&rows);
    let devices = if arguments.device.is_empty() { &[Device::Cpu, Device::Gpu][..] } else { &arguments.device };
    for &device in devices {
        let source = open(&arguments.model)?;
        let format = format_of(&source);
        let read = bytes_per_token(&source);
        let options = EngineOptions {
            device,
            context: Some(arguments.prompt + arguments.tokens + 1),
            experts: arguments.expert_cache,
            ..EngineOptions::default()
        };
        let mut engine = match Engine::from_source(source, &options) {
            Ok(engine) => engine,
            Err(error) => {
                eprintln!("{device:?}: {error}");
                continue;
            }
        };
        let per_token = engine.plan().resident + read;
        eprintln!("\n{}\n{}", engine.device(), engine.plan());
        if device == Device::Cpu {
            let floor = per_token as f64 / ceiling / 1e6;
            let bytes = bytes_for_people(per_token);
            eprintln!(
                "a token reads {bytes}: {floor:.3} ms at the ceiling of {ceiling:.1} GB/s, all experts in memory\n"
            );
        }
        for cache in ["cold", "warm"] {
            let [prefill, decode] = measure(&mut engine, &arguments)?;
            let contexts = [("prefill", &prefill, 0), ("decode", &decode, arguments.prompt)];
            for (what, pass, context) in contexts {
                eprintln!("{what}, {cache}: {:.1} tokens/s\n  {}", pass.rate(), pass.stats);
                let values = [
                    (pass.rate(), "tokens/s"),
                    (100.0 * pass.stats.hit_rate(), "% of experts hit"),
                    (pass.stats.bytes_read as f64 / 1e6 / pass.tokens as f64, "MB read/token"),
                    (pass.stats.stall_time.as_secs_f64() * 1e3 / pass.tokens as f64, "ms stalled/token"),
                ];
                for (value, unit) in values {
                    let unit = format!("{what} {unit} {}", format!("{device:?}").to_lowercase());
                    let context = context.to_string();
                    rows.print(&Row { model: &model, format: &format, context: &context, cache, value, unit: &unit });
                }
            }
        }
    }
    Ok(())
}

impl Pass {
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64()
    }
}

fn open(path: &Path) -> anyhow::Result<ModelSource> {
    Ok(if path == Path::new("embedded") { ModelSource::embedded()? } else { ModelSource::open(path)? })
}

/// Bytes of the routed experts that a token reads from memory.
fn bytes_per_token(source: &ModelSource) -> u64 {
    source.experts().layers.iter().map(|layer| (layer.top_k * layer.slot.bytes) as u64).sum()
}

/// A prompt, then greedy tokens.
fn measure(engine: &mut Engine, arguments: &Arguments) -> anyhow::Result<[Pass; 2]> {
    let vocab = engine.shape().vocab;
    // a model without a tokenizer gets ids of no meaning
    let (ids, vocab) = match engine.tokenizer() {
        Ok(tokenizer) => (tokenizer.encode(TEXT)?, tokenizer.vocab_size()),
        Err(_) => ((0..64).map(|i| i * 37 % vocab as u32).collect(), vocab),
    };
    let prompt: Vec<u32> = ids.into_iter().cycle().take(arguments.prompt.max(1)).collect();
    let mut greedy = Sampler::new(SamplerOptions::default(), 0)?;
    let mut session = engine.session()?;
    session.reset_expert_stats();
    let start = Instant::now();
    session.extend(&prompt, LogitRows::Last, |_, _| true)?;
    let mut next = session.sample(&mut greedy, vocab)?;
    let prefill = Pass { tokens: prompt.len(), time: start.elapsed(), stats: session.expert_stats() };
    session.reset_expert_stats();
    let start = Instant::now();
    for _ in 0..arguments.tokens {
        session.decode(next)?;
        next = session.sample(&mut greedy, vocab)?;
    }
    let decode = Pass { tokens: arguments.tokens, time: start.elapsed(), stats: session.expert_stats() };
    Ok([prefill, decode])
}

/// GB/s at which all threads together read a large buffer: what the CPU executor could reach. The best of several.
fn memory_ceiling(rows: &Rows) -> f64 {
    let buffer: Vec<u64> = (0..CEILING_BYTES as u64 / 8).into_par_iter().collect();
    let mut copy = vec![0u64; buffer.len()];
    let part = buffer.len().div_ceil(4 * rayon::current_num_threads());
    let best = |mut run: Box<dyn FnMut() + '_>| {
        let times = (0..7).map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        });
        CEILING_BYTES as f64 / times.fold(f64::INFINITY, f64::min) / 1e9
    };
    let read = best(Box::new(|| {
        let sums = buffer.par_chunks(part).map(|part| part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        black_box(sums.reduce(|| 0, u64::wrapping_add));
    }));
    let copied = best(Box::new(|| {
        copy.par_chunks_mut(part).zip(buffer.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&copy);
    }));
    eprintln!("memory, {} threads: read at {read:.1} GB/s, copied at {copied:.1} GB/s", rayon::current_num_threads());
    for (value, unit) in [(read, "GB/s memory read"), (copied, "GB/s memory copied")] {
        rows.print(&Row { model: "", format: "", context: "", cache: "", value, unit });
    }
    read
}
