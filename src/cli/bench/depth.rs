//! `flashflood bench --depth`: decode and prompts behind contexts of several lengths, and the bytes of state there.

use std::io::Write;
use std::time::Duration;

use flashflood::bytes_for_people;
use flashflood::engine::MemoryPlan;
use flashflood::session::Session;
use flashflood::text::{Sampler, SamplerOptions};
use serde_json::{Value, json};

use super::BenchArgs;
use super::decode::{self, decode_from};
use super::prefill::{prefill, prompt};

/// Tokens of the prompt that is measured where --prompt does not say.
const PROMPT: usize = 512;

/// Bytes that a session keeps behind some tokens.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Keys and values, which grow with the tokens.
    pub(super) kv: u64,
    /// Recurrent and convolution state, which does not.
    pub(super) recurrent: u64,
}

impl State {
    /// Behind `tokens` of a model with this plan.
    pub(super) fn at(plan: &MemoryPlan, tokens: usize) -> State {
        State { kv: plan.kv / plan.context.max(1) as u64 * tokens as u64, recurrent: plan.state }
    }
}

/// What is measured behind each context.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// Tokens to decode.
    decode: usize,
    /// Lengths of prompts.
    prompts: &'a [usize],
    repeat: usize,
    vocab: usize,
    sampling: SamplerOptions,
    seed: u64,
}

/// One run behind a context.
struct Run {
    context: usize,
    state: State,
    /// Reading the context itself, which the runs behind it share.
    fill: Duration,
    decode: decode::Run,
    /// Lengths of prompts, and what they took.
    prompts: Vec<(usize, Duration)>,
}

/// Tokens a second, where there were some.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0).then(|| tokens as f64 / time.as_secs_f64())
}

impl Run {
    fn json(&self) -> Value {
        let mut row = json!({
            "context": self.context, "kv_bytes": self.state.kv, "state_bytes": self.state.recurrent,
            "fill_s": self.fill.as_secs_f64(), "fill_tokens_per_s": rate(self.context, self.fill),
            "decode_tokens_per_s": self.decode.rate(), "decode_ms_per_token": self.decode.ms(self.decode.decode),
        });
        for &(tokens, time) in &self.prompts {
            row[format!("prompt_{tokens}_tokens_per_s")] = json!(rate(tokens, time));
        }
        row
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let prompts: Vec<usize> = match &args.prompt[..] {
        [] => vec![PROMPT],
        asked => asked.iter().map(|&tokens| tokens as usize).collect(),
    };
    let depths: Vec<usize> = args.depth.iter().map(|&tokens| tokens as usize).collect();
    let most = |lengths: &[usize]| lengths.iter().copied().max().unwrap_or(0);
    let mut options = args.model.resources.options();
    // caches for more would only take memory
    options.context = options.context.or(Some(most(&depths) + most(&prompts).max(args.tokens)));
    let needed = most(&depths) + most(&prompts).max(args.tokens);
    if let Some(context) = options.context.filter(|context| *context < needed) {
        anyhow::bail!("--ctx {context}: expected at least {needed} for --depth, --prompt and -n");
    }
    let source = args.model.source()?;
    let mut engine = args.model.open_source(source, &options)?;
    let (device, plan, layers) = (engine.device(), engine.plan().clone(), engine.shape().layers.len());
    let vocab = engine.tokenizer().map_or(engine.shape().vocab, |t| t.vocab_size());
    let wanted = Wanted {
        decode: args.tokens,
        prompts: &prompts,
        repeat: args.repeat.max(1),
        vocab,
        sampling: decode::sampling(args.sampling.options()),
        seed: args.sampling.seed.unwrap_or(0),
    };
    let mut runs = Vec::new();
    // experts are read and pipelines used once before anything is measured: depths are held against each other
    let once = Wanted { repeat: 1, ..wanted };
    behind(&mut engine.session()?, 0, State::at(&plan, 0), &once, &mut Vec::new())?;
    for &depth in &depths {
        let mut session = engine.session()?;
        behind(&mut session, depth, State::at(&plan, depth), &wanted, &mut runs)?;
    }
    let rows: Vec<_> = runs.iter().map(Run::json).collect();
    let all = json!({ "device": device, "slots": plan.slots, "chunk": plan.chunk, "runs": rows });
    if args.present("depths", &all, &all)? {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let (slots, chunk) = (plan.slots, plan.chunk);
    let of = plan.all_slots;
    writeln!(out, "{device}; {layers} layers, {slots} of {of} experts in memory, chunks of {chunk} tokens")?;
    Ok(print_runs(&mut out, &runs, &prompts)?)
}

/// Reads a context of `depth` tokens and measures what follows it, each time from there.
fn behind(
    session: &mut Session<'_>,
    depth: usize,
    state: State,
    wanted: &Wanted<'_>,
    runs: &mut Vec<Run>,
) -> anyhow::Result<()> {
    let context = prompt(depth, wanted.vocab, wanted.seed);
    let mut fill = Duration::ZERO;
    if depth > 0 {
        fill = prefill(session, &context)?.time;
        session.mark()?;
    }
    for n in 0..wanted.repeat as u64 {
        let seed = wanted.seed.wrapping_add(n);
        back_to(session, &context)?;
        let mut sampler = Sampler::new(wanted.sampling, seed)?;
        let first = prompt(1, wanted.vocab, seed)[0];
        let decode = decode_from(session, first, wanted.decode, wanted.vocab, &mut sampler)?;
        let mut prompts = Vec::new();
        for &tokens in wanted.prompts {
            back_to(session, &context)?;
            prompts.push((tokens, prefill(session, &prompt(tokens, wanted.vocab, seed.wrapping_add(1)))?.time));
        }
        runs.push(Run { context: depth, state, fill, decode, prompts });
    }
    Ok(())
}

/// Makes `context` all that the session has read: what of it was not kept is read again.
fn back_to(session: &mut Session<'_>, context: &[u32]) -> anyhow::Result<()> {
    let kept = session.rewind(context.len())?;
    if kept < context.len() {
        prefill(session, &context[kept..])?;
    }
    Ok(())
}

fn print_runs(out: &mut impl Write, runs: &[Run], prompts: &[usize]) -> std::io::Result<()> {
    write!(out, "\n| context | KV cache | recurrent | read in s | read t/s | decode t/s | ms/token |")?;
    prompts.iter().try_for_each(|tokens| write!(out, " {tokens} more t/s |"))?;
    write!(out, "\n|{}", " ---: |".repeat(7 + prompts.len()))?;
    let number = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    for run in runs {
        let [kv, recurrent] = [run.state.kv, run.state.recurrent].map(bytes_for_people);
        let (context, fill, decode) = (run.context, run.fill, &run.decode);
        write!(out, "\n| {context} | {kv} | {recurrent} | {:.3} | ", fill.as_secs_f64())?;
        write!(out, "{} | {:.1} | {:.2} |", number(rate(context, fill)), decode.rate(), decode.ms(decode.decode))?;
        run.prompts.iter().try_for_each(|&(tokens, time)| write!(out, " {} |", number(rate(tokens, time))))?;
    }
    writeln!(out)
}
