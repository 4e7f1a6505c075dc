//! Typed access to the keys of a JSON object, with errors that name the file and the key's full path.

use std::path::Path;

use serde_json::{Map, Value};

use crate::file_error::FileError;

/// An object of a JSON file.
#[derive(Clone)]
pub(crate) struct Keys<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
    /// Names of the objects around, each with its dot.
    prefix: String,
}

/// The text of a JSON file; `path` is for messages.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Value, FileError> {
    serde_json::from_str(text).map_err(FileError::syntax(path, "not valid JSON"))
}

/// A value as it stands in messages, cut to a line.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl<'a> Keys<'a> {
    /// The outermost object.
    pub(crate) fn root(path: &'a Path, value: &'a Value) -> Result<Self, FileError> {
        match value {
            Value::Object(map) => Ok(Keys { path, map, prefix: String::new() }),
            other => Err(FileError::new(path, "`(root)`", "an object", shown(other))),
        }
    }

    /// `key` with the objects around it.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Keys and values, in file order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// `null` counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and not `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The error for an absent key.
    pub(crate) fn missing(&self, key: &str, expected: &str) -> FileError {
        FileError::missing(self.path, format!("`{}`", self.name(key)), expected)
    }

    /// The error for a present key that should hold something else.
    pub(crate) fn value(&self, key: &str, expected: &str) -> FileError {
        self.found(key, expected, self.map.get(key).map_or_else(|| "nothing".to_owned(), shown))
    }

    /// The error for a key from which something else follows than should.
    pub(crate) fn found(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> FileError {
        FileError::new(self.path, format!("`{}`", self.name(key)), expected, found)
    }

    /// A count or a width, which must be there.
    pub(crate) fn size(&self, key: &str) -> Result<usize, FileError> {
        let expected = "a whole number";
        let value = self.get(key).ok_or_else(|| self.missing(key, expected))?;
        // some writers make 4 a 4.0
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and exact in an f64")]
        let whole = |n: f64| ((0.0..=9e15).contains(&n) && n.fract() == 0.0).then_some(n as u64);
        let found = value.as_u64().or_else(|| value.as_f64().and_then(whole));
        found.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.value(key, expected))
    }

    /// A number, which must be there.
    pub(crate) fn number(&self, key: &str) -> Result<f64, FileError> {
        let expected = "a number";
        let value = self.get(key).ok_or_else(|| self.missing(key, expected))?;
        value.as_f64().ok_or_else(|| self.value(key, expected))
    }

    /// A string, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, FileError> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.value(key, "a string"))).transpose()
    }

    /// A boolean, if it is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.value(key, "true or false"))).transpose()
    }

    /// A list, if it is there.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a Vec<Value>>, FileError> {
        self.get(key).map(|v| v.as_array().ok_or_else(|| self.value(key, "a list"))).transpose()
    }

    /// An object, if it is there.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>, FileError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let map = value.as_object().ok_or_else(|| self.value(key, "an object"))?;
        Ok(Some(Keys { path: self.path, map, prefix: format!("{}{key}.", self.prefix) }))
    }
}
