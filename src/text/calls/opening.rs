//! Where a call begins. Models name the marks of calls in prose and in their thoughts too: it is a call only when a name and
//! the first parameter, or the end, stand behind them.

use serde_json::{Map, Value};

use super::ahead::{Ahead, CALL, END_CALL, END_FUNCTION, FUNCTION, PARAMETER, Seen, WHOLE_CALL};
use super::json::LenientJson;
use super::tools::Tools;

/// What a place of an answer makes of marks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) tools: &'a Tools,
    /// Among thoughts.
    pub(crate) is_thinking: bool,
    /// First on its line.
    pub(crate) begins_line: bool,
    /// Behind another call, within the same marks.
    pub(crate) is_within: bool,
    /// Calls without `<tool_call>` are text.
    pub(crate) marked_only: bool,
}

/// A call that begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) form: Form,
    /// Bytes up to its parameters.
    pub(crate) bytes: usize,
    /// Whether it stands within `<tool_call>`.
    pub(crate) is_marked: bool,
}

/// How arguments are written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// `<parameter=KEY>VALUE</parameter>`
    Xml,
    /// An object of JSON.
    Json,
    /// They were read with the opening.
    Read(Map<String, Value>),
}

/// Whether a call begins here.
pub(crate) fn opening(ahead: Ahead<'_>, place: Place<'_>) -> Seen<Opening> {
    let mark = if place.marked_only { ahead.mark(WHOLE_CALL) } else { ahead.tag(CALL) };
    match mark {
        Seen::Yes(bytes) => {
            let inner = ahead.from(bytes).behind_blanks();
            let before = ahead.offset(inner);
            head(inner, place, true).map(|found| Opening { bytes: before + found.bytes, ..found })
        }
        Seen::Unknown => Seen::Unknown,
        Seen::No if place.is_within => head(ahead, place, true),
        Seen::No if place.marked_only => Seen::No,
        Seen::No => head(ahead, place, false),
    }
}

fn head(ahead: Ahead<'_>, place: Place<'_>, is_marked: bool) -> Seen<Opening> {
    // a name that nobody offered is a call only where it cannot be anything else
    let may_call = |name: &str| {
        let is_any = is_marked && !place.is_thinking && !name.is_empty() && !name.contains(char::is_whitespace);
        is_any || place.tools.has(name)
    };
    match ahead.mark(FUNCTION) {
        Seen::Yes(bytes) => xml_head(ahead.from(bytes), place.tools, may_call).map(|(name, more)| Opening {
            name,
            form: Form::Xml,
            bytes: bytes + more,
            is_marked,
        }),
        Seen::Unknown => Seen::Unknown,
        Seen::No if ahead.text.starts_with('{') && (is_marked || (place.begins_line && !place.is_thinking)) => {
            json_head(ahead, is_marked, may_call)
        }
        Seen::No => Seen::No,
    }
}

/// Behind `<function=`: the name, and the bytes up to the first parameter or the end.
fn xml_head(ahead: Ahead<'_>, tools: &Tools, may_call: impl Fn(&str) -> bool) -> Seen<(String, usize)> {
    let (name, bytes) = match ahead.name(|name| tools.has(name)) {
        Seen::Yes((name, bytes)) if may_call(&name) => (name, bytes),
        Seen::Yes(_) | Seen::No => return Seen::No,
        Seen::Unknown => return Seen::Unknown,
    };
    let next = ahead.from(bytes).behind_blanks();
    let parameter = match next.mark(PARAMETER) {
        Seen::Yes(mark) => next.from(mark).name(|key| tools.knows(&name, key)).map(|_| 0),
        other => other,
    };
    let is_call = parameter.or(|| next.tag(END_FUNCTION)).or(|| next.tag(END_CALL));
    is_call.map(|_| (name, ahead.offset(next)))
}

/// At a brace. The arguments may be read as they come where they follow the name, as they do.
fn json_head(ahead: Ahead<'_>, is_marked: bool, may_call: impl Fn(&str) -> bool) -> Seen<Opening> {
    let found = |name: String, form, bytes| Seen::Yes(Opening { name, form, bytes, is_marked });
    let inner = ahead.from(1).behind_blanks();
    let (key, value) = match member(inner) {
        Seen::Yes(found) => found,
        Seen::No => return Seen::No,
        Seen::Unknown => return Seen::Unknown,
    };
    if key == "name" {
        let (name, bytes) = match value.quoted() {
            Seen::Yes((name, bytes)) if may_call(name) => (name, bytes),
            Seen::Yes(_) | Seen::No => return Seen::No,
            Seen::Unknown => return Seen::Unknown,
        };
        let next = value.from(bytes).behind_blanks();
        let more = match next.mark(",") {
            Seen::Yes(comma) => member(next.from(comma).behind_blanks()),
            Seen::No => Seen::No,
            Seen::Unknown => return Seen::Unknown,
        };
        match more {
            Seen::Yes((key, value)) if is_arguments(key) => match value.text.chars().next() {
                Some('{') => return found(name.to_owned(), Form::Json, ahead.offset(value)),
                Some(_) => {}
                None => return ahead.undecided(),
            },
            Seen::Unknown => return Seen::Unknown,
            _ if !is_marked => return Seen::No,
            _ => {}
        }
    } else if !is_marked || !(is_arguments(key) || matches!(key, "type" | "id" | "function")) {
        return Seen::No;
    }
    match LenientJson::read(ahead) {
        Seen::Yes((json, bytes, is_closed)) => match whole(&json, is_closed) {
            Some((name, arguments)) if may_call(&name) => found(name, Form::Read(arguments), bytes),
            _ => Seen::No,
        },
        Seen::No => Seen::No,
        Seen::Unknown => Seen::Unknown,
    }
}

/// A key, and what stands behind its colon.
fn member<'a>(ahead: Ahead<'a>) -> Seen<(&'a str, Ahead<'a>)> {
    let (key, bytes) = match ahead.quoted() {
        Seen::Yes(found) => found,
        Seen::No => return Seen::No,
        Seen::Unknown => return Seen::Unknown,
    };
    let rest = ahead.from(bytes).behind_blanks();
    rest.mark(":").map(|colon| (key, rest.from(colon).behind_blanks()))
}

fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}

/// The name and arguments of a call that was read as a whole.
fn whole(json: &str, is_closed: bool) -> Option<(String, Map<String, Value>)> {
    let mut call: Map<String, Value> = serde_json::from_str(json).ok()?;
    if let Some(Value::Object(function)) = call.remove("function") {
        call = function;
    }
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        Some(Value::Object(arguments)) => arguments,
        Some(Value::String(text)) if !text.trim().is_empty() => {
            match LenientJson::read(Ahead { text: &text, is_whole: true }) {
                Seen::Yes((json, ..)) => serde_json::from_str(&json).ok()?,
                _ => return None,
            }
        }
        // one that was cut off may have had arguments
        None if !is_closed => return None,
        None | Some(Value::Null | Value::String(_)) => Map::new(),
        Some(_) => return None,
    };
    Some((name, arguments))
}
