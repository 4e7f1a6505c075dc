//! Metadata of a GGUF file: keys and values, with errors that name the file and the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::file_error::FileError;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    pub(super) fn of(number: u32) -> Option<Kind> {
        Kind::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Bytes of a value; 0 where values have no size of their own.
    pub(super) fn bytes(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::String | Kind::Array => 0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::U8 | Kind::I8 | Kind::U16 | Kind::I16 | Kind::U32 | Kind::I32 | Kind::U64 | Kind::I64 => {
                "whole numbers"
            }
            Kind::F32 | Kind::F64 => "numbers",
            Kind::Bool => "truth values",
            Kind::String => "texts",
            Kind::Array => "arrays",
        }
    }

    /// The number in `bytes`, which are as many as [`Kind::bytes`]; `None` where it is no whole number.
    fn whole(self, bytes: &[u8]) -> Option<i128> {
        let mut wide = [0; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Some(i128::from(unsigned)),
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => {
                Some(i128::from((unsigned << unused).cast_signed() >> unused))
            }
            Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array => None,
        }
    }

    /// The same as a number of any kind.
    fn number(self, bytes: &[u8]) -> Option<f64> {
        match self {
            Kind::F32 => Some(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
            Kind::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => self.whole(bytes).map(|whole| whole as f64),
        }
    }
}

/// A value as it lies in the file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    One(Kind, Bytes),
    Many(Array),
}

/// Values of one kind; those that are texts have their length in front, and all lie in the bytes.
#[derive(Clone, Debug)]
pub(super) struct Array {
    kind: Kind,
    count: u64,
    bytes: Bytes,
}

impl Array {
    pub(super) fn new(kind: Kind, count: u64, bytes: Bytes) -> Array {
        Array { kind, count, bytes }
    }

    /// The bytes of each value.
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        (0..self.count).map_while(move |_| {
            let len = match self.kind {
                Kind::String => {
                    let (length, after) = rest.split_first_chunk::<8>()?;
                    rest = after;
                    usize::try_from(u64::from_le_bytes(*length)).ok()?
                }
                kind => kind.bytes(),
            };
            let (value, after) = rest.split_at_checked(len)?;
            rest = after;
            Some(value)
        })
    }
}

/// The keys of a file.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Of the file at `path`, without keys.
    pub(super) fn new(path: &Path) -> Metadata {
        Metadata { path: path.to_owned(), values: BTreeMap::new() }
    }

    /// Whether the key was there before.
    pub(super) fn insert(&mut self, key: &str, value: Value) -> bool {
        self.values.insert(key.to_owned(), value).is_some()
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The keys that begin with `start`, sorted.
    pub(crate) fn keys_with(&self, start: &str) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str).filter(move |key| key.starts_with(start))
    }

    /// The error for a key that must be there.
    pub(crate) fn missing(&self, key: &str, expected: &str) -> FileError {
        FileError::missing(&self.path, format!("`{key}`"), expected)
    }

    /// The error for a key that should say something else.
    pub(crate) fn found(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> FileError {
        FileError::new(&self.path, format!("`{key}`"), expected, found)
    }

    /// The error for a key whose value is of another kind.
    fn other(&self, key: &str, expected: &str) -> FileError {
        let found = match self.values.get(key) {
            None => "nothing".to_owned(),
            Some(Value::Many(array)) => format!("an array of {} {}", array.count, array.kind.name()),
            Some(Value::One(Kind::String, bytes)) => {
                let text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
                format!("{text:?}")
            }
            Some(Value::One(Kind::Bool, bytes)) => (bytes.first() != Some(&0)).to_string(),
            Some(Value::One(kind, bytes)) => kind.number(bytes).unwrap_or(f64::NAN).to_string(),
        };
        self.found(key, expected, found)
    }

    fn one<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Kind, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::One(kind, bytes)) => read(*kind, bytes).map(Some).ok_or_else(|| self.other(key, expected)),
            Some(Value::Many(_)) => Err(self.other(key, expected)),
        }
    }

    fn many<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(Kind, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Many(array)) => {
                let values: Option<Vec<T>> = array.iter().map(|bytes| read(array.kind, bytes)).collect();
                values.map(Some).ok_or_else(|| self.other(key, expected))
            }
            Some(Value::One(..)) => Err(self.other(key, expected)),
        }
    }

    /// A count or a width, if it is there.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, FileError> {
        self.one(key, "a whole number from 0", |kind, bytes| usize::try_from(kind.whole(bytes)?).ok())
    }

    /// A number, if it is there.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, FileError> {
        self.one(key, "a number", Kind::number)
    }

    /// A truth value, if it is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.one(key, "true or false", |kind, bytes| (kind == Kind::Bool).then(|| bytes != [0]))
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, FileError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::One(Kind::String, bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(self.found(key, "text in UTF-8", error)),
            },
            Some(_) => Err(self.other(key, "a text")),
        }
    }

    /// Sizes, if they are there.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, FileError> {
        self.many(key, "an array of whole numbers from 0", |kind, bytes| usize::try_from(kind.whole(bytes)?).ok())
    }

    /// Truth values, if they are there.
    pub(crate) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, FileError> {
        let read = |kind: Kind, bytes: &[u8]| match kind {
            Kind::Bool => Some(bytes != [0]),
            _ => kind.whole(bytes).map(|value| value != 0),
        };
        self.many(key, "an array of truth values", read)
    }

    /// Texts, if they are there.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, FileError> {
        let array = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Many(array)) if array.kind == Kind::String => array,
            Some(_) => return Err(self.other(key, "an array of texts")),
        };
        let text = |(n, bytes)| {
            std::str::from_utf8(bytes).map_err(|error| self.found(&format!("{key}[{n}]"), "text in UTF-8", error))
        };
        array.iter().enumerate().map(text).collect::<Result<Vec<&str>, FileError>>().map(Some)
    }

    /// Whether the value of `key` is an array.
    pub(crate) fn is_array(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Many(_)))
    }
}
