//! What a model scores on documents of known kinds: loss per token, and answers that are right to the letter.
//!
//! The one place for it, counted as `golden/small-moe/train.py` counts: the tests here hold the scores against those
//! of the training, and `benches/quality.rs` prints them for several models. The bench includes this file by path: both
//! are crates of their own, and the library has no use for it.

use std::path::Path;

use anyhow::{Context, bail};
use flashflood::compute::LogitRows;
use flashflood::engine::Engine;
use flashflood::text::{Sampler, SamplerOptions, Tokenizer};

/// Most tokens of an answer.
const LONGEST_ANSWER: usize = 80;
/// Comes before every answer.
const ANSWER_FOLLOWS: &str = "</think>\n\n";
/// Comes after every answer.
pub(crate) const END_OF_TURN: &str = "<|im_end|>";

/// The documents of one kind, in the order of the file.
pub(crate) struct Kind {
    /// Such as `sum`.
    pub(crate) name: String,
    /// Chats with the template applied, or stories.
    pub(crate) texts: Vec<String>,
}

impl Kind {
    /// Whether the documents hold questions with one right answer.
    pub(crate) fn has_answers(&self) -> bool {
        self.name != "story"
    }

    /// The first `most` documents.
    pub(crate) fn first(&self, most: usize) -> &[String] {
        &self.texts[..most.min(self.texts.len())]
    }
}

/// Reads lines of `{"kind": …, "text": …}`; kinds come in the order in which they occur.
pub(crate) fn read_kinds(path: &Path) -> anyhow::Result<Vec<Kind>> {
    #[derive(serde::Deserialize)]
    struct Line {
        kind: String,
        text: String,
    }
    let lines = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut kinds: Vec<Kind> = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let at = || format!("{}, line {}", path.display(), number + 1);
        let Line { kind, text } = serde_json::from_str(line).with_context(at)?;
        match kinds.iter_mut().find(|known| known.name == kind) {
            Some(known) => known.texts.push(text),
            None => kinds.push(Kind { name: kind, texts: vec![text] }),
        }
    }
    if kinds.is_empty() {
        bail!("{}: expected documents, one a line; found none", path.display());
    }
    Ok(kinds)
}

/// The log probability that `logits` give to token `id`.
pub(crate) fn log_probability(logits: &[f32], id: u32) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    f64::from(logits[id as usize]) - top - sum.ln()
}

/// The log probabilities of all ids.
pub(crate) fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - top - sum.ln()).collect()
}

/// Loss of documents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    /// Of all tokens, in nats.
    pub(crate) sum: f64,
    /// All tokens but the first of each document.
    pub(crate) tokens: usize,
}

impl Loss {
    /// Nats per token.
    pub(crate) fn per_token(self) -> f64 {
        self.sum / self.tokens as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Loss) {
        self.sum += other.sum;
        self.tokens += other.tokens;
    }
}

/// The loss of `texts`.
pub(crate) fn loss(engine: &mut Engine, tokenizer: &Tokenizer, texts: &[String]) -> anyhow::Result<Loss> {
    let vocab = engine.shape().vocab;
    let mut loss = Loss::default();
    for text in texts {
        let ids = tokenizer.encode(text)?;
        let mut next = ids.iter().skip(1);
        let mut failed = None;
        engine.session()?.extend(&ids, LogitRows::All, |session, _| {
            match session.logits() {
                // the last row predicts what is not there
                Ok(logits) => {
                    let rows = logits.chunks_exact(vocab);
                    loss.sum -= rows.map_while(|row| next.next().map(|id| log_probability(row, *id))).sum::<f64>();
                }
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        loss.tokens += ids.len().saturating_sub(1);
    }
    Ok(loss)
}

/// Answers under greedy decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Right to the letter.
    pub(crate) right: usize,
    /// All.
    pub(crate) asked: usize,
}

impl Answers {
    /// Share of right ones, in percent.
    pub(crate) fn percent(self) -> f64 {
        100.0 * self.right as f64 / self.asked as f64
    }
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Answers) {
        self.right += other.right;
        self.asked += other.asked;
    }
}

/// Where each answer in a document lies, with the token behind it: bytes from, and to.
pub(crate) fn answer_places(text: &str) -> Vec<(usize, usize)> {
    let starts = text.match_indices(ANSWER_FOLLOWS).map(|(at, mark)| at + mark.len());
    let end = |from: usize| text[from..].find(END_OF_TURN).map(|at| from + at + END_OF_TURN.len());
    starts.filter_map(|from| Some((from, end(from)?))).collect()
}

/// Has every answer in `texts` written again, after the document up to there, and compares.
pub(crate) fn answers(engine: &mut Engine, tokenizer: &Tokenizer, texts: &[String]) -> anyhow::Result<Answers> {
    let stop_ids = engine.generation_config()?.stop_ids(tokenizer);
    let mut greedy = Sampler::new(SamplerOptions::default(), 0)?;
    let mut answers = Answers::default();
    for text in texts {
        let mut session = engine.session()?;
        let mut parts = text.split(ANSWER_FOLLOWS);
        let mut document = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            document.push_str(ANSWER_FOLLOWS);
            let ids = tokenizer.encode(&document)?;
            // a right answer is in the state already; after a wrong one the state is of no use
            if !ids.starts_with(session.tokens()) {
                drop(session);
                session = engine.session()?;
            }
            let done = session.tokens().len();
            session.extend(&ids[done..], LogitRows::Last, |_, _| true)?;
            let mut found = Vec::new();
            while found.len() < LONGEST_ANSWER {
                let id = session.sample(&mut greedy, tokenizer.vocab_size())?;
                if stop_ids.contains(&id) {
                    break;
                }
                found.push(id);
                session.decode(id)?;
            }
            let expected = part.split(END_OF_TURN).next().unwrap_or_default();
            answers.asked += 1;
            answers.right += usize::from(tokenizer.decode(&found, false) == expected);
            document.push_str(part);
        }
    }
    Ok(answers)
}
