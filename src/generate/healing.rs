//! A text that is to go on may end in the middle of a word: `There was a li`. Its last token, ` li`, is none with which the
//! model would write ` little`, and what it has learnt to write behind it is something else. So that token is chosen
//! anew, among those that begin with its text; what they have beyond it begins the answer.

use crate::text::{TokenMask, Tokenizer};

/// The token that is chosen anew.
pub(super) struct Healing {
    prompt: Vec<u32>,
    /// Bytes of the token that was given.
    given: usize,
    mask: TokenMask,
}

impl Healing {
    /// For the token at position `at` of a prompt, which the model then reads without it. `None` where only that token
    /// begins with its text, or where its text is none by itself.
    pub(super) fn new(tokenizer: &Tokenizer, prompt: &[u32], at: usize) -> Option<Self> {
        let (before, after) = (prompt.get(..at)?, prompt.get(at + 1..)?);
        let id = prompt[at];
        let given = tokenizer.token_bytes(id)?;
        let is_text = |id: u32| !tokenizer.is_special(id);
        if before.is_empty() || given.is_empty() || !is_text(id) || std::str::from_utf8(given).is_err() {
            return None;
        }
        let begins =
            |id: &u32| is_text(*id) && tokenizer.token_bytes(*id).is_some_and(|bytes| bytes.starts_with(given));
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(begins).collect();
        (allowed.len() > 1).then(|| Healing {
            prompt: [before, after].concat(),
            given: given.len(),
            mask: TokenMask::of(tokenizer.vocab_size(), &allowed),
        })
    }

    /// What the model reads.
    pub(super) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The tokens that may take the place.
    pub(super) fn mask(&self) -> &TokenMask {
        &self.mask
    }

    /// What the token that was chosen has beyond the one that was given.
    pub(super) fn beyond<'t>(&self, tokenizer: &'t Tokenizer, token: u32) -> &'t [u8] {
        tokenizer.token_bytes(token).and_then(|bytes| bytes.get(self.given..)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::path::Path;

    use super::*;

    #[test]
    fn a_token_is_chosen_anew_among_those_that_go_on_with_its_text() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe/tokenizer.json");
        let tokenizer = Tokenizer::from_json(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let ids = tokenizer.encode("There was a li").unwrap();
        let (last, before) = ids.split_last().unwrap();
        let healing = Healing::new(&tokenizer, &ids, ids.len() - 1).unwrap();
        let little = tokenizer.encode(" little").unwrap()[0];
        assert_eq!(healing.prompt(), before);
        assert!(healing.mask().allows(*last) && healing.mask().allows(little) && !healing.mask().allows(before[0]));
        assert_eq!(healing.beyond(&tokenizer, little), b"ttle");
        assert_eq!(healing.beyond(&tokenizer, *last), b"");
        // in the midst of a prompt, before a gap
        let healing = Healing::new(&tokenizer, &[&ids[..], &[before[0]]].concat(), ids.len() - 1).unwrap();
        assert_eq!(healing.prompt(), [before, &before[..1]].concat());
        // a word that nothing goes on with, a text of one token, a special token, and nothing
        let whole = tokenizer.encode("Once upon a time").unwrap();
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        assert!(Healing::new(&tokenizer, &whole, whole.len() - 1).is_none());
        assert!(Healing::new(&tokenizer, &ids[..1], 0).is_none());
        assert!(Healing::new(&tokenizer, &[ids[0], end], 1).is_none());
        assert!(Healing::new(&tokenizer, &ids, ids.len()).is_none());
    }
}
