//! What quantisation costs: loss per token and right answers by kind of document, of several models side by side, each
//! with activations in f32 and in 8 bits; and how far the second are from the first, token by token.
//!
//!     cargo bench --bench quality -- MODEL... >> benches/results/quality-small-moe.csv
//!
//! prints rows to stdout and a table to stderr. `embedded` is the model in the program.

mod rows;
// the tests hold the same scores against those of the training run; a bench and a test share code by path only
#[path = "../tests/small_moe/score.rs"]
mod score;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use flashflood::compute::LogitRows;
use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget};
use flashflood::model::ModelSource;
use flashflood::text::Tokenizer;
use rows::{Row, Rows, format_of};
use score::{Answers, Kind, Loss};

const EVAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/small-moe/snapshot-8bit/eval.jsonl");

#[derive(Parser)]
struct Arguments {
    /// Folders of snapshots or packs; `embedded` is the model in the program
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Documents, one JSON object a line with `kind` and `text`
    #[arg(long, default_value = EVAL)]
    eval: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Documents of each kind [default: all for the loss, 20 for answers, as the training did]
    #[arg(long)]
    documents: Option<usize>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one model scores on each kind of document.
struct Scores {
    model: String,
    format: String,
    activations: Activations,
    kinds: Vec<(Loss, Option<Answers>)>,
    /// Against activations in f32.
    distance: Option<Distance>,
}

/// How far the next token's distribution is from that of a reference.
#[derive(Clone, Copy, Default)]
struct Distance {
    /// Kullback-Leibler divergence of all tokens, in nats.
    divergence: f64,
    /// Tokens after which both find the same one most likely.
    same: usize,
    /// All.
    tokens: usize,
}

impl Distance {
    fn per_token(self) -> f64 {
        self.divergence / self.tokens as f64
    }

    fn same_percent(self) -> f64 {
        100.0 * self.same as f64 / self.tokens as f64
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows = Rows::new("quality");
    let kinds = score::read_kinds(&arguments.eval)?;
    let mut all = Vec::new();
    for model in &arguments.models {
        let context = || model.display().to_string();
        let mut reference = open(model, Activations::F32, &arguments).with_context(context)?;
        let mut int8 = open(model, Activations::Int8, &arguments).with_context(context)?;
        for engine in [&mut reference, &mut int8] {
            measure(engine, &kinds, &arguments).with_context(context)?;
        }
        int8.scores.distance = Some(distance(&mut reference.engine, &mut int8.engine, &kinds, &arguments)?);
        for scores in [reference.scores, int8.scores] {
            print_rows(&rows, &scores, &kinds);
            all.push(scores);
        }
    }
    print_table(&all, &kinds);
    Ok(())
}

/// A model with the scores it has so far.
struct Measured {
    engine: Engine,
    scores: Scores,
}

fn open(path: &Path, activations: Activations, arguments: &Arguments) -> anyhow::Result<Measured> {
    let source = if path == Path::new("embedded") { ModelSource::embedded()? } else { ModelSource::open(path)? };
    let model = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let format = format_of(&source);
    let (device, experts) = (arguments.device, ExpertBudget::All);
    let options = EngineOptions { device, experts, activations, ..EngineOptions::default() };
    let engine = Engine::from_source(source, &options)?;
    Ok(Measured { engine, scores: Scores { model, format, activations, kinds: Vec::new(), distance: None } })
}

fn measure(measured: &mut Measured, kinds: &[Kind], arguments: &Arguments) -> anyhow::Result<()> {
    let Measured { engine, scores } = measured;
    let tokenizer = engine.tokenizer()?;
    for kind in kinds {
        eprintln!("{}, {:?}: {}", scores.model, scores.activations, kind.name);
        let loss = score::loss(engine, &tokenizer, kind.first(arguments.documents.unwrap_or(usize::MAX)))?;
        let asked = kind.first(arguments.documents.unwrap_or(20));
        let answers = match kind.has_answers() {
            true => Some(score::answers(engine, &tokenizer, asked)?),
            false => None,
        };
        scores.kinds.push((loss, answers));
    }
    Ok(())
}

/// Over all documents.
fn distance(
    reference: &mut Engine,
    other: &mut Engine,
    kinds: &[Kind],
    arguments: &Arguments,
) -> anyhow::Result<Distance> {
    let (tokenizer, vocab) = (reference.tokenizer()?, reference.shape().vocab);
    let mut distance = Distance::default();
    for text in kinds.iter().flat_map(|kind| kind.first(arguments.documents.unwrap_or(usize::MAX))) {
        let expected = all_logits(reference, &tokenizer, text)?;
        let found = all_logits(other, &tokenizer, text)?;
        for (expected, found) in expected.chunks_exact(vocab).zip(found.chunks_exact(vocab)) {
            let (p, q) = (log_probabilities(expected), log_probabilities(found));
            distance.divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            distance.same += usize::from(largest(&p) == largest(&q));
            distance.tokens += 1;
        }
    }
    Ok(distance)
}

/// `[tokens, vocab]`
fn all_logits(engine: &mut Engine, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<f32>> {
    let mut all = Vec::new();
    let mut failed = None;
    engine.session()?.extend(&tokenizer.encode(text)?, LogitRows::All, |session, _| {
        match session.logits() {
            Ok(logits) => all.extend_from_slice(&logits),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(all),
    }
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - top - sum.ln()).collect()
}

fn largest(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]))
}

impl Scores {
    /// `q4`, or `q4 int8` with activations in 8 bits.
    fn format_with_activations(&self) -> String {
        let suffix = if self.activations == Activations::Int8 { " int8" } else { "" };
        format!("{}{suffix}", self.format)
    }

    fn total(&self) -> (Loss, Answers) {
        let (mut losses, mut all) = (Loss::default(), Answers::default());
        for (loss, answers) in &self.kinds {
            losses += *loss;
            all += answers.unwrap_or_default();
        }
        (losses, all)
    }
}

fn print_rows(rows: &Rows, scores: &Scores, kinds: &[Kind]) {
    let print = |kind: &str, value: f64, unit: &str| {
        let format = &scores.format_with_activations();
        rows.print(&Row { model: &scores.model, format, context: kind, cache: "", value, unit });
    };
    for (kind, (loss, answers)) in kinds.iter().zip(&scores.kinds) {
        print(&kind.name, loss.per_token(), "nats/token");
        if let Some(answers) = answers {
            print(&kind.name, answers.percent(), "% right");
        }
    }
    let (loss, answers) = scores.total();
    print("all", loss.per_token(), "nats/token");
    print("all", answers.percent(), "% right");
    if let Some(distance) = scores.distance {
        print("all", 1e6 * distance.per_token(), "nats/million tokens from f32");
        print("all", distance.same_percent(), "% same next token as f32");
    }
}

/// Rows for each model: loss, right answers of those asked, and the distance of int8 from f32.
fn print_table(all: &[Scores], kinds: &[Kind]) {
    let cell = |(loss, answers): &(Loss, Option<Answers>)| match answers {
        Some(answers) => format!("{:.4} {}/{}", loss.per_token(), answers.right, answers.asked),
        None => format!("{:.4}", loss.per_token()),
    };
    let names = kinds.iter().map(|kind| kind.name.as_str()).chain(["all"]);
    eprintln!("\n| model | experts | {} | from f32 | same next token |", names.collect::<Vec<_>>().join(" | "));
    eprintln!("| --- | --- |{}", " ---: |".repeat(kinds.len() + 3));
    for scores in all {
        let (loss, answers) = scores.total();
        let cells: Vec<String> = scores.kinds.iter().chain([&(loss, Some(answers))]).map(cell).collect();
        let distance = match scores.distance {
            Some(distance) => format!("{:.6} | {:.2} %", distance.per_token(), distance.same_percent()),
            None => " | ".to_owned(),
        };
        let format = scores.format_with_activations();
        eprintln!("| {} | {format} | {} | {distance} |", scores.model, cells.join(" | "));
    }
}
