//! The methods of Python's `str`.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{Arguments, integer, invalid, short};
use super::format::braces;
use super::limits::check_text;
use super::methods::pairs;
use super::operators::items;
use super::python_text::{is_printable, python_str};

pub(super) const STRING_METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Calls `text.name(...)`; an error of the kind "unknown method" where there is none.
pub(super) fn string_method(
    _state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    given: &[Value],
) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    let mut arguments = Arguments::new(name, given);
    let result: Value = match name {
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "capitalize" => capitalize(text).into(),
        "casefold" => casefold(text).into(),
        "swapcase" => swapcase(text).into(),
        "title" => title(text).into(),
        "strip" | "lstrip" | "rstrip" => {
            let chars = arguments.text("chars")?;
            strip(text, chars.as_deref(), name != "rstrip", name != "lstrip").into()
        }
        "split" | "rsplit" => {
            let separator = arguments.text("sep")?;
            let most = arguments.integer("maxsplit")?.and_then(|most| usize::try_from(most).ok());
            split(text, separator.as_deref(), most.unwrap_or(usize::MAX), name == "rsplit")?.into()
        }
        "splitlines" => splitlines(text, arguments.flag("keepends", false)).into(),
        "partition" | "rpartition" => {
            let separator = non_empty(arguments.required_text("sep")?)?;
            let parts = if name == "partition" { text.split_once(&separator) } else { text.rsplit_once(&separator) };
            Value::from(Tuple::from(match parts {
                Some((before, after)) => [Value::from(before), Value::from(separator), Value::from(after)],
                None if name == "partition" => [Value::from(text), Value::from(""), Value::from("")],
                None => [Value::from(""), Value::from(""), Value::from(text)],
            }))
        }
        "replace" => {
            let (old, new) = (arguments.required_text("old")?, arguments.required_text("new")?);
            let count = arguments.integer("count")?.and_then(|count| usize::try_from(count).ok());
            replace(text, &old, &new, count)?.into()
        }
        "removeprefix" => {
            let prefix = arguments.required_text("prefix")?;
            text.strip_prefix(&*prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let suffix = arguments.required_text("suffix")?;
            text.strip_suffix(&*suffix).unwrap_or(text).into()
        }
        "startswith" | "endswith" => {
            let affixes = arguments.required("prefix")?;
            let affixes = match affixes.kind() {
                ValueKind::String => vec![affixes],
                _ if affixes.is_tuple() => items(&affixes)?,
                _ => return Err(invalid(format!("{name}: expected a string or a tuple, found {}", short(&affixes)))),
            };
            let Some(part) = window(text, &mut arguments)? else { return Ok(Value::from(false)) };
            let fits = |affix: &Value| {
                affix.as_str().is_some_and(|affix| match name {
                    "startswith" => part.starts_with(affix),
                    _ => part.ends_with(affix),
                })
            };
            affixes.iter().any(fits).into()
        }
        "count" => {
            let sub = arguments.required_text("sub")?;
            match window(text, &mut arguments)? {
                Some(part) if sub.is_empty() => Value::from(part.chars().count() + 1),
                Some(part) => Value::from(part.matches(&*sub).count()),
                None => Value::from(0),
            }
        }
        "find" | "rfind" | "index" | "rindex" => {
            let sub = arguments.required_text("sub")?;
            let found = window(text, &mut arguments)?.and_then(|part| {
                let at = if name.starts_with('r') { part.rfind(&*sub) } else { part.find(&*sub) }?;
                // from the start of the whole text, in characters
                let before = part.as_ptr().addr() - text.as_ptr().addr() + at;
                Some(text[..before].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if name.ends_with("index") => return Err(invalid(format!("{name}: substring not found"))),
                None => Value::from(-1),
            }
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let width = arguments.required("width")?;
            let width = integer(&width).ok_or_else(|| invalid(format!("{name}: the width is {}", short(&width))))?;
            let fill = if name == "zfill" { None } else { arguments.text("fillchar")? };
            pad(text, name, width, fill.as_deref().unwrap_or(if name == "zfill" { "0" } else { " " }))?.into()
        }
        "expandtabs" => expandtabs(text, arguments.integer("tabsize")?.unwrap_or(8))?.into(),
        "join" => {
            let iterable = arguments.required("iterable")?;
            let parts = match iterable.as_str() {
                Some(text) => text.chars().map(Value::from).collect(),
                None => items(&iterable)?,
            };
            join(text, &parts)?.into()
        }
        "format" | "format_map" => {
            let mut named = arguments.all_named();
            if name == "format_map" {
                let mapping = pairs(&arguments.required("mapping")?)?;
                named.extend(mapping.into_iter().map(|(key, value)| (python_str(&key), value)));
            }
            braces(text, arguments.rest(), named)?.into()
        }
        "encode" => {
            arguments.text("encoding")?;
            arguments.text("errors")?;
            Value::from_bytes(text.as_bytes().to_vec())
        }
        "isalnum" => all(text, char::is_alphanumeric).into(),
        "isalpha" => all(text, char::is_alphabetic).into(),
        "isascii" => text.is_ascii().into(),
        "isdecimal" => all(text, is_decimal).into(),
        "isdigit" => all(text, |c| is_decimal(c) || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)).into(),
        "isnumeric" => all(text, char::is_numeric).into(),
        "isspace" => all(text, is_space).into(),
        "isprintable" => text.chars().all(is_printable).into(),
        "islower" => (text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)).into(),
        "isupper" => (text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)).into(),
        "istitle" => (text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && title(text) == text).into(),
        "isidentifier" => {
            let mut chars = text.chars();
            let first = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
            (first && chars.all(|c| c == '_' || c.is_alphanumeric())).into()
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.end()?;
    Ok(result)
}

fn all(text: &str, holds: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(holds)
}

/// A digit of a decimal system: the blocks of ten that begin at these characters, among those in use.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 18] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xf20,
        0x17e0, 0xff10,
    ];
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

/// `str.isspace` of a character: Unicode's white space, and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => titled(first) + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// A character at the start of a word.
fn titled(c: char) -> String {
    match c {
        // letters with a form of their own for it
        'Ǆ'..='ǆ' => return "ǅ".into(),
        'Ǉ'..='ǉ' => return "ǈ".into(),
        'Ǌ'..='ǌ' => return "ǋ".into(),
        'Ǳ'..='ǳ' => return "ǲ".into(),
        'ა'..='ჿ' => return c.into(),
        _ => {}
    }
    let upper: String = c.to_uppercase().collect();
    // ligatures: "ﬁ" becomes "Fi"
    let mut chars = upper.chars();
    match chars.next() {
        Some(first) => chars.flat_map(char::to_lowercase).fold(String::from(first), |mut out, c| {
            out.push(c);
            out
        }),
        None => upper,
    }
}

fn casefold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ς' => out.push('σ'),
            'ẞ' => out.push_str("ss"),
            c if c.to_uppercase().count() > 1 => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_lowercase() => out.extend(c.to_uppercase()),
            c if c.is_uppercase() => out.extend(c.to_lowercase()),
            c => out.push(c),
        }
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&titled(c));
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// Takes `chars`, or white space, from the start and the end.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, start: bool, end: bool) -> &'t str {
    let goes = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

fn non_empty(separator: String) -> Result<String, Error> {
    match separator.is_empty() {
        true => Err(invalid("empty separator")),
        false => Ok(separator),
    }
}

fn split(text: &str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Vec<Value>, Error> {
    let pieces = most.saturating_add(1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) if from_right => text.rsplitn(pieces, separator).collect(),
        Some(separator) => text.splitn(pieces, separator).collect(),
        None => split_at_space(text, most, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words, and what is left after `most` of them; in the order they are met.
fn split_at_space(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = strip(rest, None, !from_right, from_right);
        if rest.is_empty() {
            return parts;
        }
        let edge = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(edge) = edge.filter(|_| parts.len() < most) else {
            parts.push(strip(rest, None, false, false));
            return parts;
        };
        if from_right {
            let width = rest[edge..].chars().next().map_or(1, char::len_utf8);
            parts.push(&rest[edge + width..]);
            rest = &rest[..edge];
        } else {
            parts.push(&rest[..edge]);
            rest = &rest[edge..];
        }
    }
}

fn splitlines(text: &str, keep_ends: bool) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends_line =
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
        if !ends_line {
            continue;
        }
        let pair = c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some();
        let end = at + c.len_utf8() + usize::from(pair);
        lines.push(Value::from(&text[start..if keep_ends { end } else { at }]));
        start = end;
    }
    if start < text.len() {
        lines.push(Value::from(&text[start..]));
    }
    lines
}

/// `str.replace`; `count` is how many at most.
pub(super) fn replace(text: &str, old: &str, new: &str, count: Option<usize>) -> Result<String, Error> {
    let found = text.matches(old).count().min(count.unwrap_or(usize::MAX));
    check_text(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(match count {
        Some(count) => text.replacen(old, new, count),
        None => text.replace(old, new),
    })
}

/// The part between `start` and `end`, the next two parameters; None where they exclude even an empty text.
fn window<'t>(text: &'t str, arguments: &mut Arguments<'_>) -> Result<Option<&'t str>, Error> {
    let (start, end) = (arguments.integer("start")?, arguments.integer("end")?);
    if start.is_none() && end.is_none() {
        return Ok(Some(text));
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let place = |bound: i64| if bound < 0 { (bound + length).max(0) } else { bound };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place).min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |index: i64| {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
    };
    Ok(Some(&text[byte(start)..byte(end)]))
}

/// `str.center`, `ljust`, `rjust` and `zfill`.
pub(super) fn pad(text: &str, method: &str, width: i64, fill: &str) -> Result<String, Error> {
    if fill.chars().count() != 1 {
        return Err(invalid(format!("{method}: expected one character to fill with, found {} bytes", fill.len())));
    }
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    check_text(missing.saturating_mul(fill.len()).saturating_add(text.len()))?;
    if missing == 0 {
        return Ok(text.to_owned());
    }
    Ok(match method {
        "ljust" => text.to_owned() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + text,
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", fill.repeat(missing))
        }
        _ => {
            // where the sides differ, CPython gives the odd one by the width
            let left = missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
        }
    })
}

fn expandtabs(text: &str, tab: i64) -> Result<String, Error> {
    let tab = usize::try_from(tab).unwrap_or(0);
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if tab == 0 => {}
            '\t' => {
                let blanks = tab - column % tab;
                check_text(out.len().saturating_add(blanks))?;
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

fn join(separator: &str, parts: &[Value]) -> Result<String, Error> {
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        let Some(part) = part.as_str() else {
            return Err(invalid(format!("join: item {index}: expected a string, found {}", short(part))));
        };
        out.push_str(part);
        check_text(out.len())?;
    }
    Ok(out)
}
