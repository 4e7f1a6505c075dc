//! The header of a GGUF file, read and checked whole: version, metadata, and what it says of each tensor.
//!
//! ```text
//! "GGUF", version u32, tensors u64, keys u64
//! each key:     name, type u32, value
//! each tensor:  name, dimensions u32, each u64 (innermost first), ggml type u32, offset u64 from the data
//! padding to general.alignment, then the data
//! ```
//!
//! A string is its length u64 and its bytes. Everything is little-endian. What is mapped is read first, to a length that the
//! header turns out to have; arrays stay views of what was read.

use std::path::Path;

use bytes::Bytes;

use super::types::{self, GgmlType};
use super::value::{Array, Kind, Metadata, Value};
use crate::file_error::FileError;
use crate::weights::names::check_unique;
use crate::weights::{in_memory, is_mapped};

/// What helps when part of a file is not there.
pub(super) const IS_COMPLETE: &str = "is the download complete?";

/// Bytes of a mapped file that are read at first: small models have shorter headers.
const FIRST: usize = 1 << 20;

/// A longer header of a mapped file is no header: tokens and merges make up to 20 MB.
const MOST: usize = 1 << 30;

/// Most dimensions of a tensor, as in ggml.
const MOST_DIMENSIONS: usize = 4;

/// A tensor as its file's header describes it; it lies in the file and has exactly its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: GgmlType,
    /// Outermost dimension first, as the rest of the program has shapes; files have them the other way round.
    pub(super) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// A header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Entry>,
}

/// Reads and checks the header of the GGUF file `bytes`. `path` is for messages.
///
/// # Errors
/// A file that cannot be read, that is not GGUF of version 2 or 3 and little-endian, one that ends early, keys or tensors
/// that are there twice, and tensors that do not lie in the file, overlap, or do not have the bytes of their elements.
pub(super) fn read_header(path: &Path, bytes: &Bytes) -> Result<Header, FileError> {
    let mut len = if is_mapped(bytes) { bytes.len().min(FIRST) } else { bytes.len() };
    loop {
        let read = in_memory(&bytes.slice(..len))?;
        let mut cursor = Cursor { path, bytes: &read, file_bytes: bytes.len(), at: 0, lacks: None };
        let header = parse(&mut cursor);
        match cursor.lacks {
            None => return header,
            Some(end) if end > MOST => {
                let expected = format!("a header of at most {MOST} bytes");
                return Err(FileError::new(path, "header", expected, format!("one of at least {end} bytes")));
            }
            Some(end) => len = end.max(2 * len).min(bytes.len()),
        }
    }
}

fn parse(cursor: &mut Cursor<'_>) -> Result<Header, FileError> {
    let path = cursor.path;
    let [tensor_count, key_count] = preamble(cursor)?;
    let mut metadata = Metadata::new(path);
    for n in 0..key_count {
        let key = cursor.string(|| format!("the name of key {n} of {key_count}"))?;
        let value = cursor.value(&key)?;
        if metadata.insert(&key, value) {
            return Err(FileError::new(path, format!("`{key}`"), "one key of this name", "two"));
        }
    }
    let alignment = alignment(&metadata)?;
    let mut raw = Vec::new();
    for n in 0..tensor_count {
        raw.push(cursor.tensor(n, tensor_count)?);
    }
    let data = (cursor.at as u64).next_multiple_of(alignment);
    let entries = raw.into_iter().map(|raw| raw.check(path, data, alignment, cursor.file_bytes as u64));
    let tensors = entries.collect::<Result<Vec<Entry>, FileError>>()?;
    check_places(path, &tensors)?;
    Ok(Header { metadata, tensors })
}

/// What is in front of the keys: the numbers of tensors and keys.
fn preamble(cursor: &mut Cursor<'_>) -> Result<[u64; 2], FileError> {
    let path = cursor.path;
    let wrong = |found: String, hint: &str| {
        let error = FileError::new(path, "", "a GGUF file", found);
        Err(if hint.is_empty() { error } else { error.hint(hint) })
    };
    let bytes = cursor.bytes;
    if FileError::is_git_lfs(bytes) {
        return wrong("a git-lfs pointer".to_owned(), "git lfs pull fetches the file that it stands for");
    }
    match bytes.first_chunk::<4>() {
        None => return wrong(format!("{} bytes", bytes.len()), IS_COMPLETE),
        Some(b"GGUF") => {}
        Some(b"lmgg" | b"tjgg" | b"algg" | b"fmgg") => {
            return wrong("a file of ggml from before GGUF".to_owned(), "look for a newer file of this model");
        }
        Some(start) if start.iter().all(|byte| *byte == 0) => return wrong("zeros".to_owned(), IS_COMPLETE),
        Some(start) => return wrong(format!("a file that begins with {:?}", start.escape_ascii().to_string()), ""),
    }
    cursor.at = 4;
    let version = cursor.u32(|| "the version".to_owned())?;
    let refused =
        |found: String, hint: &str| Err(FileError::new(path, "version", "2 or 3, little-endian", found).hint(hint));
    match version {
        2 | 3 => {}
        0 | 1 => return refused(version.to_string(), "look for a newer file of this model"),
        _ if version.swap_bytes() < 1 << 16 => {
            return refused(
                format!("{}, big-endian", version.swap_bytes()),
                "gguf-convert-endian of the Python package gguf turns the bytes around",
            );
        }
        _ => return refused(version.to_string(), "a newer flashflood may read it"),
    }
    let counts = [cursor.u64(|| "the number of tensors".to_owned())?, cursor.u64(|| "the number of keys".to_owned())?];
    // the shortest tensor has 24 bytes, the shortest key 13
    for (count, least, what) in [(counts[0], 24, "tensors"), (counts[1], 13, "keys")] {
        let most = cursor.file_bytes as u64 / least;
        if count > most {
            let expected = format!("at most {most} in a file of {} bytes", cursor.file_bytes);
            return Err(FileError::new(path, format!("number of {what}"), expected, count));
        }
    }
    Ok(counts)
}

fn alignment(metadata: &Metadata) -> Result<u64, FileError> {
    let key = "general.alignment";
    let alignment = metadata.size(key)?.unwrap_or(32) as u64;
    match alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment) {
        true => Ok(alignment),
        false => Err(metadata.found(key, "a power of two from 8 to 1048576", alignment)),
    }
}

/// Names are unique, and no tensor begins before the one in front of it ends.
fn check_places(path: &Path, entries: &[Entry]) -> Result<(), FileError> {
    check_unique(path, entries.iter().map(|entry| entry.name.as_str()))?;
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_unstable_by_key(|entry| (entry.offset, entry.len));
    match order.windows(2).find(|pair| pair[0].offset + pair[0].len as u64 > pair[1].offset) {
        None => Ok(()),
        Some(pair) => {
            let end = pair[0].offset + pair[0].len as u64;
            let found = format!("{}, which overlaps tensor `{}`", pair[1].offset, pair[0].name);
            let place = format!("tensor `{}`", pair[1].name);
            Err(FileError::new(path, place, format!("a first byte from {end} on"), found))
        }
    }
}

/// A tensor of the header as it stands there.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl RawTensor {
    fn check(self, path: &Path, data: u64, alignment: u64, file_bytes: u64) -> Result<Entry, FileError> {
        let RawTensor { name, dims, kind, offset } = self;
        let wrong = |expected: String, found: String| FileError::new(path, format!("tensor `{name}`"), expected, found);
        let Some(kind) = types::known(kind) else {
            let found = format!("type {kind}");
            return Err(wrong("a type of ggml that this program knows".into(), found).hint("a newer flashflood may"));
        };
        let row = dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.block as u64) {
            let expected = format!("rows of whole blocks of {} elements ({})", kind.block, kind.name);
            return Err(wrong(expected, format!("rows of {row}")));
        }
        let elements = dims.iter().try_fold(1u64, |all, &dim| all.checked_mul(dim));
        let len = elements.and_then(|all| (all / kind.block as u64).checked_mul(kind.bytes as u64));
        let shape: Option<Vec<usize>> = dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
        let (Some(len), Some(shape)) = (len, shape) else {
            return Err(wrong("a size in 64 bits".to_owned(), format!("{} {dims:?}", kind.name)));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(format!("an offset that is a multiple of {alignment}"), offset.to_string()));
        }
        let first = data.saturating_add(offset);
        let last = first.saturating_add(len);
        if last > file_bytes {
            let error = wrong(format!("a file of at least {last} bytes"), format!("{file_bytes} bytes"));
            return Err(error.hint(IS_COMPLETE));
        }
        let len = usize::try_from(len).expect("no longer than the bytes in memory");
        Ok(Entry { name, kind, shape, offset: first, len })
    }
}

/// Reads one thing after the other.
struct Cursor<'a> {
    path: &'a Path,
    /// Of the file, the first ones.
    bytes: &'a Bytes,
    file_bytes: usize,
    at: usize,
    /// The end of what the file has and `bytes` do not, where that was wanted.
    lacks: Option<usize>,
}

impl Cursor<'_> {
    /// The next `count` bytes; `what` they are is for the message.
    fn take(&mut self, count: u64, what: impl FnOnce() -> String) -> Result<Bytes, FileError> {
        let left = self.file_bytes - self.at;
        let end = usize::try_from(count).ok().filter(|count| *count <= left).map(|count| self.at + count);
        match end {
            Some(end) if end <= self.bytes.len() => {
                let taken = self.bytes.slice(self.at..end);
                self.at = end;
                Ok(taken)
            }
            _ => {
                self.lacks = end;
                let place = format!("header, byte {}", self.at);
                let found = format!("{left} before the file ends");
                Err(FileError::new(self.path, place, format!("{count} bytes of {}", what()), found).hint(IS_COMPLETE))
            }
        }
    }

    fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], FileError> {
        let mut out = [0; N];
        out.copy_from_slice(&self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A name.
    fn string(&mut self, what: impl Fn() -> String) -> Result<String, FileError> {
        let at = self.at;
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        String::from_utf8(bytes.into()).map_err(|error| {
            FileError::new(self.path, format!("header, byte {at}"), format!("{} in UTF-8", what()), error.utf8_error())
        })
    }

    fn kind(&mut self, key: &str) -> Result<Kind, FileError> {
        let kind = self.u32(|| format!("the type of `{key}`"))?;
        Kind::of(kind)
            .ok_or_else(|| FileError::new(self.path, format!("`{key}`"), "a type from 0 to 12", format!("type {kind}")))
    }

    fn value(&mut self, key: &str) -> Result<Value, FileError> {
        let kind = self.kind(key)?;
        let what = || format!("the value of `{key}`");
        match kind {
            Kind::String => {
                let length = self.u64(what)?;
                Ok(Value::One(kind, self.take(length, what)?))
            }
            Kind::Array => self.values(key).map(Value::Many),
            _ => Ok(Value::One(kind, self.take(kind.bytes() as u64, what)?)),
        }
    }

    fn values(&mut self, key: &str) -> Result<Array, FileError> {
        let kind = self.kind(key)?;
        let what = || format!("the array `{key}`");
        let count = self.u64(what)?;
        let start = self.at;
        match kind {
            Kind::Array => {
                return Err(FileError::new(self.path, format!("`{key}`"), "numbers or texts", "an array of arrays"));
            }
            Kind::String => {
                // each has its length in front, so a count that the file does not hold ends this early
                for n in 0..count {
                    let what = || format!("text {n} of {count} of `{key}`");
                    let length = self.u64(what)?;
                    self.take(length, what)?;
                }
            }
            _ => {
                self.take(count.saturating_mul(kind.bytes() as u64), what)?;
            }
        }
        Ok(Array::new(kind, count, self.bytes.slice(start..self.at)))
    }

    fn tensor(&mut self, n: u64, of: u64) -> Result<RawTensor, FileError> {
        let name = self.string(|| format!("the name of tensor {n} of {of}"))?;
        let what = || format!("tensor `{name}`");
        let count = self.u32(what)? as usize;
        if count > MOST_DIMENSIONS {
            return Err(FileError::new(self.path, what(), format!("at most {MOST_DIMENSIONS} dimensions"), count));
        }
        let dims = (0..count).map(|_| self.u64(what)).collect::<Result<Vec<u64>, FileError>>()?;
        let (kind, offset) = (self.u32(what)?, self.u64(what)?);
        Ok(RawTensor { name, dims, kind, offset })
    }
}
