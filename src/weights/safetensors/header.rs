//! The header of a safetensors file, read and checked whole.
//!
//! A file is an 8-byte little-endian length, a JSON header of that length, then the data. The header names each
//! tensor's dtype, shape and byte range, relative to the data. Ranges must cover the data without overlap or hole.

use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use crate::file_error::FileError;
use crate::weights::names::check_unique;
use crate::weights::read_mapped;

/// What helps when part of a file is not there.
pub(super) const IS_COMPLETE: &str = "is the download complete?";

/// Bytes that say what a file is and how long its header.
const START: usize = 64;

/// A longer header is no header: published models stay below 10 MB.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor as its file's header describes it; its range lies in the file and holds exactly its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Full name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

struct RawHeader(Vec<(String, RawEntry)>);

#[derive(Deserialize)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            // by hand, because a map type would keep the last of two tensors with one name and say nothing
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let value: serde_json::Value = map.next_value()?;
                    let entry = RawEntry::deserialize(value)
                        .map_err(|why| serde::de::Error::custom(format!("tensor `{name}`: {why}")))?;
                    entries.push((name, entry));
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Reads and checks the header of the safetensors file `bytes`, which are not touched where they are mapped. `path` is for
/// messages.
///
/// # Errors
/// A file that cannot be read, a header that is longer than the file or not JSON, a name that occurs twice, a range that is
/// not in the file, does not hold exactly the tensor's elements or overlaps another, and bytes that belong to no tensor.
pub(crate) fn read_header(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, FileError> {
    let file_bytes = bytes.len() as u64;
    let mut buffer = Vec::new();
    let start = read_mapped(&bytes[..bytes.len().min(START)], &mut buffer)?;
    if FileError::is_git_lfs(start) {
        return Err(FileError::git_lfs(path));
    }
    let bad_length = |expected: String, found: String| Err(FileError::new(path, "header", expected, found));
    let Some(length) = start.first_chunk::<8>() else {
        return bad_length("8 bytes of length".to_owned(), format!("a file of {file_bytes} bytes"));
    };
    let length = u64::from_le_bytes(*length);
    let most = (file_bytes - 8).min(MAX_HEADER);
    if length > most {
        let expected = format!("a length of at most {most} bytes in a file of {file_bytes} bytes");
        return bad_length(expected, format!("{length} bytes"));
    }
    let header_bytes = usize::try_from(length).expect("no longer than the bytes in memory");
    let header = read_mapped(&bytes[8..][..header_bytes], &mut buffer)?;
    let RawHeader(raw) = serde_json::from_slice(header).map_err(FileError::syntax(path, "header"))?;

    let data_start = 8 + length;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        entries.push(check_entry(path, name, &raw, data_start, file_bytes)?);
    }
    check_cover(path, &entries, data_start, file_bytes)?;
    Ok(entries)
}

fn check_entry(
    path: &Path,
    name: String,
    raw: &RawEntry,
    data_start: u64,
    file_bytes: u64,
) -> Result<Entry, FileError> {
    let fail = |expected: String, found: String| Err(FileError::new(path, format!("tensor `{name}`"), expected, found));
    let [begin, end] = raw.data_offsets;
    if begin > end {
        return fail("data_offsets in ascending order".to_owned(), format!("[{begin}, {end}]"));
    }
    let last = data_start.saturating_add(end);
    if last > file_bytes {
        let expected = format!("a file of at least {last} bytes");
        let error = FileError::new(path, format!("tensor `{name}`"), expected, format!("{file_bytes} bytes"));
        return Err(error.hint(IS_COMPLETE));
    }
    let bits = raw.shape.iter().try_fold(raw.dtype.bitsize() as u64, |n, &dim| n.checked_mul(dim));
    if bits != Some((end - begin) * 8) {
        let expected = match bits {
            Some(bits) if bits % 8 == 0 => {
                format!("{} bytes for {} {:?}", bits / 8, raw.dtype, raw.shape)
            }
            Some(bits) => format!("{bits} bits for {} {:?}", raw.dtype, raw.shape),
            None => format!("a size in 64 bits for {} {:?}", raw.dtype, raw.shape),
        };
        return fail(expected, format!("{} bytes (data_offsets [{begin}, {end}])", end - begin));
    }
    let mut shape = Vec::with_capacity(raw.shape.len());
    for &dim in &raw.shape {
        // only an empty tensor can have a dimension that memory cannot
        match usize::try_from(dim) {
            Ok(dim) => shape.push(dim),
            Err(_) => {
                return fail("dimensions that fit in memory".to_owned(), format!("{:?}", raw.shape));
            }
        }
    }
    let len = usize::try_from(end - begin).expect("no longer than the bytes in memory");
    Ok(Entry { name, dtype: raw.dtype, shape, offset: data_start + begin, len })
}

/// Names are unique, and ranges follow one another from the first byte of the data to the last of the file.
fn check_cover(path: &Path, entries: &[Entry], data_start: u64, file_bytes: u64) -> Result<(), FileError> {
    check_unique(path, entries.iter().map(|entry| entry.name.as_str()))?;
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_unstable_by_key(|entry| (entry.offset, entry.len));
    let hole = |from: u64, to: u64| {
        let found = format!("bytes {} to {} of it in none", from - data_start, to - data_start);
        Err(FileError::new(path, "", "tensors to cover the data", found))
    };
    let (mut covered, mut before) = (data_start, None);
    for entry in order {
        if entry.offset > covered {
            return hole(covered, entry.offset);
        }
        if entry.offset < covered {
            let expected = format!("data_offsets from {} on", covered - data_start);
            let found = format!("{}, which overlaps tensor `{}`", entry.offset - data_start, before.unwrap_or(""));
            return Err(FileError::new(path, format!("tensor `{}`", entry.name), expected, found));
        }
        covered = entry.offset + entry.len as u64;
        before = Some(entry.name.as_str());
    }
    if covered < file_bytes { hole(covered, file_bytes) } else { Ok(()) }
}
