//! `flashflood bench --cache-trace FILE`: the hit rate of cache policies at several sizes, by replaying what a run
//! asked for. Needs no model and no disk.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};
use flashflood::bytes_for_people;
use flashflood::experts::policy::{AgedLfu, Lru};
use flashflood::experts::trace::{Trace, TraceShape};
use serde_json::{Value, json};

use super::BenchArgs;
use super::replay::{Replayed, optimum, replay};

/// Tokens after which a use counts half, for the policy that counts uses.
const HALF_LIVES: [usize; 3] = [8, AgedLfu::TOKENS, 128];

pub(super) fn run(args: &BenchArgs, path: &Path) -> anyhow::Result<()> {
    let name = || path.display().to_string();
    let file = File::open(path).with_context(name)?;
    let trace = Trace::read(&mut BufReader::new(file)).with_context(name)?;
    if trace.steps.is_empty() {
        bail!("{}: the trace has no tokens", name());
    }
    let rows: Vec<Row> = sizes(&trace.shape).into_iter().map(|slots| Row::measure(&trace, slots)).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|row| row.json(&trace.shape)).collect();
        let (layers, slot_bytes) = (trace.shape.layers.len(), trace.shape.slot_bytes);
        let (experts, top_k) = (trace.shape.most_experts(), trace.shape.most_of_a_token());
        let report = json!({
            "layers": layers, "experts": experts, "top_k": top_k, "slot_bytes": slot_bytes,
            "tokens": trace.tokens(), "steps": trace.steps.len(), "sizes": rows,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print_table(&mut out, &trace, &rows)?;
    }
    Ok(())
}

/// Slots for each layer: what a token needs, then eighths of all; of layers that differ, by the one with the most.
fn sizes(shape: &TraceShape) -> Vec<usize> {
    let (experts, top_k) = (shape.most_experts(), shape.most_of_a_token());
    let eighths = (1..=8).map(|eighth| (experts * eighth / 8).max(top_k));
    let mut all: Vec<usize> = std::iter::once(top_k).chain(eighths).collect();
    all.dedup();
    all
}

/// What a cache of one size would have done.
struct Row {
    slots: usize,
    lru: Replayed,
    lfu: Vec<Replayed>,
    optimum: Replayed,
}

impl Row {
    fn measure(trace: &Trace, slots: usize) -> Row {
        let lfu =
            |tokens: usize| replay(trace, &AgedLfu { half_life: (tokens * trace.shape.layers.len()) as f64 }, slots);
        let (lru, optimum) = (replay(trace, &Lru, slots), optimum(trace, slots));
        Row { slots, lru, lfu: HALF_LIVES.map(lfu).into(), optimum }
    }

    fn share(&self, shape: &TraceShape) -> f64 {
        self.slots as f64 / shape.most_experts() as f64
    }

    fn bytes(&self, shape: &TraceShape) -> u64 {
        self.slots as u64 * shape.layers.len() as u64 * shape.slot_bytes as u64
    }

    fn json(&self, shape: &TraceShape) -> Value {
        let lfu: serde_json::Map<_, _> =
            HALF_LIVES.iter().zip(&self.lfu).map(|(tokens, found)| (tokens.to_string(), counts(found))).collect();
        json!({
            "slots_per_layer": self.slots, "share_of_experts": self.share(shape), "bytes": self.bytes(shape),
            "lru": counts(&self.lru), "lfu_aged_by_half_life_in_tokens": lfu, "optimum": counts(&self.optimum),
        })
    }
}

fn counts(found: &Replayed) -> Value {
    json!({ "hits": found.hits, "misses": found.misses, "hit_rate": found.hit_rate() })
}

fn print_table(out: &mut impl Write, trace: &Trace, rows: &[Row]) -> io::Result<()> {
    let layers = trace.shape.layers.len();
    let (experts, top_k) = (trace.shape.most_experts(), trace.shape.most_of_a_token());
    let (tokens, steps) = (trace.tokens(), trace.steps.len());
    writeln!(out, "{tokens} tokens in {steps} steps, {layers} layers of {experts} experts, {top_k} for each token")?;
    writeln!(out, "share of experts asked for that were in memory; LFU by its half-life in tokens\n")?;
    write!(out, "{:>5} {:>8} {:>10} {:>7}", "slots", "experts", "memory", "LRU")?;
    for tokens in HALF_LIVES {
        write!(out, " {:>7}", format!("LFU {tokens}"))?;
    }
    writeln!(out, " {:>8}", "optimum")?;
    for row in rows {
        let memory = bytes_for_people(row.bytes(&trace.shape));
        write!(out, "{:>5} {:>6.1} % {memory:>10}", row.slots, 100.0 * row.share(&trace.shape))?;
        for found in std::iter::once(&row.lru).chain(&row.lfu) {
            write!(out, " {:>5.1} %", 100.0 * found.hit_rate())?;
        }
        writeln!(out, " {:>6.1} %", 100.0 * row.optimum.hit_rate())?;
    }
    Ok(())
}
