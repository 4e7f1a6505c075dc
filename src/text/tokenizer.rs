//! Text to token ids and back, for byte-level BPE tokenizers.
//!
//! Encoding is the `tokenizers` crate's. Decoding is a table of each token's bytes: ids turn into bytes by
//! concatenation, so that a stream of ids can be decoded one by one at constant cost ([`TextStream`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BPE;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::tokenizer_file::{TokenizerFile, char_of_byte};
use super::{TextError, TextStream};

/// Blanks in a row that [`Tokenizer::encode`] accepts. The crate's regex engine gives up on `\s+(?!\S)` after a million
/// steps back (1,100,000 blanks fail, 900,000 do not) and the crate then leaves the rest of the text uncut, which makes
/// other tokens than the model was trained on, without a word.
const LONGEST_BLANK: usize = 900_000;

/// Turns text into token ids and ids into text.
pub struct Tokenizer {
    origin: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Every token's bytes, one after the other, in order of the ids.
    bytes: Vec<u8>,
    /// Where each id's bytes end in `bytes`.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// No token has this id: a gap in the vocabulary.
    Missing,
    Text,
    Special,
}

impl Tokenizer {
    /// Builds a tokenizer from the text of `tokenizer.json`; `origin` is its path, for error messages.
    pub fn from_json(origin: &Path, json: &str) -> Result<Self, TextError> {
        Self::from_json_with_config(origin, json, None)
    }

    /// As [`Tokenizer::from_json`], with the tokens that only `tokenizer_config.json` (path and text) lists in its
    /// `added_tokens_decoder`. Where both files describe a token, `tokenizer.json` is believed.
    pub fn from_json_with_config(origin: &Path, json: &str, config: Option<(&Path, &str)>) -> Result<Self, TextError> {
        let file = TokenizerFile::parse(origin, json, config)?;
        let (bytes, ends, kinds) = byte_table(&file);
        // the crate panics on some files; the checks above know of those we have met, and this catches the rest
        let inner = catch_unwind(AssertUnwindSafe(|| build(file)))
            .unwrap_or_else(|_| Err("the tokenizer cannot be built from this file".into()))
            .map_err(|reason| TextError::Tokenizer { path: origin.to_path_buf(), reason })?;
        Ok(Self { origin: origin.to_path_buf(), inner, bytes, ends, kinds })
    }

    /// The ids of `text`. Added tokens in it are matched as such; nothing is put before or after.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let bad = |reason: String| TextError::Encode { path: self.origin.clone(), bytes: text.len(), reason };
        if let Some((start, length)) = long_blank(text) {
            return Err(bad(format!(
                "at byte {start}, expected at most {LONGEST_BLANK} blanks in a row, found {length}"
            )));
        }
        catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, false)))
            .unwrap_or_else(|_| Err("the tokenizer panicked".into()))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| bad(e.to_string()))
    }

    /// The text of `ids`. With `skip_special`, tokens marked special (`<|im_end|>` and such) are left out; those that
    /// are single ids but part of the text (in Qwen3.5 `<think>`, `<tool_call>`) stay. Bytes that are not UTF-8 and
    /// ids that name no token read U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream(skip_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids one at a time, as they are generated.
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream::new(self, skip_special)
    }

    /// The highest id in use, plus one. Rows of the model's output from here on are padding: leave their logits out.
    pub fn vocab_size(&self) -> usize {
        self.kinds.len()
    }

    /// The id of a token given as it stands in the vocabulary (`<|im_end|>`), if there is one.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token, to be hidden from a reader.
    pub fn is_special(&self, id: u32) -> bool {
        self.kind(id) == TokenKind::Special
    }

    /// The bytes that `id` adds to the text; None where no token has this id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if self.kind(id) == TokenKind::Missing {
            return None;
        }
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.bytes[start as usize..self.ends[id] as usize])
    }

    fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Missing)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("origin", &self.origin)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

/// Start (in bytes) and length (in characters) of the first run of blanks that is too long.
fn long_blank(text: &str) -> Option<(usize, usize)> {
    let mut run = (0, 0);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            run.1 += 1;
        } else if run.1 > LONGEST_BLANK {
            break;
        } else {
            run = (at + c.len_utf8(), 0);
        }
    }
    (run.1 > LONGEST_BLANK).then_some(run)
}

fn build(file: TokenizerFile) -> Result<tokenizers::Tokenizer, String> {
    let model = BPE::builder()
        .vocab_and_merges(file.vocab, file.merges)
        .ignore_merges(file.ignore_merges)
        .build()
        .map_err(|e| format!("model: {e}"))?;
    let normalizer: Option<NormalizerWrapper> =
        file.normalizer.map(serde_json::from_value).transpose().map_err(|e| format!("normalizer: {e}"))?;
    let pre_tokenizer: Option<PreTokenizerWrapper> =
        serde_json::from_value(file.pre_tokenizer).map_err(|e| format!("pre_tokenizer: {e}"))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(normalizer).map_err(|e| format!("normalizer: {e}"))?;
    inner.with_pre_tokenizer(pre_tokenizer);
    // each of them is in the model's vocabulary too, which is where the crate takes its id from
    inner.add_tokens(file.added.into_iter().map(|(_, token)| token)).map_err(|e| format!("added tokens: {e}"))?;
    Ok(inner)
}

fn byte_table(file: &TokenizerFile) -> (Vec<u8>, Vec<u32>, Vec<TokenKind>) {
    let mut byte_of_char = [None; 0x144];
    for byte in 0..=u8::MAX {
        byte_of_char[char_of_byte(byte) as usize] = Some(byte);
    }
    let size = file.vocab.values().max().map_or(0, |&id| id as usize + 1);
    let mut texts: Vec<Option<&str>> = vec![None; size];
    for (token, &id) in &file.vocab {
        texts[id as usize] = Some(token);
    }
    let mut kinds: Vec<TokenKind> =
        texts.iter().map(|text| text.map_or(TokenKind::Missing, |_| TokenKind::Text)).collect();
    let mut is_added = vec![false; size];
    for (id, token) in &file.added {
        is_added[*id as usize] = true;
        if token.special {
            kinds[*id as usize] = TokenKind::Special;
        }
    }
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(size);
    for (text, added) in texts.into_iter().zip(is_added) {
        let text = text.unwrap_or_default();
        // an added token is written as it is read; the others spell bytes
        let spelled: Option<Vec<u8>> = text.chars().map(|c| byte_of_char.get(c as usize).copied().flatten()).collect();
        match spelled {
            Some(spelled) if !added => bytes.extend(spelled),
            _ => bytes.extend(text.as_bytes()),
        }
        // the file that spells these bytes is itself well below 4 GiB
        ends.push(bytes.len() as u32);
    }
    (bytes, ends, kinds)
}
