//! What an answer is made of: thoughts, text and tool calls, told apart while tokens come, wherever they cut it.
//! What is neither thoughts nor a call is given as it is: nothing is lost. The marks are those of a [`Dialect`].

use serde_json::{Map, Value};

use super::calls::{Ahead, CallReader, Opening, Place, Progress, Seen, Tools, opening};
use super::dialects::{Dialect, QWEN};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReplyPart {
    /// More of what the model thinks before it answers.
    Thinking(String),
    /// More of the answer.
    Text(String),
    /// A call of the tool of this name begins. Nothing else comes before its end.
    CallBegin(String),
    /// More of the text of its arguments, a JSON object.
    CallArguments(String),
    /// The call that began, whole.
    ToolCall(ToolCall),
}

/// A function that the model wants called.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// What a result of the call refers to; empty until the call is told as an event.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// Its arguments, with the types that the function's schema gives them.
    pub arguments: Map<String, Value>,
    /// What the model wrote, with the marks around it: for a history that reads as the model wrote it.
    pub source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first character that is not blank.
    Start,
    Thinking,
    Text,
    /// Behind thoughts or a call: blanks are no text.
    Gap,
    /// Within a call that began.
    Call,
}

/// What comes first of a text that was looked through.
enum Found {
    Call(usize, Opening),
    EndOfThoughts(usize),
    /// Nothing before this place; what stands there is not certain yet.
    Nothing(usize),
}

/// Takes an answer apart. The default gives everything as text.
#[derive(Clone, Debug)]
pub struct ReplyParser {
    dialect: &'static Dialect,
    state: State,
    /// What cannot be told yet.
    held: String,
    tools: Tools,
    call: Option<CallReader>,
    /// Whether the answer follows a grammar.
    has_grammar: bool,
    /// Whether the text so far ends where a line begins.
    begins_line: bool,
    /// The last character of the thoughts so far.
    last: Option<char>,
    /// A call began among the thoughts, and they were not ended since.
    has_open_thoughts: bool,
}

impl Default for ReplyParser {
    fn default() -> Self {
        ReplyParser {
            dialect: &QWEN,
            state: State::Text,
            held: String::new(),
            tools: Tools::default(),
            call: None,
            has_grammar: false,
            begins_line: true,
            last: None,
            has_open_thoughts: false,
        }
    }
}

impl ReplyParser {
    /// For an answer to `prompt`, which may end by opening thoughts. Without `tools` calls are text.
    pub(crate) fn new(dialect: &'static Dialect, prompt: &str, tools: Vec<Value>) -> Self {
        // not anywhere in the prompt: a user may write of thoughts
        let opened = prompt.trim_end().ends_with(dialect.think);
        let state = if opened { State::Thinking } else { State::Start };
        ReplyParser { dialect, state, tools: Tools(tools), ..ReplyParser::default() }
    }

    /// For an answer that follows a grammar, which begins at the mark that ends thoughts or begins a call: what these are is
    /// certain at once, and calls without their mark are text.
    pub(crate) fn with_grammar(self) -> Self {
        ReplyParser { has_grammar: true, ..self }
    }

    /// Whether the answer is among its thoughts.
    pub(crate) fn is_thinking(&self) -> bool {
        self.state == State::Thinking && !self.may_call()
    }

    /// Whether the answer is within a call, or within what may become one.
    pub(crate) fn is_calling(&self) -> bool {
        self.state == State::Call || self.may_call()
    }

    fn may_call(&self) -> bool {
        !self.tools.is_empty() && self.held.trim_start().starts_with(self.dialect.call)
    }

    /// How thoughts and calls are told from text.
    pub(crate) fn dialect(&self) -> &'static Dialect {
        self.dialect
    }

    /// Whether everything is text.
    pub(crate) fn is_plain(&self) -> bool {
        self.state == State::Text && self.tools.is_empty()
    }

    /// Takes the next piece of text and gives what is certain now.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<ReplyPart> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        while self.step(&mut parts, false) {}
        self.tell_arguments(&mut parts);
        parts
    }

    /// Ends the answer: what was held back. A call that began ends with what there is.
    pub(crate) fn finish(&mut self) -> Vec<ReplyPart> {
        let mut parts = Vec::new();
        while self.step(&mut parts, true) {}
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Thinking => thinking(&mut parts, &rest),
            State::Gap => text(&mut parts, rest.trim_start()),
            State::Start if rest.trim().is_empty() => {}
            State::Start | State::Text | State::Call => text(&mut parts, &rest),
        }
        self.state = State::Text;
        parts
    }

    /// Goes one step on; `false` when more must come first.
    fn step(&mut self, parts: &mut Vec<ReplyPart>, is_whole: bool) -> bool {
        match self.state {
            State::Start | State::Gap => self.begin(is_whole),
            State::Thinking => {
                let found = self.look(is_whole);
                let (Found::Call(at, _) | Found::EndOfThoughts(at) | Found::Nothing(at)) = found;
                let certain = self.held[..at].trim_end().len();
                thinking(parts, &self.held[..certain]);
                match found {
                    Found::Call(at, opening) => {
                        self.has_open_thoughts = true;
                        self.call(parts, at, opening)
                    }
                    Found::EndOfThoughts(at) => {
                        self.held.drain(..at + self.dialect.end_think.len());
                        self.state = State::Gap;
                        true
                    }
                    Found::Nothing(_) => {
                        self.last = self.held[..certain].chars().last().or(self.last);
                        self.held.drain(..certain);
                        false
                    }
                }
            }
            State::Text if self.tools.is_empty() => {
                text(parts, &std::mem::take(&mut self.held));
                false
            }
            State::Text => {
                let found = self.look(is_whole);
                match found {
                    Found::Call(at, opening) => {
                        text(parts, self.held[..at].trim_end());
                        self.call(parts, at, opening)
                    }
                    Found::EndOfThoughts(at) => {
                        // of the thoughts that a call ended
                        self.has_open_thoughts = false;
                        self.tell_text(parts, at);
                        self.held.drain(..self.dialect.end_think.len());
                        true
                    }
                    Found::Nothing(at) => {
                        self.tell_text(parts, self.held[..at].trim_end().len());
                        false
                    }
                }
            }
            State::Call => self.read_call(parts, is_whole),
        }
    }

    /// Before thoughts, text or a call.
    fn begin(&mut self, is_whole: bool) -> bool {
        let Dialect { think, end_think, .. } = *self.dialect;
        let begun = Ahead { text: self.held.trim_start(), is_whole };
        let blanks = self.held.len() - begun.text.len();
        if begun.text.is_empty() {
            return false;
        }
        let opens = if self.state == State::Start { begun.mark(think) } else { Seen::No };
        match (opens, begun.mark(end_think)) {
            (Seen::Yes(bytes), _) => {
                self.held.drain(..blanks + bytes);
                self.state = State::Thinking;
            }
            // it ends nothing
            (_, Seen::Yes(bytes)) => {
                self.held.drain(..blanks + bytes);
                self.has_open_thoughts = false;
                self.state = State::Gap;
            }
            (Seen::Unknown, _) | (_, Seen::Unknown) => return false,
            (Seen::No, Seen::No) => {
                // blanks before an answer are its own, unless something stood before it
                if self.state == State::Gap {
                    self.held.drain(..blanks);
                }
                self.begins_line = true;
                self.state = State::Text;
            }
        }
        true
    }

    /// Looks for what ends the thoughts or the text.
    fn look(&self, is_whole: bool) -> Found {
        let is_thinking = self.state == State::Thinking;
        let marks: &[char] = if is_thinking { &['<'] } else { &['<', '{'] };
        for (at, _) in self.held.match_indices(marks) {
            let ahead = Ahead { text: &self.held[at..], is_whole };
            let begins_line = self.begins_line_behind(&self.held[..at]);
            if is_thinking || (self.has_open_thoughts && begins_line) {
                let before = self.held[..at].chars().last().or(self.last).filter(|_| is_thinking && !self.has_grammar);
                match self.ends_thoughts(ahead, before) {
                    Seen::Yes(_) => return Found::EndOfThoughts(at),
                    Seen::Unknown => return Found::Nothing(at),
                    Seen::No => {}
                }
            }
            if self.tools.is_empty() {
                continue;
            }
            let marked_only = self.has_grammar;
            let place = Place { tools: &self.tools, is_thinking, begins_line, is_within: false, marked_only };
            match opening(ahead, place) {
                Seen::Yes(found) => return Found::Call(at, found),
                Seen::Unknown => return Found::Nothing(at),
                Seen::No => {}
            }
        }
        Found::Nothing(self.held.len())
    }

    /// Whether thoughts end here, behind the character `before`. A mark in quotes is only named.
    fn ends_thoughts(&self, ahead: Ahead<'_>, before: Option<char>) -> Seen<()> {
        let bytes = match ahead.mark(self.dialect.end_think) {
            Seen::Yes(bytes) => bytes,
            Seen::No => return Seen::No,
            Seen::Unknown => return Seen::Unknown,
        };
        match (before.filter(|before| "`\"'".contains(*before)), ahead.text[bytes..].chars().next()) {
            (Some(_), None) if !ahead.is_whole => Seen::Unknown,
            (Some(quote), Some(next)) if quote == next => Seen::No,
            _ => Seen::Yes(()),
        }
    }

    /// A call begins, `at` bytes ahead.
    fn call(&mut self, parts: &mut Vec<ReplyPart>, at: usize, opening: Opening) -> bool {
        parts.push(ReplyPart::CallBegin(opening.name.clone()));
        let end = at + opening.bytes;
        self.call = Some(CallReader::new(opening, &self.held[at..end]));
        self.held.drain(..end);
        self.state = State::Call;
        true
    }

    /// Reads on within a call.
    fn read_call(&mut self, parts: &mut Vec<ReplyPart>, is_whole: bool) -> bool {
        let Some(call) = &mut self.call else {
            self.state = State::Gap;
            return true;
        };
        match call.step(Ahead { text: &self.held, is_whole }, &self.tools) {
            Progress::Read(bytes) => {
                self.held.drain(..bytes);
                true
            }
            Progress::More => false,
            Progress::Ended(bytes, next) => {
                self.tell_arguments(parts);
                self.held.drain(..bytes);
                self.state = State::Gap;
                if let Some(call) = self.call.take() {
                    let (name, arguments, source) = call.end();
                    parts.push(ReplyPart::ToolCall(ToolCall { id: String::new(), name, arguments, source }));
                }
                next.is_none_or(|opening| self.call(parts, 0, opening))
            }
        }
    }

    fn tell_arguments(&mut self, parts: &mut Vec<ReplyPart>) {
        let piece = self.call.as_mut().and_then(CallReader::news);
        parts.extend(piece.map(ReplyPart::CallArguments));
    }

    fn tell_text(&mut self, parts: &mut Vec<ReplyPart>, bytes: usize) {
        self.begins_line = self.begins_line_behind(&self.held[..bytes]);
        text(parts, &self.held[..bytes]);
        self.held.drain(..bytes);
    }

    fn begins_line_behind(&self, piece: &str) -> bool {
        match piece.rfind('\n') {
            Some(at) => piece[at..].trim().is_empty(),
            None => self.begins_line && piece.trim().is_empty(),
        }
    }
}

fn thinking(parts: &mut Vec<ReplyPart>, piece: &str) {
    if !piece.is_empty() {
        parts.push(ReplyPart::Thinking(piece.to_owned()));
    }
}

fn text(parts: &mut Vec<ReplyPart>, piece: &str) {
    if !piece.is_empty() {
        parts.push(ReplyPart::Text(piece.to_owned()));
    }
}

#[cfg(test)]
pub(crate) mod tests;
