//! JSON as models write it: with Python's literals and quotes, line ends and quotes inside strings, braces and commas too few
//! or too many. What is read is written again as JSON at once, so that arguments can be told while they come.

use std::collections::HashSet;

use serde_json::Number;

use super::ahead::{Ahead, END_CALL, END_FUNCTION, Seen};

/// Deepest nesting; what lies deeper ends the text.
const DEEPEST: usize = 100;

/// Reads one object or array.
#[derive(Clone, Debug)]
pub(super) struct LenientJson {
    /// What was read, as serde_json writes it.
    pub(super) written: String,
    levels: Vec<Level>,
    at: At,
    /// The level inside which a key came again: its value is left out. The first counts, because it may be told already.
    muted: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Level {
    is_object: bool,
    keys: HashSet<String>,
    /// Members written.
    count: usize,
}

#[derive(Clone, Debug)]
enum At {
    /// A member, or the end of the object or array.
    Member,
    Colon,
    Value,
    Key {
        quote: char,
        key: String,
    },
    Text {
        quote: char,
    },
    End,
}

/// How far a step came.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// So many bytes are read.
    Read(usize),
    /// It depends on what comes next.
    More,
    /// All levels are closed, after so many bytes.
    Closed(usize),
    /// What comes next does not belong to it: the levels that were open are closed now.
    Broken,
}

impl LenientJson {
    /// Before the first character.
    pub(super) fn new() -> Self {
        LenientJson { written: String::new(), levels: Vec::new(), at: At::Value, muted: None }
    }

    /// Among the members of an object.
    pub(super) fn within_object() -> Self {
        let level = Level { is_object: true, ..Level::default() };
        LenientJson { levels: vec![level], at: At::Member, ..LenientJson::new() }
    }

    /// Reads all of a text: its JSON, the bytes it took, and whether it was closed by itself.
    pub(super) fn read(text: Ahead<'_>) -> Seen<(String, usize, bool)> {
        let mut reader = LenientJson::new();
        let mut at = 0;
        loop {
            match reader.step(text.from(at)) {
                Step::Read(bytes) => at += bytes,
                Step::More => return Seen::Unknown,
                Step::Closed(bytes) => return Seen::Yes((reader.written, at + bytes, true)),
                Step::Broken => return Seen::Yes((reader.written, at, false)),
            }
        }
    }

    pub(super) fn step(&mut self, ahead: Ahead<'_>) -> Step {
        match &self.at {
            At::End => return Step::Closed(0),
            At::Text { .. } | At::Key { .. } => return self.text(ahead),
            At::Member | At::Colon | At::Value => {}
        }
        let next = ahead.behind_blanks();
        let blanks = ahead.offset(next);
        let Some(first) = next.text.chars().next() else {
            return if ahead.is_whole { self.break_off() } else { Step::More };
        };
        if first == '<' {
            match next.tag(END_CALL).or(|| next.tag(END_FUNCTION)) {
                Seen::Yes(_) => return self.break_off(),
                Seen::Unknown => return Step::More,
                Seen::No => {}
            }
        }
        match self.at {
            At::Colon => {
                self.at = At::Value;
                Step::Read(blanks + usize::from(first == ':'))
            }
            At::Member => self.member(next, first, blanks),
            _ => self.value(next, first, blanks),
        }
    }

    fn member(&mut self, next: Ahead<'_>, first: char, blanks: usize) -> Step {
        let is_object = self.levels.last().is_some_and(|level| level.is_object);
        match first {
            ',' => return Step::Read(blanks + 1),
            '}' | ']' => {
                self.close_level();
                return self.taken(blanks + 1);
            }
            _ if !is_object => {
                self.comma();
                self.at = At::Value;
                return Step::Read(blanks);
            }
            '"' | '\'' => {
                self.at = At::Key { quote: first, key: String::new() };
                return Step::Read(blanks + 1);
            }
            _ => {}
        }
        // a key without quotes
        match next.text.find([':', ',', '{', '}', '[', ']', '"', '\n', '<']) {
            Some(end) if end > 0 && next.text[end..].starts_with(':') => {
                self.key(next.text[..end].trim());
                Step::Read(blanks + end)
            }
            None if !next.is_whole && next.text.len() < 128 => Step::More,
            _ => self.break_off(),
        }
    }

    fn value(&mut self, next: Ahead<'_>, first: char, blanks: usize) -> Step {
        match first {
            '{' | '[' if self.levels.len() >= DEEPEST => self.break_off(),
            '{' | '[' => {
                self.write(if first == '{' { "{" } else { "[" });
                self.levels.push(Level { is_object: first == '{', ..Level::default() });
                self.at = At::Member;
                Step::Read(blanks + 1)
            }
            '"' | '\'' => {
                self.write("\"");
                self.at = At::Text { quote: first };
                Step::Read(blanks + 1)
            }
            '}' | ']' | ',' => {
                self.write("null");
                self.end_value();
                self.taken(blanks)
            }
            _ => {
                let skipped = first.len_utf8();
                let end = match next.text[skipped..].find([',', '}', ']', '\n', '<']) {
                    Some(end) => skipped + end,
                    None if next.is_whole => next.text.len(),
                    None => return Step::More,
                };
                self.write(&word(next.text[..end].trim_end()));
                self.end_value();
                self.taken(blanks + end)
            }
        }
    }

    /// Within quotes.
    fn text(&mut self, ahead: Ahead<'_>) -> Step {
        let (At::Text { quote } | At::Key { quote, .. }) = self.at else { return Step::Read(0) };
        let text = ahead.text;
        let Some(first) = text.chars().next() else {
            return if ahead.is_whole { self.break_off() } else { Step::More };
        };
        let plain = text.find([quote, '\\', '<']).unwrap_or(text.len());
        if plain > 0 {
            self.characters(&text[..plain]);
            return Step::Read(plain);
        }
        if first == '\\' {
            return match escape(ahead.from(1)) {
                Seen::Yes((characters, bytes)) => {
                    self.characters(&characters);
                    Step::Read(1 + bytes)
                }
                Seen::No => {
                    self.characters("\\");
                    Step::Read(1)
                }
                Seen::Unknown => Step::More,
            };
        }
        let ends = if first == '<' { ends_answer(ahead) } else { self.ends_text(ahead.from(1)) };
        match ends {
            Seen::Yes(()) if first == '<' => self.break_off(),
            Seen::Yes(()) => {
                match std::mem::replace(&mut self.at, At::Value) {
                    At::Key { key, .. } => self.key(&key),
                    _ => {
                        self.write("\"");
                        self.end_value();
                    }
                }
                self.taken(1)
            }
            Seen::No => {
                self.characters(&text[..1]);
                Step::Read(1)
            }
            Seen::Unknown => Step::More,
        }
    }

    /// Whether a quote ends its text: it does where the punctuation of JSON follows.
    fn ends_text(&self, rest: Ahead<'_>) -> Seen<()> {
        let next = rest.behind_blanks();
        let blanks = &rest.text[..rest.offset(next)];
        match next.text.chars().next() {
            _ if matches!(self.at, At::Key { .. }) => Seen::Yes(()),
            None if rest.is_whole => Seen::Yes(()),
            None => Seen::Unknown,
            Some(',' | '}' | ']' | ':') => Seen::Yes(()),
            // a comma is missing at the end of a line
            Some('"' | '\'') => Seen::of(blanks.contains('\n')),
            Some('<') => next.tag(END_CALL).or(|| next.tag(END_FUNCTION)).map(|_| ()),
            Some(_) => Seen::No,
        }
    }

    fn characters(&mut self, piece: &str) {
        match &mut self.at {
            At::Key { key, .. } => key.push_str(piece),
            _ => self.write(&escaped(piece)),
        }
    }

    /// A key is complete.
    fn key(&mut self, key: &str) {
        let depth = self.levels.len();
        let is_new = self.levels.last_mut().is_some_and(|level| level.keys.insert(key.to_owned()));
        if !is_new && self.muted.is_none() {
            self.muted = Some(depth);
        }
        self.comma();
        self.write(&format!("\"{}\":", escaped(key)));
        self.at = At::Colon;
    }

    /// Before a member.
    fn comma(&mut self) {
        let is_first = self.levels.last().is_none_or(|level| level.count == 0);
        if !is_first {
            self.write(",");
        }
        if let Some(level) = self.levels.last_mut().filter(|_| self.muted.is_none()) {
            level.count += 1;
        }
    }

    fn close_level(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.write(if level.is_object { "}" } else { "]" });
        }
        self.end_value();
    }

    fn end_value(&mut self) {
        if self.muted == Some(self.levels.len()) {
            self.muted = None;
        }
        self.at = if self.levels.is_empty() { At::End } else { At::Member };
    }

    fn taken(&self, bytes: usize) -> Step {
        if matches!(self.at, At::End) { Step::Closed(bytes) } else { Step::Read(bytes) }
    }

    /// Closes what is open.
    pub(super) fn break_off(&mut self) -> Step {
        match self.at {
            At::Text { .. } => self.write("\""),
            At::Colon | At::Value => self.write("null"),
            At::Key { .. } | At::Member | At::End => {}
        }
        self.end_value();
        while !self.levels.is_empty() {
            self.close_level();
        }
        Step::Broken
    }

    fn write(&mut self, json: &str) {
        if self.muted.is_none() {
            self.written.push_str(json);
        }
    }
}

/// The characters of a piece of text as they stand between the quotes of a JSON string.
pub(super) fn escaped(piece: &str) -> String {
    let quoted = serde_json::Value::from(piece).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// What stands without quotes: a literal of JSON or Python, a number, or else a text.
fn word(word: &str) -> String {
    match word {
        "true" | "True" => "true".to_owned(),
        "false" | "False" => "false".to_owned(),
        "null" | "None" => "null".to_owned(),
        _ => number(word).unwrap_or_else(|| format!("\"{}\"", escaped(word))),
    }
}

/// A number in the form that it has again after it was read and written.
fn number(word: &str) -> Option<String> {
    let mut written = serde_json::from_str::<Number>(word).ok()?.to_string();
    // serde_json may read the last digit of a fraction otherwise
    for _ in 0..4 {
        written = serde_json::from_str::<Number>(&written).ok()?.to_string();
    }
    Some(written)
}

/// What stands behind a backslash: the characters it means and the bytes it takes. JSON does not know all that are written
/// (`\d`): there the backslash is one.
fn escape(ahead: Ahead<'_>) -> Seen<(String, usize)> {
    let Some(first) = ahead.text.chars().next() else { return ahead.undecided() };
    let one = |character: char| Seen::Yes((character.to_string(), first.len_utf8()));
    match first {
        'n' => one('\n'),
        't' => one('\t'),
        'r' => one('\r'),
        'b' => one('\u{8}'),
        'f' => one('\u{c}'),
        '"' | '\'' | '\\' | '/' => one(first),
        'u' => match unit(ahead.from(1)) {
            Seen::Yes(high) if (0xD800..0xDC00).contains(&high) => {
                let rest = ahead.from(5);
                let low = match rest.mark("\\u") {
                    Seen::Yes(_) => unit(rest.from(2)),
                    Seen::No => Seen::No,
                    Seen::Unknown => Seen::Unknown,
                };
                match low {
                    Seen::Yes(low) if (0xDC00..0xE000).contains(&low) => {
                        let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                        Seen::Yes((char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).to_string(), 11))
                    }
                    Seen::Unknown => Seen::Unknown,
                    _ => Seen::Yes((char::REPLACEMENT_CHARACTER.to_string(), 5)),
                }
            }
            unit => unit.map(|code| (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).to_string(), 5)),
        },
        _ => Seen::No,
    }
}

/// Four hexadecimal digits.
fn unit(ahead: Ahead<'_>) -> Seen<u32> {
    let digits = ahead.text.bytes().take(4).take_while(u8::is_ascii_hexdigit).count();
    match u32::from_str_radix(&ahead.text[..digits], 16) {
        Ok(unit) if digits == 4 => Seen::Yes(unit),
        _ if digits == ahead.text.len() => ahead.undecided(),
        _ => Seen::No,
    }
}

/// Whether the end of the call is here and nothing follows: then a text lacks its quote.
fn ends_answer(ahead: Ahead<'_>) -> Seen<()> {
    match ahead.tag(END_CALL) {
        Seen::Yes(bytes) => ahead.from(bytes).behind_blanks().is_end(),
        other => other.map(|_| ()),
    }
}
