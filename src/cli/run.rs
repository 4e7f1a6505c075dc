//! `flashflood run`: one prompt, one answer.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use flashflood::engine::{Engine, ExpertBudget};
use flashflood::generate::{Event, Finish, GenerateOptions, Generated, generate};
use flashflood::session::Session;
use flashflood::state::{CheckpointOptions, SessionFolder, chat_boundaries};
use flashflood::text::{Form, GrammarCompiler, Message, ReplyParser, Sampler, SamplerOptions, Tokenizer};

use super::kernel_table::KernelTable;
use super::model::ModelArgs;
use super::prefill_bar::PrefillBar;
use super::{Interrupted, interrupted};

/// Answer a prompt, or continue a text
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt; without it, standard input is read
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Continue the text as it stands, without the chat template
    #[arg(long)]
    raw: bool,
    /// System message
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,
    /// Let the model think before it answers [default: the template's]
    #[arg(long, value_name = "on|off", conflicts_with = "raw", value_parser = ["on", "off"])]
    think: Option<String>,
    /// Most tokens to write
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, env = "FLASHFLOOD_MAX_TOKENS")]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Answer with JSON of this schema; @FILE reads it from a file
    #[arg(long, value_name = "SCHEMA", env = "FLASHFLOOD_JSON_SCHEMA")]
    json_schema: Option<String>,
    /// Stop at this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    saved: SessionArgs,
    /// Show no bar while the prompt is read. There is none either where standard error is not a terminal
    #[arg(long, env = "FLASHFLOOD_NO_PROGRESS", value_parser = FalseyValueParser::new())]
    no_progress: bool,
    /// Write which experts every token chose to a file, for `flashflood bench --cache-trace`
    #[arg(long, value_name = "FILE")]
    trace_experts: Option<PathBuf>,
    /// Print speed, memory and expert reads at the end
    #[arg(long)]
    stats: bool,
    /// Time every kernel and print a table at the end; this makes the text slower
    #[arg(long)]
    profile: bool,
}

/// Where sessions are kept.
#[derive(Args)]
struct SessionArgs {
    /// Keep the state of what was read and written in this folder, and go on from it where a later prompt begins with the
    /// same tokens [default: nothing is kept]
    #[arg(long, value_name = "DIR", env = "FLASHFLOOD_SESSION_DIR")]
    session_dir: Option<PathBuf>,
    /// What the files in --session-dir may take together; those that were not used for the longest time go
    #[arg(long, value_name = "SIZE", default_value = "32GB", env = "FLASHFLOOD_SESSION_SPACE", value_parser = size)]
    session_space: u64,
}

/// Bytes, from text such as 8GB.
fn size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ExpertBudget::Bytes(bytes)) => Ok(bytes),
        _ => Err(format!("expected a size such as 8GB, found '{text}'")),
    }
}

impl SessionArgs {
    fn open(&self) -> anyhow::Result<Option<SessionFolder>> {
        Ok(match &self.session_dir {
            Some(path) => Some(SessionFolder::open(path, self.session_space)?),
            None => None,
        })
    }
}

/// How tokens are chosen; what is not given comes from the model's generation_config.json.
#[derive(Args)]
struct SamplingArgs {
    /// Temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", env = "FLASHFLOOD_TEMP")]
    temp: Option<f32>,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", env = "FLASHFLOOD_TOP_K")]
    top_k: Option<u32>,
    /// Choose among the most likely tokens that have this probability together
    #[arg(long, value_name = "P", env = "FLASHFLOOD_TOP_P")]
    top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the most likely one
    #[arg(long, value_name = "P", env = "FLASHFLOOD_MIN_P")]
    min_p: Option<f32>,
    /// Subtract from the logits of tokens that have occurred
    #[arg(long, value_name = "X")]
    presence_penalty: Option<f32>,
    /// Subtract from the logits of tokens, times how often they have occurred
    #[arg(long, value_name = "X")]
    frequency_penalty: Option<f32>,
    /// Divide the logits of tokens that have occurred
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// Seed: the same seed gives the same text
    #[arg(short, long, value_name = "N", env = "FLASHFLOOD_SEED")]
    seed: Option<u64>,
}

impl SamplingArgs {
    fn options(&self) -> SamplerOptions {
        SamplerOptions {
            // not `> 0`: the sampler refuses what is no temperature
            do_sample: self.temp.map(|t| t != 0.0),
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repeat_penalty,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    let prompt = prompt(&args)?;
    let empty = || anyhow!("the prompt is empty (hint: give some text, as an argument or on standard input)");
    if prompt.is_empty() {
        return Err(empty());
    }
    // a folder that cannot be made is better known before the text
    let mut sessions = args.saved.open()?;
    let mut engine = args.model.open(&args.model.resources.options())?;
    let tokenizer = engine.tokenizer()?;
    let generation = engine.generation_config()?;
    let Prompt { text, ids, boundaries } = Prompt::new(&engine, &tokenizer, &args, prompt)?;
    if ids.is_empty() {
        return Err(empty());
    }
    let seed = args
        .sampling
        .seed
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64));
    let stop_ids = generation.stop_ids(&tokenizer);
    let mut sampler = Sampler::new(args.sampling.options().or(generation.sampler), seed)?;
    let reply = if args.raw { ReplyParser::default() } else { ReplyParser::new(&text, Vec::new()) };
    let grammar = match &args.json_schema {
        Some(schema) => {
            let form = Form { json: Some(schema_of(schema)?), behind_thoughts: reply.is_thinking(), ..Form::default() };
            Some(GrammarCompiler::new(&tokenizer, &stop_ids)?.compile(&form).context("--json-schema")?)
        }
        None => None,
    };
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        stop_ids,
        stop_strings: args.stop.clone(),
        reply,
        grammar,
        probabilities: None,
        boundaries,
    };
    let device = engine.device();
    let plan = engine.plan().clone();
    let mut session = engine.session()?;
    // a path that cannot be written is better known before the text
    let trace_file = match &args.trace_experts {
        Some(path) => Some((path, File::create(path).with_context(|| path.display().to_string())?)),
        None => None,
    };
    if trace_file.is_some() {
        session.trace_experts();
    }
    if args.profile && !session.profile() {
        eprintln!("note: {device} has no timestamps: there is no profile");
    }
    match &sessions {
        Some(sessions) => {
            for refused in session.restore(sessions, &ids)?.refused {
                eprintln!("warning: {refused}");
            }
        }
        // nobody goes on from them
        None => session.keep_checkpoints(CheckpointOptions::none()),
    }
    let mut bar = PrefillBar::new(!args.no_progress);
    let mut out = std::io::stdout().lock();
    let mut failed = None;
    // shown at once, but for a bar, which would be drawn over its last line
    let mut shown_later = args.raw.then_some(text);
    if !bar.is_visible() {
        write!(out, "{}", shown_later.take().unwrap_or_default())?;
        out.flush()?;
    }
    let made = generate(&mut session, &tokenizer, &mut sampler, &ids, &options, |event| {
        match event {
            Event::Prefill { done, total } => bar.show(done as f64, total),
            Event::PrefillLayer(progress) => bar.show(progress.tokens(), progress.total),
            // a closed pipe ends the run
            Event::Text(text) => {
                bar.erase();
                let text = shown_later.take().unwrap_or_default() + &text;
                failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
            }
            // thoughts are not the answer
            Event::Thinking(text) => {
                bar.erase();
                drop(write!(std::io::stderr(), "{text}"));
            }
            Event::Token { .. } | Event::ToolCall(_) => {}
        }
        failed.is_none() && !interrupted()
    });
    bar.erase();
    if let (Some((path, file)), Some(trace)) = (trace_file, session.take_expert_trace()) {
        let mut file = BufWriter::new(file);
        trace.write(&mut file).and_then(|()| file.flush()).with_context(|| path.display().to_string())?;
    }
    let made = made?;
    if let Some(e) = failed {
        return Err(e).context("standard output");
    }
    writeln!(out, "{}", shown_later.take().unwrap_or_default())?;
    if let Some(sessions) = &mut sessions
        && let Err(e) = session.save(sessions)
    {
        eprintln!("warning: this session is not kept: {e}");
    }
    if made.finish == Finish::ContextFull {
        eprintln!("note: the context is full; raise --ctx for more");
    }
    if args.stats {
        eprintln!("{}", stats(&device, &session, &made, ids.len(), seed));
        eprint!("{plan}");
    }
    if args.profile {
        KernelTable::of(&session)?.write(&mut std::io::stderr())?;
    }
    if made.finish == Finish::Interrupted {
        return Err(Interrupted.into());
    }
    Ok(())
}

fn prompt(args: &RunArgs) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    if let Some(path) = &args.file {
        return std::fs::read_to_string(path).with_context(|| path.display().to_string());
    }
    if std::io::stdin().is_terminal() {
        bail!("no prompt (hint: flashflood run \"What is the capital of Peru?\")");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    // a shell's echo ends lines
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// The schema that `--json-schema` gives.
fn schema_of(argument: &str) -> anyhow::Result<serde_json::Value> {
    let text = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.to_owned())?,
        None => argument.to_owned(),
    };
    serde_json::from_str(&text).context("--json-schema: expected JSON, or @ and the path of a file")
}

/// What is to be answered or continued.
struct Prompt {
    text: String,
    ids: Vec<u32>,
    /// Where later prompts may part from this one.
    boundaries: Vec<usize>,
}

impl Prompt {
    fn new(engine: &Engine, tokenizer: &Tokenizer, args: &RunArgs, text: String) -> anyhow::Result<Prompt> {
        if args.raw {
            let ids = tokenizer.encode(&text)?;
            // the same text again, to be continued otherwise
            let boundaries = vec![ids.len().saturating_sub(1)];
            return Ok(Prompt { text, ids, boundaries });
        }
        let mut messages = Vec::new();
        if let Some(system) = &args.system {
            messages.push(Message::new("system", system));
        }
        messages.push(Message::new("user", text));
        let mut extra = serde_json::Map::new();
        if let Some(think) = &args.think {
            extra.insert("enable_thinking".to_owned(), (think == "on").into());
        }
        let template = engine.chat_template()?;
        let text = template.render(&messages, None, true, &extra)?;
        let ids = tokenizer.encode(&text)?;
        let boundaries = match args.saved.session_dir {
            Some(_) => chat_boundaries(&template, tokenizer, &messages, None, &extra, &ids),
            None => Vec::new(),
        };
        Ok(Prompt { text, ids, boundaries })
    }
}

fn stats(device: &str, session: &Session<'_>, made: &Generated, prompt: usize, seed: u64) -> String {
    let rate = |n: usize, t: std::time::Duration| n as f64 / t.as_secs_f64().max(1e-9);
    let decoded = made.tokens.len().saturating_sub(1);
    let computed = prompt.saturating_sub(made.reused);
    let memory = flashflood_backends::memory::resident_memory()
        .map_or(String::new(), |bytes| format!(", {} resident", flashflood::engine::bytes_for_people(bytes)));
    format!(
        "{device}, seed {seed}{memory}\nreused {} of {prompt} tokens · prefill {computed} tokens in {:.2} s ({:.1} t/s) · decode {decoded} tokens at {:.1} t/s\n{}",
        made.reused,
        made.prefill.as_secs_f64(),
        rate(computed, made.prefill),
        rate(decoded, made.decode),
        session.expert_stats(),
    )
}
