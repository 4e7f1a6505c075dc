//! From text to sequences of tokens.

use std::fs;
use std::path::{Path, PathBuf};

use flashflood_formats::split_mix;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CalibrateError, built_in};
use crate::file_error::FileError;
use crate::text::{ChatTemplate, Content, Message, Tokenizer};

/// Most tokens of a sequence: what comes behind begins another one.
const LONGEST: usize = 2048;
/// Fewest tokens of a sequence: a router has nothing to go by in fewer.
const SHORTEST: usize = 4;
/// Most bytes that are encoded at once.
const PIECE: usize = 32 << 10;

/// A document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document {
    /// As it stands, special tokens as such.
    Plain(String),
    /// What the model's template makes of it.
    Chat {
        /// The turns.
        messages: Vec<Message>,
        /// What may be called.
        tools: Option<Value>,
    },
}

/// What a calibration's text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKinds {
    /// What the user gave and, in at least a quarter of the tokens, what is built in.
    Both,
    /// What the user gave.
    Own,
}

/// The documents that a user gave.
#[derive(Clone, Debug, Default)]
pub struct CalibrationText {
    documents: Vec<Document>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text { text: String },
    Chat { messages: Vec<Message>, tools: Option<Value> },
}

impl CalibrationText {
    /// Reads files, and all files below folders. Of `.jsonl` files each line is a document, an object with `text`, or with
    /// `messages` and `tools` as in a chat request; every other file is one.
    ///
    /// # Errors
    /// What cannot be read, is not UTF-8, or is no such line.
    pub fn read(paths: &[PathBuf]) -> Result<CalibrationText, FileError> {
        let mut text = CalibrationText::default();
        paths.iter().try_for_each(|path| text.add(path))?;
        Ok(text)
    }

    fn add(&mut self, path: &Path) -> Result<(), FileError> {
        if path.is_dir() {
            let entries = fs::read_dir(path).map_err(FileError::io("read", path))?;
            let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            entries.sort();
            return entries.iter().try_for_each(|path| self.add(path));
        }
        let text = fs::read_to_string(path).map_err(FileError::io("read", path))?;
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            self.documents.push(Document::Plain(text));
            return Ok(());
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let expected = "expected an object with `text` or with `messages`";
            let line = serde_json::from_str(line).map_err(FileError::syntax(path, expected));
            self.documents.push(match line.map_err(|error| error.at(format!("line {}", number + 1)))? {
                Line::Text { text } => Document::Plain(text),
                Line::Chat { messages, tools } => Document::Chat { messages, tools },
            });
        }
        Ok(())
    }

    /// About `tokens` tokens, in sequences: documents in an order that hangs on nothing but how many there are, so that a part
    /// of them is of all kinds.
    ///
    /// # Errors
    /// Text that the tokenizer refuses, and less of it than one sequence.
    pub fn sequences(
        &self,
        kinds: TextKinds,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        tokens: usize,
    ) -> Result<Vec<Vec<u32>>, CalibrateError> {
        let mut sequences = Sequences { tokenizer, template, all: Vec::new(), tokens: 0 };
        let most = if kinds == TextKinds::Own { tokens } else { tokens / 4 * 3 };
        sequences.take(shuffled(&self.documents), most)?;
        if kinds == TextKinds::Both {
            sequences.take(shuffled(&built_in::written()), tokens)?;
            sequences.make_up(tokens)?;
        }
        match sequences.tokens {
            0 => Err(CalibrateError::NoText { expected: SHORTEST, found: 0 }),
            _ => Ok(sequences.all),
        }
    }
}

/// The documents as cards that were shuffled, always the same way.
fn shuffled(documents: &[Document]) -> Vec<&Document> {
    let mut all: Vec<&Document> = documents.iter().collect();
    let mut state = 1;
    for last in (1..all.len()).rev() {
        all.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
    }
    all
}

struct Sequences<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    all: Vec<Vec<u32>>,
    tokens: usize,
}

impl Sequences<'_> {
    fn take(&mut self, documents: Vec<&Document>, most: usize) -> Result<(), CalibrateError> {
        documents.into_iter().try_for_each(|document| self.add(document, most))
    }

    /// Adds documents that are made up until there is no room; how many.
    fn make_up(&mut self, most: usize) -> Result<u64, CalibrateError> {
        let mut n = 0;
        while !self.is_full(most) && n < most as u64 {
            self.add(&built_in::made_up(n), most)?;
            n += 1;
        }
        Ok(n)
    }

    /// No sequence goes into what is left: of every document it would be cut so short that it is dropped.
    fn is_full(&self, most: usize) -> bool {
        most.saturating_sub(self.tokens) < SHORTEST
    }

    /// Adds a document, as far as there is room.
    fn add(&mut self, document: &Document, most: usize) -> Result<(), CalibrateError> {
        if self.is_full(most) {
            return Ok(());
        }
        let text = self.rendered(document);
        let mut ids = Vec::new();
        for piece in pieces(&text) {
            ids.extend(self.tokenizer.encode(piece)?);
            if self.tokens + ids.len() >= most {
                break;
            }
        }
        ids.truncate(most - self.tokens);
        for sequence in ids.chunks(LONGEST).filter(|sequence| sequence.len() >= SHORTEST) {
            self.tokens += sequence.len();
            self.all.push(sequence.to_vec());
        }
        Ok(())
    }

    fn rendered(&self, document: &Document) -> String {
        let (messages, tools) = match document {
            Document::Plain(text) => return text.clone(),
            Document::Chat { messages, tools } => (messages, tools),
        };
        let render = |template: &ChatTemplate| template.render(messages, tools.as_ref(), false, &Map::new()).ok();
        // a model without a template, or with one that knows no tools, reads it as a script
        self.template.and_then(render).unwrap_or_else(|| {
            let line = |message: &Message| match &message.content {
                Content::Text(text) => format!("{}: {text}\n", message.role),
                other => format!("{}: {}\n", message.role, serde_json::to_string(other).unwrap_or_default()),
            };
            messages.iter().map(line).collect()
        })
    }
}

/// The text in pieces that end with a line, or where a character does.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = rest.floor_char_boundary(PIECE.min(rest.len()));
        let end = match rest.len() <= PIECE {
            true => rest.len(),
            false => rest[..most].rfind('\n').map_or(most, |at| at + 1),
        };
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn files_and_folders_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/story.txt"), "once").unwrap();
        let lines =
            "{\"kind\": \"x\", \"text\": \"one\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n";
        fs::write(folder.path().join("a.jsonl"), lines).unwrap();
        let read = CalibrationText::read(&[folder.path().to_owned()]).unwrap().documents;
        assert_eq!(read.len(), 3);
        assert_eq!([&read[0], &read[2]], ["one", "once"].map(|text| Document::Plain(text.to_owned())).each_ref());
        assert!(matches!(&read[1], Document::Chat { messages, tools: None } if messages.len() == 1));
        fs::write(folder.path().join("a.jsonl"), "{\"text\": \"one\"}\n{\"tekst\": 1}\n").unwrap();
        let error = CalibrationText::read(&[folder.path().join("a.jsonl")]).unwrap_err().to_string();
        assert!(error.contains("a.jsonl: line 2: expected an object with `text`"), "{error}");
    }

    #[test]
    fn documents_are_made_up_while_a_sequence_has_room() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe/tokenizer.json");
        let tokenizer = Tokenizer::from_json(&path, &fs::read_to_string(&path).unwrap()).unwrap();
        for left in 0..6 {
            let most = 100_000;
            let mut sequences =
                Sequences { tokenizer: &tokenizer, template: None, all: Vec::new(), tokens: most - left };
            let made = sequences.make_up(most).unwrap();
            assert_eq!(made, u64::from(left >= SHORTEST), "{left} left");
            assert_eq!(sequences.all.concat().len(), if left < SHORTEST { 0 } else { left });
        }
    }

    #[test]
    fn pieces_are_the_text() {
        let text = format!("{}\n{}", "é".repeat(PIECE), "line\n".repeat(20_000));
        let all: Vec<&str> = pieces(&text).collect();
        assert_eq!(all.concat(), text);
        assert!(all.iter().all(|piece| piece.len() <= PIECE));
        assert!(all[3..all.len() - 1].iter().all(|piece| piece.ends_with('\n')));
    }
}
