//! `flashflood compare`: how far one model's predictions are from another's, token by token.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use flashflood::calibrate::{CalibrationText, TextKinds};
use flashflood::compute::LogitRows;
use flashflood::engine::Engine;
use indicatif::ProgressBar;
use serde::Serialize;

use super::model::{ResourceArgs, open_source};
use super::{Interrupted, interrupted};

/// Most tokens of a sequence: logits of all of them are in memory.
const LONGEST: usize = 512;

/// Compare what two models predict: a pack with the snapshot that it was made of, say
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The reference: a snapshot folder, a GGUF file, a pack, or the name of a repository in the Hugging Face cache
    reference: PathBuf,
    /// What is held against it, with the same tokenizer
    model: PathBuf,
    /// Text that both read: a file, or a folder of files; each line of a .jsonl file is a document, with "text" or with
    /// "messages" (may be repeated) [default: what calibrations are made of]
    #[arg(long, value_name = "FILE|DIR")]
    text: Vec<PathBuf>,
    /// Most tokens of text
    #[arg(long, value_name = "N", default_value_t = 10_000, env = "FLASHFLOOD_COMPARE_TOKENS",
        value_parser = clap::value_parser!(u32).range(4..))]
    tokens: u32,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Comparison {
    tokens: usize,
    /// Kullback-Leibler divergence from the reference, in nats: of a token on average, and what 99 % of them are below.
    divergence: f64,
    divergence_99: f64,
    /// Share of tokens after which both find the same one most likely.
    same_next_token: f64,
    /// Nats a token of the text.
    reference_loss: f64,
    model_loss: f64,
    /// Calls of tools in the text, and those of them that both would write the same way.
    tool_calls: usize,
    same_tool_calls: usize,
}

/// Runs the command.
pub(crate) fn run(args: CompareArgs) -> anyhow::Result<()> {
    let mut options = args.resources.options();
    options.context = options.context.or(Some(LONGEST));
    let open = |path: &Path| -> anyhow::Result<Engine> {
        let source = open_source(path, &args.resources.stripe)?;
        Engine::from_source(source, &options).with_context(|| path.display().to_string())
    };
    let (mut reference, mut model) = (open(&args.reference)?, open(&args.model)?);
    let (tokenizer, vocab) = (reference.tokenizer()?, reference.shape().vocab);
    if tokenizer.vocab_size() != model.tokenizer()?.vocab_size() || vocab != model.shape().vocab {
        bail!(
            "{}: expected the tokenizer of {}, with {vocab} tokens, found one with {} (hint: compare models of one family)",
            args.model.display(),
            args.reference.display(),
            model.shape().vocab
        );
    }
    let kinds = if args.text.is_empty() { TextKinds::Both } else { TextKinds::Own };
    let template = reference.chat_template().ok();
    let text = CalibrationText::read(&args.text)?;
    let sequences = text.sequences(kinds, &tokenizer, template.as_ref(), args.tokens as usize)?;
    let sequences: Vec<&[u32]> = sequences.iter().flat_map(|ids| ids.chunks(LONGEST)).collect();
    let marks = ["<tool_call>", "</tool_call>"].map(|mark| tokenizer.token_to_id(mark));
    let bar = ProgressBar::new(sequences.iter().map(|ids| ids.len() as u64).sum()).with_message("comparing");
    let paths = [&*args.reference, &*args.model];
    let mut found = Found::default();
    for ids in sequences {
        let (expected, predicted) = (all_logits(&mut reference, ids)?, all_logits(&mut model, ids)?);
        found.add(paths, ids, [&expected, &predicted], vocab, marks)?;
        bar.inc(ids.len() as u64);
    }
    bar.finish_and_clear();
    let comparison = found.comparison();
    let mut out = std::io::stdout();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&comparison)?)?,
        false => print(&mut out, &comparison)?,
    }
    Ok(())
}

/// `[tokens, vocab]`
fn all_logits(engine: &mut Engine, ids: &[u32]) -> anyhow::Result<Vec<f32>> {
    let (mut all, mut failed) = (Vec::new(), None);
    engine.session()?.extend(ids, LogitRows::All, |session, _| {
        match session.logits() {
            Ok(logits) => all.extend(logits),
            Err(error) => failed = Some(error),
        }
        failed.is_none() && !interrupted()
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None if interrupted() => Err(Interrupted.into()),
        None => Ok(all),
    }
}

/// What is added up.
#[derive(Default)]
struct Found {
    divergences: Vec<f64>,
    same: usize,
    predicted: usize,
    reference_loss: f64,
    model_loss: f64,
    calls: usize,
    same_calls: usize,
}

impl Found {
    /// A sequence with the logits of both, the reference first; `marks` are the tokens around calls.
    fn add(
        &mut self,
        paths: [&Path; 2],
        ids: &[u32],
        logits: [&[f32]; 2],
        vocab: usize,
        marks: [Option<u32>; 2],
    ) -> anyhow::Result<()> {
        // whether both wrote the call so far the same way, inside of one
        let mut call = None;
        let [expected, found] = logits.map(|logits| logits.chunks_exact(vocab));
        let rows = expected.zip(found);
        for (at, (expected, found)) in rows.enumerate() {
            let (p, q) = (log_probabilities(expected), log_probabilities(found));
            let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            if !divergence.is_finite() {
                return Err(not_finite(paths, at, [expected, found], divergence));
            }
            // rounding may leave it a little below; `max` would take NaN for 0, so it is refused before
            self.divergences.push(divergence.max(0.0));
            let is_same = largest(&p) == largest(&q);
            self.same += usize::from(is_same);
            let is = |mark: Option<u32>| mark == Some(ids[at]);
            if is(marks[1])
                && let Some(same) = call.take()
            {
                self.calls += 1;
                self.same_calls += usize::from(same);
            }
            if is(marks[0]) {
                call = Some(true);
            }
            call = call.map(|same| same && is_same);
            if let Some(&next) = ids.get(at + 1) {
                self.predicted += 1;
                self.reference_loss -= p[next as usize];
                self.model_loss -= q[next as usize];
            }
        }
        Ok(())
    }

    fn comparison(mut self) -> Comparison {
        let tokens = self.divergences.len();
        let [all, predicted] = [tokens, self.predicted].map(|count| count.max(1) as f64);
        self.divergences.sort_by(f64::total_cmp);
        Comparison {
            tokens,
            divergence: self.divergences.iter().sum::<f64>() / all,
            divergence_99: self.divergences.get(tokens * 99 / 100).copied().unwrap_or_default(),
            same_next_token: self.same as f64 / all,
            reference_loss: self.reference_loss / predicted,
            model_loss: self.model_loss / predicted,
            tool_calls: self.calls,
            same_tool_calls: self.same_calls,
        }
    }
}

/// Names the model whose logits behind token `at` of a sequence cannot be compared.
fn not_finite(paths: [&Path; 2], at: usize, rows: [&[f32]; 2], divergence: f64) -> anyhow::Error {
    let odd = paths.into_iter().zip(rows).find_map(|(path, row)| {
        let id = row.iter().position(|logit| !logit.is_finite())?;
        Some((path, format!("{} for token {id}", row[id])))
    });
    let (path, found) = odd.unwrap_or_else(|| (paths[1], format!("a divergence of {divergence}")));
    anyhow!("{}: expected finite logits at position {at} of a sequence, found {found}", path.display())
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - top - sum.ln()).collect()
}

fn largest(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]))
}

fn print(out: &mut impl Write, found: &Comparison) -> std::io::Result<()> {
    let Comparison { tokens, divergence, divergence_99, reference_loss, model_loss, .. } = found;
    writeln!(out, "{:<22}{tokens}", "tokens")?;
    writeln!(out, "{:<22}{divergence:.6} nats a token, 99 % below {divergence_99:.6}", "divergence")?;
    writeln!(out, "{:<22}{:.2} %", "same next token", 100.0 * found.same_next_token)?;
    writeln!(out, "{:<22}{model_loss:.4} nats a token, of the reference {reference_loss:.4}", "loss")?;
    if found.tool_calls > 0 {
        writeln!(out, "{:<22}{} of {}", "same calls of tools", found.same_tool_calls, found.tool_calls)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const PATHS: [&str; 2] = ["reference", "model"];

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let (good, bad, hole) = ([1.0, 2.0], [1.0, f32::NAN], [f32::NEG_INFINITY, 0.0]);
        let add = |expected: &[f32], found: &[f32]| {
            let mut all = Found::default();
            all.add(PATHS.map(Path::new), &[0, 1], [expected, found], 2, [None; 2]).map_err(|e| e.to_string())
        };
        let pair = |first: [f32; 2], second: [f32; 2]| [first, second].concat();
        let fine = pair(good, good);
        assert_eq!(add(&fine, &fine), Ok(()));
        let expected = |path: &str, at: usize, found: &str| {
            Err(format!("{path}: expected finite logits at position {at} of a sequence, found {found}"))
        };
        assert_eq!(add(&fine, &pair(good, bad)), expected("model", 1, "NaN for token 1"));
        assert_eq!(add(&pair(bad, good), &fine), expected("reference", 0, "NaN for token 1"));
        assert_eq!(add(&fine, &pair(hole, good)), expected("model", 0, "-inf for token 0"));
    }

    #[test]
    fn what_differs_is_counted() {
        let mut found = Found::default();
        // a call of two tokens (1 .. 2) that both write, and one that they do not
        let ids = [0, 1, 0, 2, 1, 0, 2];
        let row = |id: usize| [0, 1, 2].map(|i| if i == id { 2.0f32 } else { 0.0 });
        let expected: Vec<f32> = [1, 0, 2, 1, 0, 2, 0].into_iter().flat_map(row).collect();
        let other: Vec<f32> = [1, 0, 2, 1, 0, 1, 0].into_iter().flat_map(row).collect();
        found.add(PATHS.map(Path::new), &ids, [&expected, &other], 3, [Some(1), Some(2)]).unwrap();
        let comparison = found.comparison();
        assert_eq!((comparison.tokens, comparison.tool_calls, comparison.same_tool_calls), (7, 2, 1));
        assert!((comparison.same_next_token - 6.0 / 7.0).abs() < 1e-12);
        let (p, q) = (log_probabilities(&row(2)), log_probabilities(&row(1)));
        let divergence = p[2].exp() * (p[2] - q[2]) + p[1].exp() * (p[1] - q[1]);
        assert!((comparison.divergence - divergence / 7.0).abs() < 1e-12 && divergence > 0.5);
        assert!((comparison.divergence_99 - divergence).abs() < 1e-12);
        assert!(comparison.model_loss > comparison.reference_loss);
    }
}
