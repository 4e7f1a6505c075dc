//! What quantisation costs: loss per token and right answers by kind of document, of several models side by side.
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
use flashflood::engine::{Device, Engine, EngineOptions, ExpertBudget};
use flashflood::model::ModelSource;
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
    kinds: Vec<(Loss, Option<Answers>)>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows = Rows::new("quality");
    let kinds = score::read_kinds(&arguments.eval)?;
    let mut all = Vec::new();
    for model in &arguments.models {
        let scores = measure(model, &kinds, &arguments).with_context(|| model.display().to_string())?;
        print_rows(&rows, &scores, &kinds);
        all.push(scores);
    }
    print_table(&all, &kinds);
    Ok(())
}

fn measure(path: &Path, kinds: &[Kind], arguments: &Arguments) -> anyhow::Result<Scores> {
    let source = if path == Path::new("embedded") { ModelSource::embedded()? } else { ModelSource::open(path)? };
    let model = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let format = format_of(&source);
    let options = EngineOptions { device: arguments.device, experts: ExpertBudget::All, ..EngineOptions::default() };
    let mut engine = Engine::from_source(source, &options)?;
    let tokenizer = engine.tokenizer()?;
    let mut scores = Scores { model, format, kinds: Vec::new() };
    for kind in kinds {
        eprintln!("{}: {}", scores.model, kind.name);
        let loss = score::loss(&mut engine, &tokenizer, kind.first(arguments.documents.unwrap_or(usize::MAX)))?;
        let asked = kind.first(arguments.documents.unwrap_or(20));
        let answers = match kind.has_answers() {
            true => Some(score::answers(&mut engine, &tokenizer, asked)?),
            false => None,
        };
        scores.kinds.push((loss, answers));
    }
    Ok(scores)
}

impl Scores {
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
        let Scores { model, format, .. } = scores;
        rows.print(&Row { model, format, context: kind, cache: "", value, unit });
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
}

/// A row for each model: loss, and right answers of those asked.
fn print_table(all: &[Scores], kinds: &[Kind]) {
    let cell = |(loss, answers): &(Loss, Option<Answers>)| match answers {
        Some(answers) => format!("{:.4} {}/{}", loss.per_token(), answers.right, answers.asked),
        None => format!("{:.4}", loss.per_token()),
    };
    let names = kinds.iter().map(|kind| kind.name.as_str()).chain(["all"]);
    eprintln!("\n| model | experts | {} |", names.collect::<Vec<_>>().join(" | "));
    eprintln!("| --- | --- |{}", " ---: |".repeat(kinds.len() + 1));
    for scores in all {
        let (loss, answers) = scores.total();
        let cells: Vec<String> = scores.kinds.iter().chain([&(loss, Some(answers))]).map(cell).collect();
        eprintln!("| {} | {} | {} |", scores.model, scores.format, cells.join(" | "));
    }
}
