//! Calls of tools as models write them, read while they come: XML (`<function=NAME><parameter=KEY>`) and JSON
//! (`{"name", "arguments"}`), with or without `<tool_call>` around them, with closers missing or quoted.
//!
//! What begins is a call for good (see [`mod@opening`]), and its arguments are told in pieces; tolerance goes to its end.

mod ahead;
mod json;
mod opening;
mod tools;
mod xml;

use serde_json::{Map, Value};

use ahead::END_CALL;
pub(crate) use ahead::{Ahead, Seen};
use json::LenientJson;
use opening::Form;
pub(crate) use opening::{Opening, Place, opening};
pub(crate) use tools::Tools;
use xml::XmlCall;

/// A call that began.
#[derive(Clone, Debug)]
pub(crate) struct CallReader {
    name: String,
    /// What was read of it, its marks included.
    source: String,
    /// The text of its arguments, as far as it is certain.
    json: String,
    /// Bytes of it that were told.
    told: usize,
    is_marked: bool,
    /// Written as JSON: braces may be left over.
    is_json: bool,
    /// The arguments, once they are complete.
    arguments: Map<String, Value>,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    Xml(XmlCall),
    Json(LenientJson),
    /// In the object around JSON arguments.
    Around,
    /// Among what such an object holds besides.
    Rest(LenientJson),
    /// Behind the function: marks may follow.
    Behind,
}

/// How far a step came.
#[derive(Debug)]
pub(crate) enum Progress {
    Read(usize),
    /// It depends on what comes next.
    More,
    /// The call ended, so many bytes ahead; another may begin behind them, within the same marks.
    Ended(usize, Option<Opening>),
}

impl CallReader {
    /// A call whose opening, with the text of it, was seen.
    pub(crate) fn new(opening: Opening, source: &str) -> Self {
        let mut call = CallReader {
            name: opening.name,
            source: source.to_owned(),
            json: String::new(),
            told: 0,
            is_marked: opening.is_marked,
            is_json: opening.form != Form::Xml,
            arguments: Map::new(),
            at: At::Behind,
        };
        match opening.form {
            Form::Xml => call.at = At::Xml(XmlCall::default()),
            Form::Json => call.at = At::Json(LenientJson::new()),
            Form::Read(arguments) => {
                call.arguments = arguments;
                call.json = Value::Object(call.arguments.clone()).to_string();
            }
        }
        call
    }

    /// What is new in the text of the arguments.
    pub(crate) fn news(&mut self) -> Option<String> {
        let piece = self.json[self.told..].to_owned();
        self.told = self.json.len();
        (!piece.is_empty()).then_some(piece)
    }

    /// The arguments and the source of a call that has ended.
    pub(crate) fn end(self) -> (String, Map<String, Value>, String) {
        (self.name, self.arguments, self.source)
    }

    /// Takes what is certain of `ahead`.
    pub(crate) fn step(&mut self, ahead: Ahead<'_>, tools: &Tools) -> Progress {
        let progress = self.advance(ahead, tools);
        if let Progress::Read(bytes) | Progress::Ended(bytes, _) = &progress {
            self.source.push_str(&ahead.text[..*bytes]);
        }
        progress
    }

    fn advance(&mut self, ahead: Ahead<'_>, tools: &Tools) -> Progress {
        match &mut self.at {
            At::Xml(call) => match call.step(ahead, &self.name, tools, &mut self.json) {
                xml::Step::Read(bytes) => Progress::Read(bytes),
                xml::Step::More => Progress::More,
                xml::Step::Ended(bytes) => {
                    self.arguments = call.take_arguments();
                    self.json.push_str(if self.json.is_empty() { "{}" } else { "}" });
                    self.at = At::Behind;
                    Progress::Read(bytes)
                }
            },
            At::Json(reader) => {
                let step = reader.step(ahead);
                self.json.push_str(&std::mem::take(&mut reader.written));
                match step {
                    json::Step::Read(bytes) => Progress::Read(bytes),
                    json::Step::More => Progress::More,
                    ended => {
                        // what the reader wrote is an object of JSON
                        self.arguments = serde_json::from_str(&self.json).unwrap_or_default();
                        self.at = At::Around;
                        Progress::Read(if let json::Step::Closed(bytes) = ended { bytes } else { 0 })
                    }
                }
            }
            At::Around => {
                let next = ahead.behind_blanks();
                match next.text.chars().next() {
                    None if !ahead.is_whole => return Progress::More,
                    Some(',') => self.at = At::Rest(LenientJson::within_object()),
                    Some('}') => self.at = At::Behind,
                    _ => {
                        self.at = At::Behind;
                        return Progress::Read(0);
                    }
                }
                Progress::Read(ahead.offset(next) + 1)
            }
            At::Rest(reader) => match reader.step(ahead) {
                json::Step::Read(bytes) => Progress::Read(bytes),
                json::Step::More => Progress::More,
                json::Step::Closed(bytes) => {
                    self.at = At::Behind;
                    Progress::Read(bytes)
                }
                json::Step::Broken => {
                    self.at = At::Behind;
                    Progress::Read(0)
                }
            },
            At::Behind => self.behind(ahead, tools),
        }
    }

    /// Behind the function: its end, or the next one.
    fn behind(&self, ahead: Ahead<'_>, tools: &Tools) -> Progress {
        let next = ahead.behind_blanks();
        let blanks = ahead.offset(next);
        match next.tag(END_CALL) {
            Seen::Yes(bytes) => return Progress::Ended(blanks + bytes, None),
            Seen::Unknown => return Progress::More,
            Seen::No => {}
        }
        if self.is_json && next.text.starts_with('}') && (self.is_marked || blanks == 0) {
            return Progress::Read(blanks + 1);
        }
        if !self.is_marked {
            return Progress::Ended(0, None);
        }
        let comma = usize::from(self.is_json && next.text.starts_with(','));
        let inner = next.from(comma).behind_blanks();
        let place = Place { tools, is_thinking: false, begins_line: false, is_within: true, marked_only: true };
        match opening(inner, place) {
            Seen::Yes(found) => Progress::Ended(ahead.offset(inner), Some(found)),
            Seen::Unknown => Progress::More,
            Seen::No => Progress::Ended(0, None),
        }
    }
}

#[cfg(test)]
mod tests;
