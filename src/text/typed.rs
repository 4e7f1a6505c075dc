//! Text that people and tools typed, inside a prompt that a template rendered. A special token that somebody spells out in
//! a message is text: it opens no turn of the system. So its spelling is marked before the template sees it, and cut at
//! the mark when the prompt is encoded; only what the template writes itself becomes special tokens.

use aho_corasick::AhoCorasick;
use serde_json::Value;

use super::{Content, Message, TextError, Tokenizer};

/// Stands within the spelling of a special token. A code point that Unicode promises never to make a character.
const MARK: char = '\u{FDD0}';

/// Marks the spellings of special tokens.
pub(crate) struct Typed {
    /// `None` where there are no special tokens.
    spellings: Option<AhoCorasick>,
}

impl Typed {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let special = ids.filter(|id| tokenizer.is_special(*id)).filter_map(|id| tokenizer.token_bytes(id));
        let spellings: Vec<&[u8]> = special.filter(|bytes| bytes.len() > 1).collect();
        // an automaton over the few spellings of a tokenizer is never too large
        let spellings = if spellings.is_empty() { None } else { AhoCorasick::new(spellings).ok() };
        Typed { spellings }
    }

    /// The text with every spelling marked; a mark that somebody typed is lost.
    pub(crate) fn text(&self, text: &str) -> String {
        let clean = if text.contains(MARK) { text.replace(MARK, "\u{FFFD}") } else { text.to_owned() };
        let Some(spellings) = &self.spellings else { return clean };
        let mut cuts: Vec<usize> = Vec::new();
        for found in spellings.find_overlapping_iter(&clean) {
            let first = clean[found.start()..].chars().next().map_or(1, char::len_utf8);
            cuts.push(found.start() + first);
        }
        if cuts.is_empty() {
            return clean;
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut marked = String::with_capacity(clean.len() + 4 * cuts.len());
        let mut from = 0;
        for cut in cuts {
            marked.push_str(&clean[from..cut]);
            marked.push(MARK);
            from = cut;
        }
        marked.push_str(&clean[from..]);
        marked
    }

    /// The same for every text in a value.
    pub(crate) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(keys) => keys.values_mut().for_each(|value| self.value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The same for a message.
    pub(crate) fn message(&self, message: &mut Message) {
        match &mut message.content {
            Content::None => {}
            Content::Text(text) => *text = self.text(text),
            Content::Parts(parts) => parts.iter_mut().for_each(|part| self.value(part)),
        }
        if let Some(thoughts) = &mut message.reasoning_content {
            *thoughts = self.text(thoughts);
        }
        message.tool_calls.iter_mut().flatten().for_each(|call| self.value(call));
        message.other.values_mut().for_each(|value| self.value(value));
    }
}

/// A rendered prompt as people read it.
pub(crate) fn without_marks(rendered: &str) -> String {
    rendered.replace(MARK, "")
}

impl Tokenizer {
    /// As [`encode`](Tokenizer::encode), of a prompt whose typed texts are marked.
    pub(crate) fn encode_marked(&self, rendered: &str) -> Result<Vec<u32>, TextError> {
        let mut tokens = Vec::new();
        for piece in rendered.split(MARK) {
            tokens.extend(self.encode(piece)?);
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::path::Path;

    use super::*;
    use crate::model::ModelSource;

    #[test]
    fn a_typed_token_is_text() {
        let file = ModelSource::embedded().unwrap().text_files.tokenizer.unwrap();
        let tokenizer = Tokenizer::from_json(Path::new("tokenizer"), &file).unwrap();
        let typed = Typed::new(&tokenizer);
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        for text in ["a<|im_end|>b", "<|im_end|>", "<|im_end|><|im_end|>", "<<|im_start|>x<|im_end|>"] {
            let marked = typed.text(text);
            let tokens = tokenizer.encode_marked(&marked).unwrap();
            assert!(!tokens.iter().any(|id| tokenizer.is_special(*id)), "{text}: {tokens:?}");
            assert_eq!((tokenizer.decode(&tokens, false), without_marks(&marked)), (text.into(), text.into()));
        }
        assert_eq!(typed.text("plain é"), "plain é");
        assert!(tokenizer.encode_marked("x<|im_end|>").unwrap().contains(&end));
        // nobody can type a mark
        assert_eq!(typed.text("<\u{FDD0}|im_end|>"), "<\u{FFFD}|im_end|>");
        let mut value = serde_json::json!({"a": ["<|im_end|>", 1]});
        typed.value(&mut value);
        assert_eq!(value["a"][0], "<\u{FDD0}|im_end|>");
    }
}
