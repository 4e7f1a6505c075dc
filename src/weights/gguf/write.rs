//! Writes GGUF files: the header, then one tensor after the other as their bytes are made, so that a file of any size
//! takes no more memory than its header.

use std::io::{self, Write};

use super::types::GgmlType;

/// Where tensors begin: a multiple of this.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    U32(u32),
    F32(f32),
    Flag(bool),
    Text(String),
    I32s(Vec<i32>),
    Texts(Vec<String>),
}

/// A tensor to write.
pub(super) struct Planned {
    pub(super) name: String,
    /// Innermost first, as files have them.
    pub(super) dims: Vec<u64>,
    pub(super) kind: GgmlType,
}

impl Planned {
    pub(super) fn bytes(&self) -> u64 {
        self.dims.iter().product::<u64>() / self.kind.block as u64 * self.kind.bytes as u64
    }
}

/// The header of a file with these keys and tensors, up to the data.
pub(super) fn header<'a>(
    keys: &[(String, Entry)],
    tensors: impl ExactSizeIterator<Item = &'a Planned> + Clone,
) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, entry) in keys {
        put_text(key, &mut out);
        entry.put(&mut out);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&tensor.name, &mut out);
        let count = u32::try_from(tensor.dims.len()).expect("a tensor has at most 4 dimensions");
        out.extend(count.to_le_bytes());
        tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(tensor.kind.id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    let end = (out.len() as u64).next_multiple_of(ALIGNMENT);
    out.resize(usize::try_from(end).expect("a header is in memory"), 0);
    out
}

/// Fills up behind a tensor of `bytes` bytes.
pub(super) fn pad(bytes: u64, out: &mut dyn Write) -> io::Result<u64> {
    let rest = bytes.next_multiple_of(ALIGNMENT) - bytes;
    out.write_all(&[0; ALIGNMENT as usize][..usize::try_from(rest).expect("less than the alignment")])?;
    Ok(rest)
}

impl Entry {
    fn put(&self, out: &mut Vec<u8>) {
        // the numbers of types in files; 9 is a list, with the type of its entries and their number
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        let list = |out: &mut Vec<u8>, of: u32, count: usize| {
            kind(out, 9);
            kind(out, of);
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Entry::U32(value) => {
                kind(out, 4);
                out.extend(value.to_le_bytes());
            }
            Entry::F32(value) => {
                kind(out, 6);
                out.extend(value.to_le_bytes());
            }
            Entry::Flag(value) => {
                kind(out, 7);
                out.push(u8::from(*value));
            }
            Entry::Text(text) => {
                kind(out, 8);
                put_text(text, out);
            }
            Entry::I32s(values) => {
                list(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Entry::Texts(texts) => {
                list(out, 8, texts.len());
                texts.iter().for_each(|text| put_text(text, out));
            }
        }
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
