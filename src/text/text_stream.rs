//! Text from ids as they are generated, never splitting a character.
//!
//! A byte-level token may end in the middle of a UTF-8 character. The bytes of the unfinished character (three at
//! most) wait here for the next token; everything before them is text already, so a token costs what its bytes cost.

use super::Tokenizer;

/// Decodes a sequence of token ids one by one.
///
/// The pieces, put together, are exactly what [`Tokenizer::decode`] makes of all ids.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The beginning of a character whose end has not come yet.
    pending: Vec<u8>,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new() }
    }

    /// Takes the next id and gives the text that is certain now; empty where the id ends inside a character.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        // visible, rather than a hole nobody notices
        self.push_bytes(self.tokenizer.token_bytes(id).unwrap_or("\u{FFFD}".as_bytes()))
    }

    /// As [`push`](Self::push), of a part of a token.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// Ends the text: what is left of an unfinished character, as U+FFFD. The stream can be used again afterwards.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    // borrowed as it is: the bytes up to here are valid
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[length..];
                        }
                        None => break,
                    }
                }
            }
        }
        let consumed = self.pending.len() - rest.len();
        self.pending.drain(..consumed);
        text
    }
}
