//! Safetensors files: one, or several with an index. Headers are checked whole when a file is opened; data is only
//! mapped, so opening reads no weights.

mod header;
mod parts;

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
pub use safetensors::Dtype;
use serde::Deserialize;

use header::IS_COMPLETE;
pub(crate) use header::{Entry, read_header};

use crate::file_error::FileError;
use crate::weights::{file_bytes, in_memory, is_streamed};
use flashflood_formats::Dense;

/// A tensor of a [`TensorSet`].
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Full name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Index into [`TensorSet::files`].
    pub file: usize,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// A view of the elements, little-endian, at any alignment. Nothing is read before it is touched.
    pub bytes: Bytes,
}

impl Tensor {
    /// Its numbers' format; `None` when they are no floats of a kind that is computed with.
    pub(crate) fn dense(&self) -> Option<Dense> {
        Dense::of(self.dtype)
    }

    /// The elements of an F32, F16 or BF16 tensor; `None` for any other dtype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        Some(numbers(self.dense()?, &self.bytes))
    }

    /// The same, read from its file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read_f32(&self) -> Result<Option<Vec<f32>>, FileError> {
        self.dense().map(|dense| Ok(numbers(dense, &in_memory(&self.bytes)?))).transpose()
    }
}

fn numbers(dense: Dense, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dense.bytes()];
    dense.unpack(bytes, &mut values);
    values
}

/// The tensors of a snapshot, wherever they lie.
#[derive(Clone, Debug)]
pub struct TensorSet {
    root: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Index {
    // "metadata" is left alone: its total_size is an integer in some files and a float in others
    weight_map: BTreeMap<String, String>,
}

impl TensorSet {
    /// Opens the folder `dir`: the files that `model.safetensors.index.json` names, or `model.safetensors`. Each file is
    /// mapped once; tensors that the index does not name are left out.
    ///
    /// # Errors
    /// Missing, truncated or damaged files; each names the file, the tensor, what was expected and what was found.
    pub(crate) fn open(dir: &Path) -> Result<TensorSet, FileError> {
        let index = dir.join("model.safetensors.index.json");
        if index.is_file() {
            return TensorSet::open_index(dir, &index);
        }
        if let Some(files) = parts::unnamed(dir)? {
            return TensorSet::open_files(dir, files);
        }
        let found = weights_in(dir);
        let error = FileError::new(dir, "", "model.safetensors.index.json or model.safetensors", &found);
        Err(if found == NO_WEIGHTS { error.hint(IS_COMPLETE) } else { error })
    }

    /// Opens one file.
    ///
    /// # Errors
    /// As [`TensorSet::open`].
    pub fn open_file(path: &Path) -> Result<TensorSet, FileError> {
        TensorSet::from_bytes(path, map(path)?)
    }

    /// Reads a file that is already in memory. `name` is for messages.
    ///
    /// # Errors
    /// A damaged header, as [`TensorSet::open`].
    pub(crate) fn from_bytes(name: impl Into<PathBuf>, bytes: Bytes) -> Result<TensorSet, FileError> {
        let path = name.into();
        let tensors = tensors(&path, 0, &bytes)?.collect();
        Ok(TensorSet { root: path.clone(), files: vec![path], tensors })
    }

    /// Every tensor of `files`.
    fn open_files(dir: &Path, files: Vec<PathBuf>) -> Result<TensorSet, FileError> {
        let mut set = TensorSet { root: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in files {
            for (name, tensor) in tensors(&path, set.files.len(), &map(&path)?)? {
                if let Some(other) = set.tensors.insert(name.clone(), tensor) {
                    let found = format!("it in {} too", set.files[other.file].display());
                    return Err(FileError::new(
                        &path,
                        format!("tensor `{name}`"),
                        "a tensor of this file alone",
                        found,
                    ));
                }
            }
            set.files.push(path);
        }
        Ok(set)
    }

    fn open_index(dir: &Path, index: &Path) -> Result<TensorSet, FileError> {
        let text = std::fs::read(index).map_err(FileError::io("read", index))?;
        let Index { weight_map } = serde_json::from_slice(&text)
            .map_err(FileError::syntax(index, "expected a `weight_map` of tensors to files"))?;

        // file name -> the tensors the index places there
        let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            if file.is_empty() || file.contains('\\') || !inside {
                let found = format!("{file:?}");
                return Err(FileError::new(index, format!("tensor `{tensor}`"), "a file in this folder", found));
            }
            by_file.entry(file).or_default().push(tensor);
        }
        // the index of another release of the model, such as the one that this was quantised from, names none of them
        let is_other = by_file.keys().all(|file| !dir.join(file).exists());
        if let Some(files) = if is_other { parts::unnamed(dir)? } else { None } {
            tracing::warn!("{} names no file that is there: all tensors are taken", index.display());
            return TensorSet::open_files(dir, files);
        }
        let mut absent = by_file.iter().filter(|(file, _)| !dir.join(file).exists());
        if let Some((file, tensors)) = absent.next() {
            let (missing, files) = (1 + absent.count(), by_file.len());
            let expected =
                format!("by {} for tensor `{}` ({missing} of {files} files are missing)", index.display(), tensors[0]);
            return Err(FileError::missing(&dir.join(file), "", expected).hint(IS_COMPLETE));
        }

        let mut set = TensorSet { root: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for (file, names) in by_file {
            let path = dir.join(file);
            let mut held: HashMap<String, Tensor> = tensors(&path, set.files.len(), &map(&path)?)?.collect();
            for name in names {
                let Some(found) = held.remove_entry(name) else {
                    let expected = format!("it in this file, as {} says", index.display());
                    return Err(FileError::new(&path, format!("tensor `{name}`"), expected, "no such name"));
                };
                set.tensors.extend([found]);
            }
            set.files.push(path);
        }
        Ok(set)
    }

    /// The folder (or the one file) that was opened, for messages about tensors that are not there.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The files that tensors lie in.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file that a tensor lies in.
    pub(crate) fn path_of(&self, tensor: &Tensor) -> &Path {
        &self.files[tensor.file]
    }

    /// A tensor by its full name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + '_ {
        self.tensors.keys().map(String::as_str)
    }

    /// The names that start with `prefix`, sorted.
    pub(crate) fn names_with(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let from = self.tensors.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }
}

/// Bytes of the length of the header, which a file begins with.
const LENGTH: u64 = 8;

fn map(path: &Path) -> Result<Bytes, FileError> {
    file_bytes(path, LENGTH, |bytes| {
        let Some(length) = bytes.first_chunk::<8>() else { return Vec::new() };
        let start = LENGTH.saturating_add(u64::from_le_bytes(*length));
        let header = std::iter::once(0..start);
        // none before the header is there; what is wrong with it shows when it is read again
        let entries = read_header(path, bytes).unwrap_or_default();
        let resident = entries.iter().filter(|entry| !is_streamed(&entry.name, entry.len as u64));
        header.chain(resident.map(|entry| entry.offset..entry.offset + entry.len as u64)).collect()
    })
}

fn tensors(
    path: &Path,
    file: usize,
    bytes: &Bytes,
) -> Result<impl Iterator<Item = (String, Tensor)> + use<>, FileError> {
    let entries = read_header(path, bytes)?;
    let bytes = bytes.clone();
    Ok(entries.into_iter().map(move |Entry { name, dtype, shape, offset, len }| {
        let start = usize::try_from(offset).expect("read_header checked that the range lies in the bytes");
        let bytes = bytes.slice(start..start + len);
        (name.clone(), Tensor { name, dtype, shape, file, offset, bytes })
    }))
}

const NO_WEIGHTS: &str = "no weights at all";

/// Names the weight files of other kinds that a folder holds, for the error about those that are missing.
fn weights_in(dir: &Path) -> String {
    let ending = |name: &str| [".safetensors", ".gguf", ".bin", ".pt"].iter().any(|end| name.ends_with(end));
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| ending(name))
        .collect();
    names.sort();
    match names.len() {
        0 => NO_WEIGHTS.to_owned(),
        1..=3 => names.join(", "),
        n => format!("{}, {} and {} others", names[0], names[1], n - 2),
    }
}

#[cfg(test)]
mod tests;
