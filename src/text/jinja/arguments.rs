//! Arguments of a filter, method or function: by position or by name, as Python binds them.

use minijinja::value::{Kwargs, Rest, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};

use super::python_text::{python_repr, python_str};

/// All arguments that a template gives, those by name last.
pub(super) type Given = Rest<ValueOrKwargs>;

/// What was given to `of`, which is taken in the order of its parameters.
pub(super) struct Arguments<'a> {
    of: &'a str,
    positional: Vec<Value>,
    next: usize,
    named: Option<Kwargs>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(of: &'a str, given: &[Value]) -> Self {
        let (positional, named) = match given.split_last() {
            Some((last, rest)) if last.is_kwargs() => (rest, Kwargs::try_from(last.clone()).ok()),
            _ => (given, None),
        };
        Arguments { of, positional: positional.to_vec(), next: 0, named }
    }

    /// The next parameter, if it was given.
    pub(super) fn optional(&mut self, name: &str) -> Option<Value> {
        let by_position = self.positional.get(self.next).cloned();
        self.next += 1;
        by_position.or_else(|| self.named.as_ref().and_then(|named| named.get::<Value>(name).ok()))
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value, Error> {
        let of = self.of;
        self.optional(name).ok_or_else(|| invalid(format!("{of}: missing argument `{name}`")))
    }

    /// A string; None where it was not given or is none.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.optional(name).filter(|value| !value.is_none()) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(self.wrong(name, "a string", &value)),
            },
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, Error> {
        let value = self.required(name)?;
        value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(name, "a string", &value))
    }

    /// An integer; None where it was not given or is none.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, Error> {
        match self.optional(name).filter(|value| !value.is_none()) {
            None => Ok(None),
            Some(value) => integer(&value).map(Some).ok_or_else(|| self.wrong(name, "an integer", &value)),
        }
    }

    /// Whether the parameter is true; `default` where it was not given.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> bool {
        self.optional(name).map_or(default, |value| value.is_true())
    }

    /// All positions that were not taken.
    pub(super) fn rest(&mut self) -> Vec<Value> {
        let rest = self.positional.get(self.next..).unwrap_or_default().to_vec();
        self.next = self.positional.len();
        rest
    }

    /// The names given, with their values.
    pub(super) fn all_named(&self) -> Vec<(String, Value)> {
        let Some(named) = &self.named else { return Vec::new() };
        let names: Vec<String> = named.args().map(str::to_owned).collect();
        names.into_iter().filter_map(|name| named.get::<Value>(&name).ok().map(|value| (name.clone(), value))).collect()
    }

    /// Refuses arguments that were not asked for.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.next < self.positional.len() {
            let (most, found) = (self.next, self.positional.len());
            return Err(invalid(format!("{}: expected {most} arguments at most, found {found}", self.of)));
        }
        match &self.named {
            Some(named) => named.assert_all_used(),
            None => Ok(()),
        }
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> Error {
        invalid(format!("{}: `{name}`: expected {expected}, found {}", self.of, short(found)))
    }
}

/// A whole number, or a bool as Python counts it.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match bool::try_from(value.clone()) {
        Ok(flag) => Some(i64::from(flag)),
        Err(_) if value.is_integer() => value.as_i64(),
        Err(_) => None,
    }
}

/// An error of the template.
pub(super) fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// What is undefined, named as the engine does.
pub(super) fn undefined() -> Error {
    Error::from(ErrorKind::UndefinedError)
}

/// A value in an error message.
pub(super) fn short(value: &Value) -> String {
    if value.is_undefined() {
        return "an undefined value".into();
    }
    let text = if value.kind() == minijinja::value::ValueKind::Number { python_str(value) } else { python_repr(value) };
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
