//! `flashflood bench --prompt`: prompts of several lengths, each beside what the disk and the kernels take at least.

use std::io::Write;
use std::time::{Duration, Instant};

use flashflood::bytes_for_people;
use flashflood::compute::LogitRows;
use flashflood::experts::StoreStats;
use flashflood::session::Session;
use serde_json::json;

use super::BenchArgs;
use super::ceiling::Ceiling;
use crate::cli::kernel_table::KernelTable;

/// Experts that a prompt has on the way at a time: one for each reading thread.
const DEPTH: usize = 16;

/// One prompt.
pub(super) struct Run {
    tokens: usize,
    pub(super) time: Duration,
    waited: Duration,
    stats: StoreStats,
    /// What it takes at least.
    least: Duration,
    /// Reading all experts of the model once.
    sweep: Option<Duration>,
    kernels: Option<Duration>,
}

impl Run {
    pub(super) fn rate(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64()
    }

    fn read_rate(&self) -> f64 {
        self.stats.bytes_read as f64 / self.time.as_secs_f64() / 1e9
    }

    /// Of experts that were asked for; none is where the device finds them all in memory.
    fn hit_rate(&self) -> Option<f64> {
        (self.stats.hits + self.stats.misses > 0).then(|| self.stats.hit_rate())
    }

    fn host(&self) -> Duration {
        self.time.saturating_sub(self.waited).saturating_sub(self.stats.stall_time)
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let mut options = args.model.resources.options();
    let longest = args.prompt.iter().copied().max().unwrap_or(0) as usize;
    // caches for more than the longest prompt would only take memory
    options.context = options.context.or(Some(longest));
    let source = args.model.source()?;
    let layout = source.experts().clone();
    let mut engine = args.model.open_source(source, &options)?;
    let (device, plan, layers) = (engine.device(), engine.plan().clone(), engine.shape().layers.len());
    let vocab = engine.tokenizer().map_or(engine.shape().vocab, |t| t.vocab_size());
    let mut runs = Vec::new();
    for &tokens in &args.prompt {
        for n in 0..args.repeat.max(1) {
            // a prompt finds in the cache what the last one left there
            let mut session = engine.session()?;
            runs.push(prefill(&mut session, &prompt(tokens as usize, vocab, n as u64))?);
        }
    }
    let read = runs.iter().map(|run| run.stats.bytes_read).sum();
    let read_rate = Ceiling::read_rate(&options, &layout, read, DEPTH)?;
    let mut tables = Vec::new();
    for &tokens in &args.prompt {
        let mut session = engine.session()?;
        let round_trip = session.round_trip()?;
        let kernels = match session.profile() {
            true => {
                prefill(&mut session, &prompt(tokens as usize, vocab, 0))?;
                // of the whole prompt, which may be several steps
                Some(session.kernel_times().iter().map(|t| t.time).sum())
            }
            false => None,
        };
        let steps = (tokens as usize).div_ceil(plan.chunk);
        let waits = steps * Ceiling::waits(&options, &plan, layout.layers.len());
        let ceiling = Ceiling { read_rate, depth: DEPTH, kernels, round_trip, waits };
        for run in runs.iter_mut().filter(|run| run.tokens == tokens as usize) {
            run.least = ceiling.least(run.stats.bytes_read as f64);
            run.sweep = read_rate.map(|_| ceiling.reads(layout.disk_bytes() as f64));
            run.kernels = kernels;
        }
        tables.push((tokens, ceiling, KernelTable::of(&session)?));
    }
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            json!({
                "tokens": run.tokens, "tokens_per_s": run.rate(), "s": run.time.as_secs_f64(),
                "bytes_read": run.stats.bytes_read, "hit_rate": run.hit_rate(), "expert_gb_s": run.read_rate(),
                "stall_s": run.stats.stall_time.as_secs_f64(), "device_wait_s": run.waited.as_secs_f64(),
                "host_s": run.host().as_secs_f64(), "ceiling_s": run.least.as_secs_f64(),
                "kernels_s": run.kernels.map(|t| t.as_secs_f64()), "sweep_s": run.sweep.map(|t| t.as_secs_f64()),
            })
        })
        .collect();
    let all = json!({ "device": device, "slots": plan.slots, "chunk": plan.chunk, "read_ceiling_gb_s": read_rate,
        "runs": rows });
    if args.present("prompts", &all, &all)? {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{device}; {layers} layers, {} of {} experts in memory, chunks of {} tokens",
        plan.slots, plan.all_slots, plan.chunk
    )?;
    print_runs(&mut out, &runs)?;
    for (tokens, ceiling, table) in &tables {
        writeln!(out, "\nprompt of {tokens} tokens")?;
        ceiling.explain(&mut out)?;
        table.write(&mut out)?;
    }
    Ok(())
}

fn print_runs(out: &mut impl Write, runs: &[Run]) -> std::io::Result<()> {
    writeln!(
        out,
        "\n| prompt | t/s | s | ceiling s | kernels s | all experts s | read | hit % | stalled s | device s | host s | expert GB/s |"
    )?;
    writeln!(out, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let seconds = |time: Option<Duration>| time.map_or(String::new(), |time| format!("{:.3}", time.as_secs_f64()));
    for run in runs {
        writeln!(
            out,
            "| {} | {:.1} | {:.3} | {:.3} | {} | {} | {} | {} | {:.3} | {:.3} | {:.3} | {:.2} |",
            run.tokens,
            run.rate(),
            run.time.as_secs_f64(),
            run.least.as_secs_f64(),
            seconds(run.kernels),
            seconds(run.sweep),
            bytes_for_people(run.stats.bytes_read),
            run.hit_rate().map_or(String::new(), |rate| format!("{:.1}", rate * 100.0)),
            run.stats.stall_time.as_secs_f64(),
            run.waited.as_secs_f64(),
            run.host().as_secs_f64(),
            run.read_rate(),
        )?;
    }
    Ok(())
}

/// Ids without a pattern: what experts a model chooses depends on them.
pub(super) fn prompt(tokens: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(tokens as u64);
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab.max(1) as u64) as u32
    };
    std::iter::repeat_with(next).take(tokens).collect()
}

pub(super) fn prefill(session: &mut Session<'_>, prompt: &[u32]) -> anyhow::Result<Run> {
    session.reset_expert_stats();
    let waited = session.waited();
    let start = Instant::now();
    session.extend(prompt, LogitRows::Last, |_, _| true)?;
    session.finish()?;
    let time = start.elapsed();
    Ok(Run {
        tokens: prompt.len(),
        time,
        waited: session.waited() - waited,
        stats: session.expert_stats(),
        least: Duration::ZERO,
        sweep: None,
        kernels: None,
    })
}
