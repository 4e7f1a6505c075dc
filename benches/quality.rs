//! What quantisation costs: loss per token and right answers by kind of document, of several models side by side, each
//! with activations in f32 and in 8 bits; and how far they are from a reference, token by token: from the model that
//! `--reference` names, or, where there is none, those in 8 bits from those in f32.
//!
//!     cargo bench --bench quality -- MODEL... >> benches/results/quality-small-moe.csv
//!
//! prints rows to stdout and a table to stderr. `embedded` is the model in the program.
//!
//! With `--kv f16,q8,k8v4,tq4` each model is held against itself with keys and values in f32, and `--behind N` puts stories of
//! so many tokens between what a document tells to remember and its first question; others come behind them as a whole. f32
//! has its line as well: how far the model itself remembers.
//!
//! With a reference the answers of all documents are counted, not only those of the first of each kind: one is right where
//! every token of it is the most likely one after the document up to there, which one pass over the document tells. So the
//! 1,667 questions that recipes are compared by are asked: those of `eval.jsonl`, and of 600 more sums, which `document(r,
//! "eval", "sum")` of `tests/golden/small-moe/corpus.py` makes with `r = random.Random(424242)`.

mod rows;
// the tests hold the same scores against those of the training run; a bench and a test share code by path only
#[path = "../tests/small_moe/score.rs"]
mod score;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use flashflood::compute::LogitRows;
use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget, KvFormat};
use flashflood::model::ModelSource;
use flashflood::text::Tokenizer;
use rows::{Row, Rows, format_of};
use score::{Answers, END_OF_TURN, Kind, Loss};

const EVAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/small-moe/snapshot-8bit/eval.jsonl");

#[derive(Parser)]
struct Arguments {
    /// Folders of snapshots or packs; `embedded` is the model in the program
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Documents, one JSON object a line with `kind` and `text`
    #[arg(long, default_value = EVAL)]
    eval: PathBuf,
    /// The model, with activations in f32, that all are held against
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Formats of keys and values to hold against f32, instead
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "reference")]
    kv: Vec<KvFormat>,
    /// Tokens of stories before the first question of each document
    #[arg(long, default_value_t = 0)]
    behind: usize,
    /// Kinds of documents [default: all]
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
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
    /// From the reference, or from activations in f32.
    distance: Option<Distance>,
}

/// How far the next token's distribution is from that of a reference.
#[derive(Clone, Default)]
struct Distance {
    /// Kullback-Leibler divergence of each token, in nats.
    divergences: Vec<f64>,
    /// Tokens after which both find the same one most likely.
    same: usize,
    /// By kind: the loss, and all answers where there are some.
    kinds: Vec<(Loss, Option<Answers>)>,
}

impl Distance {
    fn per_token(&self) -> f64 {
        self.divergences.iter().sum::<f64>() / self.divergences.len() as f64
    }

    /// What 99 % of the tokens are below.
    fn of_99(&self) -> f64 {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or_default()
    }

    fn same_percent(&self) -> f64 {
        100.0 * self.same as f64 / self.divergences.len() as f64
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows = Rows::new("quality");
    let mut kinds = score::read_kinds(&arguments.eval)?;
    put_stories_before_questions(&mut kinds, &arguments)?;
    kinds.retain(|kind| arguments.kinds.is_empty() || arguments.kinds.contains(&kind.name));
    if !arguments.kv.is_empty() {
        return formats_of_keys_and_values(&arguments, &rows, &kinds);
    }
    let mut all = Vec::new();
    let reference = arguments.reference.as_deref().map(|path| open(path, Activations::F32, &arguments));
    let mut reference = reference.transpose()?;
    for model in &arguments.models {
        let context = || model.display().to_string();
        let mut f32 = open(model, Activations::F32, &arguments).with_context(context)?;
        let mut int8 = open(model, Activations::Int8, &arguments).with_context(context)?;
        match &mut reference {
            Some(reference) => {
                for Measured { engine, scores } in [&mut f32, &mut int8] {
                    let found = distance(&mut reference.engine, engine, &kinds, &arguments)?;
                    scores.kinds.clone_from(&found.kinds);
                    scores.distance = Some(found);
                }
            }
            None => {
                for engine in [&mut f32, &mut int8] {
                    measure(engine, &kinds, &arguments).with_context(context)?;
                }
                int8.scores.distance = Some(distance(&mut f32.engine, &mut int8.engine, &kinds, &arguments)?);
            }
        }
        for scores in [f32.scores, int8.scores] {
            print_rows(&rows, &scores, &kinds, reference.is_some());
            all.push(scores);
        }
    }
    print_table(&all, &kinds);
    Ok(())
}

/// Each model with each format, held against itself with f32.
fn formats_of_keys_and_values(arguments: &Arguments, rows: &Rows, kinds: &[Kind]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for model in &arguments.models {
        let mut reference = open_with(model, Activations::F32, KvFormat::F32, arguments)?;
        for kv in arguments.kv.iter().copied().chain([KvFormat::F32]) {
            let Measured { mut engine, mut scores } = open_with(model, Activations::F32, kv, arguments)?;
            let found = distance(&mut reference.engine, &mut engine, kinds, arguments)?;
            scores.kinds.clone_from(&found.kinds);
            scores.distance = Some(found);
            scores.format = format!("{} kv {kv}", scores.format);
            if arguments.behind > 0 {
                scores.format += &format!(" behind {}", arguments.behind);
            }
            print_rows(rows, &scores, kinds, true);
            all.push(scores);
        }
    }
    print_table(&all, kinds);
    Ok(())
}

/// Where a document's first question begins, if something to remember comes before it; otherwise where it begins.
fn first_question(text: &str) -> usize {
    let turn = &text[..text.find(END_OF_TURN).unwrap_or(text.len())];
    turn.find("Remember this.").and_then(|_| turn.rfind("What is")).unwrap_or(0)
}

/// Stories of `--behind` tokens, cut at the end of a sentence, before the first question of each document that is no story.
fn put_stories_before_questions(kinds: &mut [Kind], arguments: &Arguments) -> anyhow::Result<()> {
    let Some(stories) = kinds.iter().find(|kind| !kind.has_answers()).filter(|_| arguments.behind > 0) else {
        return Ok(());
    };
    let tokenizer = open(&arguments.models[0], Activations::F32, arguments)?.engine.tokenizer()?;
    let sentences: Vec<&str> = stories.texts.iter().flat_map(|text| text.split_inclusive(". ")).collect();
    let (mut front, mut tokens) = (String::new(), 0);
    for sentence in sentences.iter().cycle() {
        tokens += tokenizer.encode(sentence)?.len();
        if tokens > arguments.behind {
            break;
        }
        front += sentence;
    }
    for kind in kinds.iter_mut().filter(|kind| kind.has_answers()) {
        kind.texts.iter_mut().for_each(|text| text.insert_str(first_question(text), &front));
    }
    Ok(())
}

/// A model with the scores it has so far.
struct Measured {
    engine: Engine,
    scores: Scores,
}

fn open(path: &Path, activations: Activations, arguments: &Arguments) -> anyhow::Result<Measured> {
    open_with(path, activations, KvFormat::F32, arguments)
}

fn open_with(path: &Path, activations: Activations, kv: KvFormat, arguments: &Arguments) -> anyhow::Result<Measured> {
    let source = if path == Path::new("embedded") { ModelSource::embedded()? } else { ModelSource::open(path)? };
    let model = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let format = format_of(&source);
    let (device, experts) = (arguments.device, ExpertBudget::All);
    let options = EngineOptions { device, experts, activations, kv, ..EngineOptions::default() };
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
    for kind in kinds {
        let (mut loss, mut answers) = (Loss::default(), Answers::default());
        for text in kind.first(arguments.documents.unwrap_or(usize::MAX)) {
            let ids = tokenizer.encode(text)?;
            let expected = all_logits(reference, &tokenizer, text)?;
            let found = all_logits(other, &tokenizer, text)?;
            let rows = expected.chunks_exact(vocab).zip(found.chunks_exact(vocab));
            for (at, (expected, found)) in rows.enumerate() {
                let (p, q) = (score::log_probabilities(expected), score::log_probabilities(found));
                distance.divergences.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum());
                distance.same += usize::from(largest(&p) == largest(&q));
                if let Some(&next) = ids.get(at + 1) {
                    loss += Loss { sum: -q[next as usize], tokens: 1 };
                }
            }
            answers += answers_in(&tokenizer, text, &found, vocab)?;
        }
        distance.kinds.push((loss, kind.has_answers().then_some(answers)));
    }
    Ok(distance)
}

/// Answers of a document of whose tokens all logits are known.
fn answers_in(tokenizer: &Tokenizer, text: &str, logits: &[f32], vocab: usize) -> anyhow::Result<Answers> {
    let ids = tokenizer.encode(text)?;
    let most_likely: Vec<usize> = logits.chunks_exact(vocab).map(|row| largest(row).unwrap_or_default()).collect();
    let mut answers = Answers::default();
    for (from, to) in score::answer_places(text) {
        let [from, to] = [from, to].map(|end| tokenizer.encode(&text[..end]).map(|ids| ids.len()));
        let (from, to) = (from?, to?);
        answers.asked += 1;
        answers.right += usize::from((from..to).all(|at| most_likely[at - 1] == ids[at] as usize));
    }
    Ok(answers)
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

fn largest<T: PartialOrd>(values: &[T]) -> Option<usize> {
    (0..values.len()).reduce(|best, next| if values[next] > values[best] { next } else { best })
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

fn print_rows(rows: &Rows, scores: &Scores, kinds: &[Kind], has_reference: bool) {
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
    let Some(distance) = &scores.distance else { return };
    let from = if has_reference { "the reference" } else { "f32" };
    print("all", 1e6 * distance.per_token(), &format!("nats/million tokens from {from}"));
    print("all", distance.same_percent(), &format!("% same next token as {from}"));
    if has_reference {
        print("all", 1e3 * distance.of_99(), "thousandths of nats from the reference that 99 % of tokens are below");
        print("all", answers.right as f64, &format!("right of {}", answers.asked));
    }
}

/// Rows for each model: loss, right answers of those asked, and the distance of int8 from f32.
fn print_table(all: &[Scores], kinds: &[Kind]) {
    let cell = |(loss, answers): &(Loss, Option<Answers>)| match answers {
        Some(answers) => format!("{:.4} {}/{}", loss.per_token(), answers.right, answers.asked),
        None => format!("{:.4}", loss.per_token()),
    };
    let names = kinds.iter().map(|kind| kind.name.as_str()).chain(["all"]);
    let names = names.collect::<Vec<_>>().join(" | ");
    eprintln!("\n| model | experts | {names} | from the reference | same next token |");
    eprintln!("| --- | --- |{}", " ---: |".repeat(kinds.len() + 3));
    for scores in all {
        let (loss, answers) = scores.total();
        let cells: Vec<String> = scores.kinds.iter().chain([&(loss, Some(answers))]).map(cell).collect();
        let distance = match &scores.distance {
            Some(distance) => format!("{:.6} | {:.2} %", distance.per_token(), distance.same_percent()),
            None => " | ".to_owned(),
        };
        let format = scores.format_with_activations();
        eprintln!("| {} | {format} | {} | {distance} |", scores.model, cells.join(" | "));
    }
}
