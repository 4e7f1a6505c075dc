//! `<parameter=KEY>VALUE</parameter>` and so on up to `</function>`. Values may hold anything, the closers too: what follows
//! decides whether one ends a value. Any closer may be missing.

use serde_json::{Map, Value};

use super::ahead::{Ahead, CALL, END_CALL, END_FUNCTION, END_PARAMETER, FUNCTION, PARAMETER, Seen, without_line_end};
use super::json::escaped;
use super::opening::{Place, opening};
use super::tools::Tools;
use crate::text::schema::value_from_text;

/// What ends thoughts; a call may begin among them.
const END_THINK: &str = "</think>";

/// Reads the parameters of a function.
#[derive(Clone, Debug, Default)]
pub(super) struct XmlCall {
    arguments: Map<String, Value>,
    open: Option<Open>,
}

/// A parameter that is read.
#[derive(Clone, Debug)]
struct Open {
    key: String,
    /// It came before: the first counts, because that is told already.
    is_again: bool,
    /// Told while it comes.
    is_text: bool,
    /// What is certain of the value.
    value: String,
    /// Before the first character.
    is_new: bool,
    /// Whether there are only blanks in the line so far, and a line end before it.
    begins_line: bool,
    has_line_end: bool,
    /// Marks that must come before a closer can be the value's own: a call is quoted.
    quoted: Vec<&'static str>,
}

/// How far a step came.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Read(usize),
    More,
    /// The function ends, after so many bytes.
    Ended(usize),
}

impl XmlCall {
    /// Takes what is certain of `ahead` and adds it to `json`, the text of the arguments.
    pub(super) fn step(&mut self, ahead: Ahead<'_>, name: &str, tools: &Tools, json: &mut String) -> Step {
        let Some(mut open) = self.open.take() else { return self.between(ahead, name, tools, json) };
        let (step, is_closed) = self.value(&mut open, ahead, name, tools, json);
        if !is_closed {
            self.open = Some(open);
        } else if !open.is_again {
            let value = match open.is_text {
                true => Value::String(open.value),
                false => value_from_text(&open.value, tools.parameters(name), &open.key),
            };
            json.push_str(&if open.is_text { "\"".to_owned() } else { value.to_string() });
            self.arguments.insert(open.key, value);
        }
        step
    }

    pub(super) fn take_arguments(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.arguments)
    }

    /// Outside of values.
    fn between(&mut self, ahead: Ahead<'_>, name: &str, tools: &Tools, json: &mut String) -> Step {
        let next = ahead.behind_blanks();
        let blanks = ahead.offset(next);
        let parameter = match next.mark(PARAMETER) {
            Seen::Yes(mark) => {
                next.from(mark).name(|key| tools.knows(name, key)).map(|(key, bytes)| (key, blanks + mark + bytes))
            }
            Seen::No => Seen::No,
            Seen::Unknown => Seen::Unknown,
        };
        match parameter {
            Seen::Yes((key, bytes)) => {
                let is_again = self.arguments.contains_key(&key);
                let is_text = tools.is_text(name, &key);
                if !is_again {
                    json.push(if json.is_empty() { '{' } else { ',' });
                    json.push_str(&format!("\"{}\":", escaped(&key)));
                    json.push_str(if is_text { "\"" } else { "" });
                }
                self.open = Some(Open {
                    key,
                    is_again,
                    is_text,
                    value: String::new(),
                    is_new: true,
                    begins_line: false,
                    has_line_end: false,
                    quoted: Vec::new(),
                });
                Step::Read(bytes)
            }
            Seen::Unknown => Step::More,
            Seen::No => match next.tag(END_FUNCTION) {
                Seen::Yes(bytes) => Step::Ended(blanks + bytes),
                Seen::Unknown => Step::More,
                Seen::No => Step::Ended(0),
            },
        }
    }

    /// Within a value: how far, and whether it ends there.
    fn value(&self, open: &mut Open, ahead: Ahead<'_>, name: &str, tools: &Tools, json: &mut String) -> (Step, bool) {
        if std::mem::take(&mut open.is_new) {
            // one line end on each side belongs to the dialect
            match ahead.mark("\n").or(|| ahead.mark("\r\n")) {
                Seen::Yes(bytes) => {
                    (open.begins_line, open.has_line_end) = (true, true);
                    return (Step::Read(bytes), false);
                }
                Seen::Unknown => {
                    open.is_new = true;
                    return (Step::More, false);
                }
                Seen::No => {}
            }
        }
        let Some(at) = ahead.text.find('<') else {
            let certain = if ahead.is_whole { ahead.text.len() } else { without_blank_line(ahead.text).len() };
            let value = if ahead.is_whole { without_line_end(ahead.text) } else { &ahead.text[..certain] };
            open.add(value, json);
            let step = if certain == 0 && !ahead.is_whole { Step::More } else { Step::Read(certain) };
            return (step, ahead.is_whole);
        };
        let before = &ahead.text[..at];
        let layout = match open.line_behind(before) {
            (true, _) => Layout::First,
            (false, false) => Layout::Single,
            (false, true) => Layout::Within,
        };
        let tag = ahead.from(at);
        let quoted = if let Some(closer) = open.quoted.last() {
            // a quoted call within a quoted call
            tag.tag(closer).map(|_| Mark::Unquote).or(|| quote(tag, tools).map(|(_, closer)| Mark::Quote(closer)))
        } else {
            self.mark(tag, name, &open.key, tools, layout)
        };
        match quoted {
            Seen::Yes(Mark::End(bytes)) => {
                open.add(without_line_end(before), json);
                (Step::Read(at + bytes), true)
            }
            Seen::Unknown => {
                let certain = without_blank_line(before).len();
                open.add(&ahead.text[..certain], json);
                (if certain == 0 { Step::More } else { Step::Read(certain) }, false)
            }
            Seen::No => {
                open.add(&ahead.text[..=at], json);
                (Step::Read(at + 1), false)
            }
            Seen::Yes(Mark::Quote(closer)) => {
                open.quoted.push(closer);
                let bytes = if closer == END_CALL { CALL.len() } else { FUNCTION.len() };
                open.add(&ahead.text[..at + bytes], json);
                // its function is part of it
                (Step::Read(at + bytes), false)
            }
            Seen::Yes(Mark::Unquote) => {
                open.quoted.pop();
                open.add(&ahead.text[..=at], json);
                (Step::Read(at + 1), false)
            }
        }
    }

    /// What a `<` within a value is.
    fn mark(&self, tag: Ahead<'_>, name: &str, open: &str, tools: &Tools, layout: Layout) -> Seen<Mark> {
        let ends = |is_end: Seen<()>, bytes: usize| is_end.map(|()| Mark::End(bytes));
        match tag.tag(END_PARAMETER) {
            Seen::Yes(bytes) => {
                let rest = tag.from(bytes);
                let next = rest.behind_blanks();
                let layout = layout.behind(rest, next);
                let parameter = || match next.mark(PARAMETER) {
                    Seen::Yes(_) if layout != Layout::Within => Seen::Yes(()),
                    Seen::Yes(mark) => parameter_of(next.from(mark), name, tools),
                    other => other.map(|_| ()),
                };
                return ends(next.is_end().or(parameter).or(|| ends_function(next, layout, true)), bytes);
            }
            Seen::Unknown => return Seen::Unknown,
            Seen::No => {}
        }
        match ends_function(tag, layout, false) {
            Seen::No => {}
            other => return ends(other, 0),
        }
        match tag.mark(PARAMETER) {
            // its own closer is missing
            Seen::Yes(mark) if layout != Layout::Within => {
                let key = tag.from(mark).name(|key| tools.knows(name, key));
                return ends(
                    match key {
                        Seen::Yes((key, _)) => {
                            Seen::of(tools.knows(name, &key) && key != open && !self.arguments.contains_key(&key))
                        }
                        other => other.map(|_| ()),
                    },
                    0,
                );
            }
            Seen::Unknown => return Seen::Unknown,
            Seen::Yes(_) | Seen::No => {}
        }
        match quote(tag, tools) {
            Seen::Yes((other, closer)) => match follows_quote(tag, closer, tools.has(&other)) {
                Seen::Yes(()) => Seen::Yes(Mark::Quote(closer)),
                Seen::No => Seen::Yes(Mark::End(0)),
                Seen::Unknown => Seen::Unknown,
            },
            Seen::No => Seen::No,
            Seen::Unknown => Seen::Unknown,
        }
    }
}

/// Where a mark within a value stands: the less it looks like the dialect's own, the more must follow it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// First on its line.
    First,
    /// In a value of one line.
    Single,
    Within,
}

impl Layout {
    /// That of the next mark, behind blanks.
    fn behind(self, blanks: Ahead<'_>, next: Ahead<'_>) -> Self {
        if blanks.text[..blanks.offset(next)].contains('\n') { Layout::First } else { self }
    }
}

enum Mark {
    /// The value ends before it; so many bytes belong to its closer.
    End(usize),
    /// A call that is quoted begins; what closes it.
    Quote(&'static str),
    /// It ends.
    Unquote,
}

impl Open {
    fn add(&mut self, piece: &str, json: &mut String) {
        (self.begins_line, self.has_line_end) = self.line_behind(piece);
        if self.is_again {
            return;
        }
        self.value.push_str(piece);
        if self.is_text {
            json.push_str(&escaped(piece));
        }
    }

    /// `begins_line` and `has_line_end` behind a piece.
    fn line_behind(&self, piece: &str) -> (bool, bool) {
        match piece.rfind('\n') {
            Some(at) => (piece[at..].trim().is_empty(), true),
            None => (self.begins_line && piece.trim().is_empty(), self.has_line_end),
        }
    }
}

/// Without the blanks at its end that may belong to a closer: a line end and an indentation.
fn without_blank_line(text: &str) -> &str {
    let kept = without_line_end(text);
    match kept.len() == text.len() {
        // the first half of a line end
        true => kept.strip_suffix('\r').unwrap_or(kept),
        false => kept,
    }
}

/// Whether a key of this function stands here; any will do where its schema names none.
fn parameter_of(ahead: Ahead<'_>, name: &str, tools: &Tools) -> Seen<()> {
    match ahead.name(|key| tools.knows(name, key)) {
        Seen::Yes((key, _)) => Seen::of(tools.knows(name, &key) || !tools.has_parameters(name)),
        other => other.map(|_| ()),
    }
}

/// Whether the function, or the whole call, ends here; `closed` is whether the value's own closer stands before.
fn ends_function(ahead: Ahead<'_>, layout: Layout, closed: bool) -> Seen<()> {
    let function = match ahead.tag(END_FUNCTION) {
        Seen::Yes(_) if closed && layout == Layout::First => Seen::Yes(()),
        Seen::Yes(bytes) => {
            let rest = ahead.from(bytes);
            let next = rest.behind_blanks();
            let layout = layout.behind(rest, next);
            let is_alone = closed && layout == Layout::Single && rest.text.starts_with(char::is_whitespace);
            match next.tag(END_CALL) {
                Seen::No => {
                    next.is_end().or(|| begins_call(next)).or(|| ends_thoughts(next, layout)).or(|| Seen::of(is_alone))
                }
                _ => ends_call(next, layout),
            }
        }
        other => other.map(|_| ()),
    };
    function.or(|| ends_call(ahead, layout)).or(|| match closed && layout != Layout::Within {
        true => begins_call(ahead).or(|| ends_thoughts(ahead, layout)),
        false => Seen::No,
    })
}

/// Whether `</tool_call>` stands here, and ends the call.
fn ends_call(ahead: Ahead<'_>, layout: Layout) -> Seen<()> {
    match ahead.tag(END_CALL) {
        Seen::Yes(_) if layout == Layout::First => Seen::Yes(()),
        Seen::Yes(bytes) => {
            let rest = ahead.from(bytes);
            let blanks: &[char] = if layout == Layout::Single { &['\n', '\r', '<', ' '] } else { &['\n', '\r', '<'] };
            rest.is_end().or(|| Seen::of(rest.text.starts_with(blanks)))
        }
        other => other.map(|_| ()),
    }
}

fn begins_call(ahead: Ahead<'_>) -> Seen<()> {
    ahead.tag(CALL).or(|| ahead.mark(FUNCTION)).map(|_| ())
}

fn ends_thoughts(ahead: Ahead<'_>, layout: Layout) -> Seen<()> {
    if layout == Layout::Within { Seen::No } else { ahead.mark(END_THINK).map(|_| ()) }
}

/// A call within a value: its name, and what closes it.
fn quote(tag: Ahead<'_>, tools: &Tools) -> Seen<(String, &'static str)> {
    let closer = match tag.mark(FUNCTION) {
        Seen::Yes(_) => END_FUNCTION,
        Seen::Unknown => return Seen::Unknown,
        Seen::No => match tag.mark(CALL) {
            Seen::Yes(_) => END_CALL,
            other => return other.map(|_| (String::new(), END_CALL)),
        },
    };
    let place = Place { tools, is_thinking: false, begins_line: false, is_within: true, marked_only: true };
    opening(tag, place).map(|found| (found.name, closer))
}

/// Whether a call within a value is part of it: then the value goes on behind the call's end. Where the answer ends there, or
/// another call follows, the closers of the value were forgotten.
fn follows_quote(tag: Ahead<'_>, closer: &str, is_offered: bool) -> Seen<()> {
    if !is_offered {
        return Seen::Yes(());
    }
    let Some(at) = tag.text.find(closer) else { return tag.undecided() };
    let end = tag.from(at);
    let bytes = match end.tag(closer) {
        Seen::Yes(bytes) => bytes,
        Seen::Unknown => return Seen::Unknown,
        Seen::No => return Seen::Yes(()),
    };
    let next = end.from(bytes).behind_blanks();
    let forgotten = next.is_end().or(|| begins_call(next)).or(|| next.mark(END_THINK).map(|_| ()));
    let forgotten = if closer == END_FUNCTION { forgotten.or(|| next.tag(END_CALL).map(|_| ())) } else { forgotten };
    match forgotten {
        Seen::Yes(()) => Seen::No,
        Seen::No => Seen::Yes(()),
        Seen::Unknown => Seen::Unknown,
    }
}
