//! `"%s" % x` and `"{}".format(x)`.
//!
//! The engine formats numbers. What it would print in its own way is printed here, and widths have a limit.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use super::arguments::{integer, invalid, short, undefined};
use super::limits::check_text;
use super::python_text::{python_repr, python_str};

/// The widest field, and the most digits after a point.
const WIDEST: usize = 100_000;

/// `template % arguments`; a dictionary alone is for fields with names.
pub(super) fn percent(template: &str, arguments: &[Value]) -> Result<String, Error> {
    let named = match arguments {
        [only] if only.kind() == ValueKind::Map => Some(only),
        _ => None,
    };
    let mut positional = arguments.iter();
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        let (field, after) = Field::parse(&rest[start + 1..], &mut positional)?;
        rest = after;
        if field.kind == '%' {
            out.push('%');
            continue;
        }
        let value = match (field.key, named) {
            (Some(key), Some(named)) => named.get_item(&Value::from(key))?,
            (Some(_), None) => return Err(invalid("format requires a mapping")),
            (None, _) => positional.next().cloned().ok_or_else(|| invalid("not enough arguments for format string"))?,
        };
        if value.is_undefined() && field.kind != 's' && field.kind != 'r' {
            return Err(undefined());
        }
        out.push_str(&field.write(&value)?);
        check_text(out.len())?;
    }
    out.push_str(rest);
    if named.is_none() && positional.next().is_some() {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// One `%...`.
struct Field<'t> {
    key: Option<&'t str>,
    flags: &'t str,
    width: usize,
    precision: Option<usize>,
    kind: char,
}

impl<'t> Field<'t> {
    /// The field that `text` begins with, after its `%`, and what follows it.
    fn parse<'v>(text: &'t str, stars: &mut impl Iterator<Item = &'v Value>) -> Result<(Self, &'t str), Error> {
        let incomplete = || invalid("incomplete format");
        let (key, text) = match text.strip_prefix('(') {
            Some(text) => text.split_once(')').map(|(key, text)| (Some(key), text)).ok_or_else(incomplete)?,
            None => (None, text),
        };
        let (flags, text) = split_while(text, |c| "-+ #0".contains(c));
        let (width, text) = number(text, stars)?;
        let (precision, text) = match text.strip_prefix('.') {
            Some(text) => number(text, stars).map(|(precision, text)| (Some(precision), text))?,
            None => (None, text),
        };
        let text = text.trim_start_matches(['h', 'l', 'L']);
        let kind = text.chars().next().ok_or_else(incomplete)?;
        Ok((Field { key, flags, width, precision, kind }, &text[kind.len_utf8()..]))
    }

    fn write(&self, value: &Value) -> Result<String, Error> {
        let text = match self.kind {
            's' => python_str(value),
            'r' | 'a' => python_repr(value),
            'd' | 'i' | 'u' => {
                let whole = match value.kind() {
                    ValueKind::Number if !value.is_integer() => {
                        Value::from(f64::try_from(value.clone())?.trunc() as i128)
                    }
                    ValueKind::Number | ValueKind::Bool => integer(value).map_or_else(|| value.clone(), Value::from),
                    _ => return Err(invalid(format!("%d format: a number is required, not {}", short(value)))),
                };
                return self.number(&whole, 'd');
            }
            'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'c' => return self.number(value, self.kind),
            other => return Err(invalid(format!("unsupported format character `{other}`"))),
        };
        let text = match self.precision.and_then(|most| text.char_indices().nth(most)) {
            Some((end, _)) => text[..end].to_owned(),
            None => text,
        };
        let blanks = " ".repeat(self.width.saturating_sub(text.chars().count()));
        Ok(if self.flags.contains('-') { text + &blanks } else { blanks + &text })
    }

    fn number(&self, value: &Value, kind: char) -> Result<String, Error> {
        let width = if self.width == 0 { String::new() } else { self.width.to_string() };
        let precision = self.precision.map_or_else(String::new, |precision| format!(".{precision}"));
        format(FormatStyle::Printf, &format!("%{}{width}{precision}{kind}", self.flags), std::slice::from_ref(value))
    }
}

fn split_while(text: &str, inside: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !inside(c)).unwrap_or(text.len()))
}

/// A width or precision: digits, or `*` for an argument.
fn number<'t, 'v>(text: &'t str, stars: &mut impl Iterator<Item = &'v Value>) -> Result<(usize, &'t str), Error> {
    if let Some(text) = text.strip_prefix('*') {
        let width = stars.next().and_then(integer).ok_or_else(|| invalid("* wants int"))?;
        return Ok((at_most_widest(usize::try_from(width).ok())?, text));
    }
    let (digits, text) = split_while(text, |c| c.is_ascii_digit());
    let width = if digits.is_empty() { Some(0) } else { digits.parse().ok() };
    Ok((at_most_widest(width)?, text))
}

fn at_most_widest(width: Option<usize>) -> Result<usize, Error> {
    width.filter(|width| *width <= WIDEST).ok_or_else(|| invalid(format!("a format has a width from 0 to {WIDEST}")))
}

/// `template.format(*arguments, **named)`.
pub(super) fn braces(template: &str, arguments: Vec<Value>, named: Vec<(String, Value)>) -> Result<String, Error> {
    let digits = template.split(|c: char| !c.is_ascii_digit());
    for run in digits.filter(|run| run.len() > 5) {
        // longer than any width; a text between the fields may say so
        at_most_widest(run.parse().ok()).or_else(|error| match template.contains(&format!("}}{run}")) {
            true => Ok(0),
            false => Err(error),
        })?;
    }
    let mut values: Vec<Value> = arguments.iter().map(printable).collect();
    if !named.is_empty() {
        values.push(named.iter().map(|(name, value)| (name.clone(), printable(value))).collect::<Kwargs>().into());
    }
    let text = format(FormatStyle::StrFormat, template, &values)?;
    check_text(text.len())?;
    Ok(text)
}

/// Numbers, strings and what fields like `{0[key]}` go into as they are; all else as Python's text.
fn printable(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Number | ValueKind::String | ValueKind::Bool | ValueKind::Map | ValueKind::Seq => value.clone(),
        _ => Value::from(python_str(value)),
    }
}
