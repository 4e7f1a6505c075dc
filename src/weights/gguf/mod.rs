//! GGUF files as a source of weights: one, or a model split over several. Headers are checked whole when a file is
//! opened; data is only mapped, so opening reads no weights.
//!
//! What GGUF does differently from snapshots ends here: names and order of dimensions, decays that are stored as
//! `-exp(A_log)`, rows that are turned for another form of rotary positions, projections that some files keep as one.

mod experts;
mod header;
mod names;
mod random;
mod source;
mod split;
mod types;
mod value;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::file_error::FileError;
use crate::weights::{file_bytes, is_streamed};
use flashflood_formats::WeightFormat;
use header::{Entry, Header, read_header};
use types::GgmlType;

pub(crate) use names::GgufNames;
pub use random::RandomGguf;
pub(crate) use source::GgufSource;
pub(crate) use split::of_name;
pub(crate) use types::{computed_with, named};
pub(crate) use value::Metadata;
pub(crate) use write::Entry as Written;

/// The files, metadata and tensors of a model.
pub(crate) struct Gguf {
    files: Vec<PathBuf>,
    metadata: Metadata,
    tensors: BTreeMap<String, Tensor>,
}

/// A tensor of a [`Gguf`].
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Full name.
    name: String,
    /// Type of the elements.
    kind: GgmlType,
    /// Outermost dimension first.
    shape: Vec<usize>,
    /// Index into the files.
    file: usize,
    /// First byte, from the start of the file.
    offset: u64,
    /// A view of the elements. Nothing is read before it is touched.
    bytes: Bytes,
}

impl Tensor {
    /// Its shape without dimensions of 1 in front: GGUF files leave them out or not, as they like.
    fn plain_shape(&self) -> &[usize] {
        plain(&self.shape)
    }

    /// How its rows are stored; `None` where that is not computed with.
    fn format(&self) -> Option<WeightFormat> {
        WeightFormat::from_ggml(self.kind.id)
    }
}

/// A shape without the dimensions of 1 in front.
fn plain(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|dim| **dim == 1).count();
    &shape[ones..]
}

impl Gguf {
    /// Opens the model whose file, or one of whose files, is at `path`.
    ///
    /// # Errors
    /// Missing, truncated or damaged files; each names the file, the key or tensor, what was expected and what was found.
    pub(crate) fn open(path: &Path) -> Result<Gguf, FileError> {
        let first = map(path)?;
        let header = read_header(path, &first)?;
        let parts = split::parts(path, &header.metadata)?;
        if parts.len() <= 1 {
            return Gguf::of_parts(vec![(path.to_owned(), first, header)]);
        }
        let mut opened = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes = map(&part)?;
            let header = read_header(&part, &bytes)?;
            opened.push((part, bytes, header));
        }
        split::check(opened.iter().map(|(_, _, header)| header))?;
        Gguf::of_parts(opened)
    }

    /// The first part's metadata is that of the model.
    fn of_parts(parts: Vec<(PathBuf, Bytes, Header)>) -> Result<Gguf, FileError> {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut metadata = None;
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for (file, (path, bytes, header)) in parts.into_iter().enumerate() {
            for Entry { name, kind, shape, offset, len } in header.tensors {
                let start = usize::try_from(offset).expect("read_header checked that the tensor lies in the bytes");
                let bytes = bytes.slice(start..start + len);
                let tensor = Tensor { name: name.clone(), kind, shape, file, offset, bytes };
                if let Some(other) = tensors.insert(name.clone(), tensor) {
                    let found = format!("another in {}", files[other.file].display());
                    return Err(FileError::new(&path, format!("tensor `{name}`"), "one tensor of this name", found));
                }
            }
            files.push(path);
            metadata.get_or_insert(header.metadata);
        }
        let metadata = metadata.expect("a model has a file");
        Ok(Gguf { files, metadata, tensors })
    }

    /// The keys of the model.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The (first) file, for messages about what is not there.
    pub(crate) fn root(&self) -> &Path {
        self.metadata.path()
    }

    fn path_of(&self, tensor: &Tensor) -> &Path {
        &self.files[tensor.file]
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The type that has most of the bytes, and whether it is computed with.
    pub(crate) fn most_bytes(&self) -> (&'static str, bool) {
        let mut bytes: BTreeMap<u32, (u64, &Tensor)> = BTreeMap::new();
        for tensor in self.tensors.values() {
            bytes.entry(tensor.kind.id).or_insert((0, tensor)).0 += tensor.bytes.len() as u64;
        }
        let most = bytes.values().max_by_key(|(bytes, _)| bytes);
        most.map_or(("", false), |(_, tensor)| (tensor.kind.name, tensor.format().is_some()))
    }

    /// The shape of a tensor, outermost dimension first.
    pub(crate) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|tensor| &tensor.shape[..])
    }
}

/// Longer than any header: tokens and merges make up to 20 MB.
const HEADER: u64 = 64 << 20;

fn map(path: &Path) -> Result<Bytes, FileError> {
    file_bytes(path, HEADER, |bytes| {
        // what is wrong with it shows when it is read again
        let tensors = read_header(path, bytes).map(|header| header.tensors).unwrap_or_default();
        let start = tensors.iter().map(|entry| entry.offset).min().unwrap_or(0);
        let resident = tensors.iter().filter(|entry| !is_streamed(&entry.name, entry.len as u64));
        let header = (start > 0).then_some(0..start);
        header.into_iter().chain(resident.map(|entry| entry.offset..entry.offset + entry.len as u64)).collect()
    })
}

#[cfg(test)]
mod tests;
