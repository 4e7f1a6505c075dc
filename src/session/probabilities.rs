//! How likely tokens were: of logits no more is kept than a caller asked for.

use rayon::prelude::*;

/// How likely tokens were, before penalties, masks and the temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbabilities {
    /// Natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The most likely tokens with theirs, most likely first.
    pub top: Vec<(u32, f32)>,
}

impl LogProbabilities {
    /// Of the logits of all rows, of which the first `vocab` are tokens: the others are padding, which a model may find
    /// likely all the same.
    pub(super) fn of(logits: &[f32], vocab: usize, chosen: u32, top: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
        let of = |logit: f32| (f64::from(logit - highest) - total.ln()) as f32;
        let by_likelihood = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let mut all: Vec<(u32, f32)> = match top {
            0 => Vec::new(),
            _ => (0..).zip(logits.iter().copied()).take(vocab).collect(),
        };
        if top < all.len() {
            all.select_nth_unstable_by(top, by_likelihood);
            all.truncate(top);
        }
        all.sort_unstable_by(by_likelihood);
        let chosen = logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |logit| of(*logit));
        LogProbabilities { chosen, top: all.into_iter().map(|(id, logit)| (id, of(logit))).collect() }
    }
}

/// The probabilities of a prompt's tokens, as its steps find them.
#[derive(Debug)]
pub(crate) struct PromptScores {
    /// Most likely tokens that are kept at each position.
    top: usize,
    /// Tokens there are.
    vocab: usize,
    /// Of every token that was run, of the one that follows it; the last token of a prompt has none.
    found: Vec<LogProbabilities>,
}

impl PromptScores {
    pub(crate) fn new(top: usize, vocab: usize) -> Self {
        PromptScores { top, vocab, found: Vec::new() }
    }

    /// What was found: of every token of the prompt but the first.
    pub(crate) fn found(self) -> Vec<LogProbabilities> {
        self.found
    }

    /// Takes in the logits of a step, `stride` for each of its tokens; `next` are the tokens that follow them.
    pub(super) fn add(&mut self, logits: &[f32], stride: usize, next: &[u32]) {
        let (top, vocab) = (self.top, self.vocab);
        let rows = logits.par_chunks_exact(stride).zip(next);
        self.found.par_extend(rows.map(|(row, token)| LogProbabilities::of(row, vocab, *token, top)));
    }
}
