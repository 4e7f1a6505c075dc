//! `flashflood bench`: decode of one model, run after run, and where the time goes.

use std::io::Write;
use std::time::{Duration, Instant};

use flashflood::compute::LogitRows;
use flashflood::engine::bytes_for_people;
use flashflood::experts::StoreStats;
use flashflood::session::Session;
use flashflood::text::{Sampler, SamplerOptions};
use serde_json::json;

use super::BenchArgs;
use crate::cli::kernel_table::KernelTable;

/// Tokens that each run starts from.
const PROMPT: usize = 16;

struct Run {
    decode: Duration,
    tokens: usize,
    stats: StoreStats,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let mut engine = args.model.open(&args.model.resources.options())?;
    let (device, plan, config) = (engine.device(), engine.plan().clone(), engine.config().clone());
    let vocab = engine.tokenizer().map_or(config.vocab, |t| t.vocab_size());
    let mut runs = Vec::new();
    for n in 0..args.repeat.max(1) {
        // run after run continues in the cache that the last one left: the first is cold
        let mut session = engine.session()?;
        runs.push(decode(&mut session, args.tokens, vocab, n as u64)?);
    }
    let mut session = engine.session()?;
    let profiled = session.profile();
    let profile = decode(&mut session, args.tokens.min(16), vocab, 0)?;
    let times = if profiled { session.kernel_times() } else { Vec::new() };
    let rate = |run: &Run| run.tokens as f64 / run.decode.as_secs_f64();
    let resident = flashflood_backends::memory::resident_memory();
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = runs
            .iter()
            .map(|run| {
                json!({
                    "tokens_per_s": rate(run),
                    "bytes_read_per_token": run.stats.bytes_read as f64 / run.tokens as f64,
                    "hit_rate": run.stats.hit_rate(),
                    "stall_ms_per_token": run.stats.stall_time.as_secs_f64() * 1e3 / run.tokens as f64,
                })
            })
            .collect();
        let kernels: Vec<_> = times.iter().map(|t| json!({
            "kernel": t.kernel, "calls": t.calls, "us": t.time.as_secs_f64() * 1e6, "weight_bytes": t.weight_bytes,
        })).collect();
        let all = json!({ "device": device, "resident_bytes": resident, "slots": plan.slots, "runs": rows,
            "profiled_tokens": profile.tokens + PROMPT, "kernels": kernels });
        writeln!(out, "{all:#}")?;
        return Ok(());
    }
    writeln!(out, "{device}; {} layers, {} of {} experts in memory", config.layers.len(), plan.slots, plan.all_slots)?;
    if let Some(bytes) = resident {
        writeln!(out, "resident memory of the process: {}", bytes_for_people(bytes))?;
    }
    writeln!(out, "\n| run | t/s | ms/token | read/token | hit % | stalled ms/token | expert GB/s |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for (n, run) in runs.iter().enumerate() {
        let tokens = run.tokens as f64;
        writeln!(
            out,
            "| {} | {:.1} | {:.2} | {} | {:.1} | {:.2} | {:.2} |",
            if n == 0 { "first".to_owned() } else { format!("{}", n + 1) },
            rate(run),
            run.decode.as_secs_f64() * 1e3 / tokens,
            bytes_for_people((run.stats.bytes_read as f64 / tokens) as u64),
            run.stats.hit_rate() * 100.0,
            run.stats.stall_time.as_secs_f64() * 1e3 / tokens,
            run.stats.bytes_read as f64 / run.decode.as_secs_f64() / 1e9,
        )?;
    }
    KernelTable::of(&session)?.write(&mut out)?;
    Ok(())
}

fn decode(session: &mut Session<'_>, tokens: usize, vocab: usize, seed: u64) -> anyhow::Result<Run> {
    let prompt: Vec<u32> =
        (0..PROMPT as u64).map(|i| ((i * 37 + seed * 11 + 1) % vocab.min(200) as u64) as u32).collect();
    let options = SamplerOptions { temperature: Some(1.0), top_k: Some(20), ..SamplerOptions::default() };
    let mut sampler = Sampler::new(options, seed)?;
    session.extend(&prompt, LogitRows::Last, |_, _| true)?;
    let mut next = session.sample(&mut sampler, vocab)?;
    session.reset_expert_stats();
    let start = Instant::now();
    for _ in 0..tokens {
        session.extend(&[next], LogitRows::Last, |_, _| true)?;
        next = session.sample(&mut sampler, vocab)?;
    }
    session.finish()?;
    Ok(Run { decode: start.elapsed(), tokens, stats: session.expert_stats() })
}
