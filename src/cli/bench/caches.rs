//! `flashflood bench --caches`: decode with caches for experts of several sizes, one engine after the other.

use std::io::Write;

use flashflood::bytes_for_people;
use flashflood::engine::MemoryPlan;
use serde_json::{Value, json};

use super::BenchArgs;
use super::decode::{self, Run, decode};

/// The runs with one cache.
struct Cache {
    plan: MemoryPlan,
    runs: Vec<Run>,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let sampling = decode::sampling(args.sampling.options());
    let seed = args.sampling.seed.unwrap_or(0);
    let (mut caches, mut device) = (Vec::new(), String::new());
    for &size in &args.caches {
        let mut options = args.model.resources.options();
        options.experts = size;
        let mut engine = args.model.open_source(args.model.source()?, &options)?;
        let vocab = engine.tokenizer().map_or(engine.shape().vocab, |t| t.vocab_size());
        let plan = engine.plan().clone();
        device = engine.device();
        // sizes are held against each other: the first run fills the cache, and is no part of it
        let mut runs = Vec::new();
        for n in 0..=args.repeat.max(1) as u64 {
            runs.push(decode(&mut engine.session()?, args.tokens, vocab, (sampling, seed.wrapping_add(n)), false)?);
        }
        runs.remove(0);
        caches.push(Cache { plan, runs });
    }
    let rows: Vec<Value> = caches.iter().flat_map(|cache| cache.runs.iter().map(|run| row(&cache.plan, run))).collect();
    let all = json!({ "device": device, "runs": rows });
    if args.present("caches", &all, &all)? {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{device}\n\n| cache | experts | of all % | t/s | ms/token | hit % | read/token | expert GB/s |")?;
    writeln!(out, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for Cache { plan, runs } in &caches {
        for run in runs {
            writeln!(
                out,
                "| {} | {} | {:.1} | {:.1} | {:.2} | {:.1} | {} | {:.2} |",
                bytes_for_people(plan.experts),
                plan.slots,
                100.0 * plan.slots as f64 / plan.all_slots.max(1) as f64,
                run.rate(),
                run.ms(run.decode),
                run.hit_rate() * 100.0,
                bytes_for_people(run.bytes_per_token() as u64),
                run.read_rate(),
            )?;
        }
    }
    Ok(())
}

fn row(plan: &MemoryPlan, run: &Run) -> Value {
    json!({
        "cache_bytes": plan.experts, "slots": plan.slots, "all_slots": plan.all_slots,
        "tokens_per_s": run.rate(), "ms_per_token": run.ms(run.decode), "hit_rate": run.hit_rate(),
        "bytes_read_per_token": run.bytes_per_token(), "expert_gb_s": run.read_rate(),
    })
}
