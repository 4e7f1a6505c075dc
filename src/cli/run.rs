//! `flashflood run`: one prompt, one answer.

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use flashflood::{CheckpointOptions, Finish, Generated, Message, Request, RequestError, Session};

use super::asking::{AnswerArgs, Screen, SessionArgs, say_that_it_is_a_toy};
use super::kernel_table::KernelTable;
use super::model::ModelArgs;
use super::output::private_file;
use super::{Interrupted, interrupted};
use crate::cli::notes::note;

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
    #[arg(long, conflicts_with_all = ["system", "think", "think_budget"])]
    raw: bool,
    /// Most tokens to write
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, env = "FLASHFLOOD_MAX_TOKENS")]
    max_tokens: usize,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Answer with JSON of this schema; @FILE reads it from a file
    #[arg(long, value_name = "SCHEMA", env = "FLASHFLOOD_JSON_SCHEMA")]
    json_schema: Option<String>,
    #[command(flatten)]
    saved: SessionArgs,
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

/// Runs the command.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    let prompt = prompt(&args)?;
    if prompt.is_empty() {
        return Err(anyhow!("the prompt is empty (hint: give some text, as an argument or on standard input)"));
    }
    // a folder that cannot be made is better known before the text
    let mut sessions = args.saved.open()?;
    say_that_it_is_a_toy(args.model.model.as_deref());
    let mut engine = args.model.open()?;
    let prepared = engine.language()?.prepare(request(&args, prompt.clone())?).map_err(in_flags)?;
    let device = engine.device();
    let plan = engine.plan().clone();
    let mut session = engine.session()?;
    // a path that cannot be written is better known before the text
    let trace_file = match &args.trace_experts {
        Some(path) => Some((path, private_file(path)?)),
        None => None,
    };
    if trace_file.is_some() {
        session.trace_experts();
    }
    if args.profile && !session.profile() {
        note!("note: {device} has no timestamps: there is no profile");
    }
    match &sessions {
        Some(sessions) => {
            for refused in session.restore(sessions, prepared.prompt())?.refused {
                note!("warning: {refused}");
            }
        }
        // nobody goes on from them
        None => session.keep_checkpoints(CheckpointOptions::none()),
    }
    let mut screen = Screen::new(&args.answer);
    if args.raw {
        screen.before(prompt);
    }
    let made = session.answer(&prepared, |event| screen.show(event) && !interrupted());
    let shown = screen.end();
    if let (Some((path, file)), Some(trace)) = (trace_file, session.take_expert_trace()) {
        let mut file = BufWriter::new(file);
        trace.write(&mut file).and_then(|()| file.flush()).with_context(|| path.display().to_string())?;
    }
    let made = made?;
    shown.context("standard output")?;
    if let Some(sessions) = &mut sessions
        && let Err(e) = session.save(sessions)
    {
        note!("warning: this session is not kept: {e}");
    }
    if made.finish == Finish::ContextFull {
        note!("note: the context is full; raise --ctx for more");
    }
    if args.stats {
        note!("{}", stats(&device, &session, &made, prepared.seed()));
        note!("{}", plan.to_string().trim_end());
    }
    if args.profile {
        KernelTable::of(&session)?.write(&mut std::io::stderr())?;
    }
    if made.finish == Finish::Interrupted {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// The error of a request, with the flag that is meant.
fn in_flags(error: RequestError) -> anyhow::Error {
    let is_schema = error.field.as_deref() == Some("response_format");
    let error = anyhow::Error::from(error);
    if is_schema { error.context("--json-schema") } else { error }
}

/// What the flags ask for.
fn request(args: &RunArgs, prompt: String) -> anyhow::Result<Request> {
    let mut request = if args.raw {
        Request::text(prompt)
    } else {
        let system = args.answer.system.as_ref().map(|text| Message::new("system", text));
        Request::chat(system.into_iter().chain([Message::new("user", prompt)]))
    };
    args.answer.fill(&mut request);
    request.max_tokens = Some(args.max_tokens);
    request.json_schema = args.json_schema.as_deref().map(schema_of).transpose()?;
    Ok(request)
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

fn stats(device: &str, session: &Session<'_>, made: &Generated, seed: u64) -> String {
    let (prompt, computed, decoded) = (made.prompt, made.computed, made.decoded());
    let memory = flashflood_backends::memory::resident_memory()
        .map_or(String::new(), |bytes| format!(", {} resident", flashflood::bytes_for_people(bytes)));
    format!(
        "{device}, seed {seed}{memory}\nreused {} of {prompt} tokens · prefill {computed} tokens in {:.2} s ({:.1} t/s) · decode {decoded} tokens at {:.1} t/s\n{}",
        made.reused,
        made.prefill.as_secs_f64(),
        made.prefill_rate(),
        made.decode_rate(),
        session.expert_stats(),
    )
}
