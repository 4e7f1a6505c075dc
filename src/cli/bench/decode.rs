//! `flashflood bench`: decode of one model, run after run, and where the time goes.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use flashflood::bytes_for_people;
use flashflood::compute::{HostWork, LogitRows};
use flashflood::experts::StoreStats;
use flashflood::session::Session;
use flashflood::text::{Sampler, SamplerOptions};
use serde_json::json;

use super::BenchArgs;
use super::ceiling::Ceiling;
use super::depth::State;
use super::timeline::{self, Track};
use crate::cli::kernel_table::KernelTable;

/// Tokens that each run starts from.
const PROMPT: usize = 16;

pub(super) struct Run {
    pub(super) decode: Duration,
    tokens: usize,
    stats: StoreStats,
    waited: Duration,
    work: HostWork,
}

impl Run {
    pub(super) fn ms(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / self.tokens as f64
    }

    /// What neither the disk nor the device accounts for.
    fn host(&self) -> Duration {
        let all = self.decode.saturating_sub(self.waited).saturating_sub(self.stats.stall_time);
        all.saturating_sub(self.work.ahead)
    }

    pub(super) fn rate(&self) -> f64 {
        self.tokens as f64 / self.decode.as_secs_f64()
    }

    fn each(&self, count: u64) -> f64 {
        count as f64 / self.tokens as f64
    }

    pub(super) fn hit_rate(&self) -> f64 {
        self.stats.hit_rate()
    }

    pub(super) fn bytes_per_token(&self) -> f64 {
        self.stats.bytes_read as f64 / self.tokens as f64
    }

    pub(super) fn read_rate(&self) -> f64 {
        self.stats.bytes_read as f64 / self.decode.as_secs_f64() / 1e9
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let options = args.model.resources.options();
    let source = args.model.source()?;
    let layout = source.experts().clone();
    let mut engine = args.model.open_source(source, &options)?;
    let (device, plan) = (engine.device(), engine.plan().clone());
    let (layers, top_k) = (engine.shape().layers.len(), layout.most_of_a_token());
    let vocab = engine.tokenizer().map_or(engine.shape().vocab, |t| t.vocab_size());
    let (asked, seed) = (args.sampling.options(), args.sampling.seed.unwrap_or(0));
    let sampling = sampling(asked);
    let mut runs = Vec::new();
    for n in 0..args.repeat.max(1) {
        // run after run continues in the cache that the last one left: the first is cold
        let mut session = engine.session()?;
        runs.push(decode(&mut session, args.tokens, vocab, (sampling, seed.wrapping_add(n as u64)), false)?);
    }
    let resident = flashflood_backends::memory::resident_memory();
    let peak = flashflood_backends::memory::peak_memory();
    let read = runs.iter().map(|run| run.stats.bytes_read).sum();
    let read_rate = Ceiling::read_rate(&options, &layout, read, top_k)?;
    let mut session = engine.session()?;
    let round_trip = session.round_trip()?;
    if let Some(file) = &args.trace {
        decode(&mut session, timeline::TOKENS, vocab, (sampling, seed), true)?;
        let tokens = Track { name: "tokens", spans: session.take_spans() };
        if tokens.spans.is_empty() {
            anyhow::bail!(
                "--trace wants a device that keeps times of what it is asked for, and {} is none: try --device gpu",
                engine.device()
            );
        }
        session = engine.session()?;
        session.profile();
        decode(&mut session, timeline::TOKENS, vocab, (sampling, seed), true)?;
        let profile = Track { name: "profile: a pass for each kernel", spans: session.take_spans() };
        timeline::write(file, &[tokens, profile])?;
        session = engine.session()?;
    }
    let profiled = session.profile();
    let profile = decode(&mut session, args.tokens.min(16), vocab, (sampling, seed), false)?;
    let times = if profiled { session.kernel_times() } else { Vec::new() };
    let kernels = profiled.then(|| Ceiling::kernels(&session));
    let waits = Ceiling::waits(&options, &plan, layout.layers.len());
    let ceiling = Ceiling { read_rate, depth: top_k, kernels, round_trip, waits };
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            json!({
                "tokens_per_s": run.rate(),
                "ms_per_token": run.ms(run.decode),
                "bytes_read_per_token": run.bytes_per_token(),
                "expert_gb_s": run.read_rate(),
                "hit_rate": run.hit_rate(),
                "stall_ms_per_token": run.ms(run.stats.stall_time),
                "device_wait_ms_per_token": run.ms(run.waited),
                "host_ms_per_token": run.ms(run.host()),
                "encode_ms_per_token": run.ms(run.work.encode),
                "ahead_ms_per_token": run.ms(run.work.ahead),
                "submit_ms_per_token": run.ms(run.work.submit),
                "submissions_per_token": run.each(run.work.submissions),
                "dispatches_per_token": run.each(run.work.dispatches),
                "barriers_per_token": run.each(run.work.barriers),
                "ceiling_ms_per_token": ceiling.least(run.bytes_per_token()).as_secs_f64() * 1e3,
                "experts_read_ahead": run.stats.ahead,
                "experts_read_ahead_used": run.stats.ahead_used,
            })
        })
        .collect();
    let kernels: Vec<_> = times
        .iter()
        .map(|t| {
            json!({
                "kernel": t.kernel, "calls": t.calls, "us": t.time.as_secs_f64() * 1e6, "weight_bytes": t.weight_bytes,
            })
        })
        .collect();
    let state = State::at(&plan, PROMPT + args.tokens);
    let all = json!({ "device": device, "resident_bytes": resident, "peak_bytes": peak, "slots": plan.slots,
        "kv_bytes": state.kv, "state_bytes": state.recurrent,
        "memory_gb_s": if times.is_empty() { None } else { session.bandwidth()?.map(|rate| rate / 1e9) },
        "read_ceiling_gb_s": read_rate, "round_trip_us": round_trip.map(|t| t.as_secs_f64() * 1e6), "runs": rows,
        "profiled_tokens": profile.tokens + PROMPT, "kernels": kernels });
    if args.present("decode", &all, &all)? {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{device}; {layers} layers, {} of {} experts in memory", plan.slots, plan.all_slots)?;
    let memory = [("resident", resident), ("peak", peak)];
    let memory = memory.iter().filter_map(|(what, bytes)| bytes.map(|b| format!("{what} {}", bytes_for_people(b))));
    writeln!(out, "memory of the process: {}", memory.collect::<Vec<_>>().join(", "))?;
    let [kv, recurrent] = [state.kv, state.recurrent].map(bytes_for_people);
    writeln!(out, "state behind {} tokens: KV cache {kv}, recurrent {recurrent}", PROMPT + args.tokens)?;
    print_runs(&mut out, &runs, &ceiling)?;
    ceiling.explain(&mut out)?;
    KernelTable::of(&session)?.write(&mut out)?;
    Ok(())
}

/// At temperature 1 among 20, unless told otherwise.
pub(super) fn sampling(asked: SamplerOptions) -> SamplerOptions {
    SamplerOptions { temperature: asked.temperature.or(Some(1.0)), top_k: asked.top_k.or(Some(20)), ..asked }
}

fn print_runs(out: &mut impl Write, runs: &[Run], ceiling: &Ceiling) -> io::Result<()> {
    let ahead = runs.iter().any(|run| run.stats.ahead > 0);
    write!(
        out,
        "\n| run | t/s | ms/token | ceiling ms | read/token | hit % | stalled ms | device ms | host ms | encode ms | submit ms | expert GB/s |"
    )?;
    writeln!(out, "{}", if ahead { " ahead, used |" } else { "" })?;
    write!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    writeln!(out, "{}", if ahead { " ---: |" } else { "" })?;
    for (n, run) in runs.iter().enumerate() {
        write!(
            out,
            "| {} | {:.1} | {:.2} | {:.2} | {} | {:.1} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.2} |",
            if n == 0 { "first".to_owned() } else { format!("{}", n + 1) },
            run.rate(),
            run.ms(run.decode),
            ceiling.least(run.bytes_per_token()).as_secs_f64() * 1e3,
            bytes_for_people(run.bytes_per_token() as u64),
            run.hit_rate() * 100.0,
            run.ms(run.stats.stall_time),
            run.ms(run.waited),
            run.ms(run.host()),
            run.ms(run.work.encode),
            run.ms(run.work.submit),
            run.read_rate(),
        )?;
        if ahead {
            let used = 100.0 * run.stats.ahead_used as f64 / run.stats.ahead.max(1) as f64;
            write!(out, " {}, {used:.0} % |", run.stats.ahead)?;
        }
        writeln!(out)?;
    }
    match runs.last() {
        Some(run) if run.work.dispatches > 0 => explain_host(out, run),
        _ => Ok(()),
    }
}

/// Of what the host's time is made.
fn explain_host(out: &mut impl Write, run: &Run) -> io::Result<()> {
    let work = run.work;
    let rest = run.host().saturating_sub(work.encode).saturating_sub(work.submit);
    let ns = (work.encode + work.ahead).as_secs_f64() * 1e9 / work.dispatches as f64;
    write!(
        out,
        "\nhost, a token of the last run: {:.0} dispatches encoded ({ns:.0} ns each; {:.3} ms while the device computed) in {:.1} submissions, {:.3} ms for the rest",
        run.each(work.dispatches),
        run.ms(work.ahead),
        run.each(work.submissions),
        run.ms(rest),
    )?;
    match work.barriers {
        0 => writeln!(out, "; wgpu records them"),
        barriers => writeln!(out, "; {:.0} of them wait for others", run.each(barriers)),
    }
}

/// With `spans`, those of the tokens after the prompt are kept.
pub(super) fn decode(
    session: &mut Session<'_>,
    tokens: usize,
    vocab: usize,
    (options, seed): (SamplerOptions, u64),
    spans: bool,
) -> anyhow::Result<Run> {
    let prompt: Vec<u32> = (0..PROMPT as u64)
        .map(|i| ((i * 37).wrapping_add(seed.wrapping_mul(11)).wrapping_add(1) % vocab.min(200) as u64) as u32)
        .collect();
    let mut sampler = Sampler::new(options, seed)?;
    session.extend(&prompt, LogitRows::Last, |_, _| true)?;
    let next = session.sample(&mut sampler, vocab)?;
    if spans {
        session.keep_spans();
    }
    decode_from(session, next, tokens, vocab, &mut sampler)
}

/// Decodes `tokens`, the first of which is `next`, behind what the session has read.
pub(super) fn decode_from(
    session: &mut Session<'_>,
    mut next: u32,
    tokens: usize,
    vocab: usize,
    sampler: &mut Sampler,
) -> anyhow::Result<Run> {
    session.reset_expert_stats();
    let (waited, work) = (session.waited(), session.host_work());
    let start = Instant::now();
    for _ in 0..tokens {
        session.decode(next)?;
        next = session.sample(sampler, vocab)?;
    }
    session.finish()?;
    let decode = start.elapsed();
    let (waited, work) = (session.waited() - waited, session.host_work() - work);
    Ok(Run { decode, tokens, stats: session.expert_stats(), waited, work })
}
