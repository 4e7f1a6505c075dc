//! Safetensors files: one, or several with an index. Headers are checked whole when a file is opened; data is only
//! mapped, so opening reads no weights.
//!
mod header;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
pub use safetensors::Dtype;
use serde::Deserialize;

pub use header::{Entry, read_header};

/// What can be wrong with safetensors files.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The operating system's word.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder without weights.
    #[error(
        "{path}: expected model.safetensors.index.json or model.safetensors, found {found}",
        path = .path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What there is instead.
        found: String,
    },
    /// The index is not what it should be.
    #[error("{path}: expected a `weight_map` of tensors to files: {source}", path = .path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The index names a file outside of its folder.
    #[error("{path}: tensor `{tensor}`: expected a file in this folder, found {found:?}", path = .path.display())]
    OutsideFolder {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file named.
        found: String,
    },
    /// The index names a file that is not there.
    #[error(
        "{path}: missing, expected by {index} for tensor `{tensor}` ({missing} of {files} files are missing)\nhint: is \
         the download complete?",
        path = .path.display(), index = .index.display()
    )]
    MissingFile {
        /// The file that is not there.
        path: PathBuf,
        /// The index.
        index: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
        /// Files that are not there.
        missing: usize,
        /// Files that the index names.
        files: usize,
    },
    /// A file does not hold a tensor that the index places there.
    #[error("{path}: tensor `{tensor}`: expected in this file by {index}, found no such name", path = .path.display(),
        index = .index.display())]
    NotInFile {
        /// The file.
        path: PathBuf,
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The file ends before or inside its header.
    #[error("{path}: header: expected {expected}, found {found}", path = .path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// What the length should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The header is not the JSON it should be; the message names the tensor where there is one.
    #[error("{path}: header: {source}", path = .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A tensor's entry contradicts itself or another one.
    #[error("{path}: tensor `{tensor}`: expected {expected}, found {found}", path = .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor reaches past the end of the file.
    #[error(
        "{path}: tensor `{tensor}`: expected a file of at least {expected} bytes, found {found} bytes\nhint: is the \
         download complete?",
        path = .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The end of its bytes in the file.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// Bytes of the file belong to no tensor.
    #[error("{path}: expected tensors to cover the data, found bytes {begin} to {end} of it in none", path = .path.display())]
    Hole {
        /// The file.
        path: PathBuf,
        /// First byte, relative to the data.
        begin: u64,
        /// One past the last.
        end: u64,
    },
}

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
    /// The elements of an F32, F16 or BF16 tensor; `None` for any other dtype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Some(match self.dtype {
            Dtype::F32 => self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            _ => return None,
        })
    }
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
    pub fn open(dir: &Path) -> Result<TensorSet, SafetensorsError> {
        let index = dir.join("model.safetensors.index.json");
        if index.is_file() {
            return TensorSet::open_index(dir, &index);
        }
        let single = dir.join("model.safetensors");
        if single.exists() {
            let mut set = TensorSet::open_file(&single)?;
            dir.clone_into(&mut set.root);
            return Ok(set);
        }
        Err(SafetensorsError::NoWeights { path: dir.to_owned(), found: weights_in(dir) })
    }

    /// Opens one file.
    ///
    /// # Errors
    /// As [`TensorSet::open`].
    pub fn open_file(path: &Path) -> Result<TensorSet, SafetensorsError> {
        TensorSet::from_bytes(path, map(path)?)
    }

    /// Reads a file that is already in memory. `name` is for messages.
    ///
    /// # Errors
    /// A damaged header, as [`TensorSet::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Bytes) -> Result<TensorSet, SafetensorsError> {
        let path = name.into();
        let tensors = tensors(&path, 0, &bytes)?.collect();
        Ok(TensorSet { root: path.clone(), files: vec![path], tensors })
    }

    fn open_index(dir: &Path, index: &Path) -> Result<TensorSet, SafetensorsError> {
        let text = std::fs::read(index).map_err(|source| SafetensorsError::Io { path: index.to_owned(), source })?;
        let Index { weight_map } = serde_json::from_slice(&text)
            .map_err(|source| SafetensorsError::Index { path: index.to_owned(), source })?;

        // file name -> the tensors the index places there
        let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            if file.is_empty() || file.contains('\\') || !inside {
                let (path, tensor, found) = (index.to_owned(), tensor.clone(), file.clone());
                return Err(SafetensorsError::OutsideFolder { path, tensor, found });
            }
            by_file.entry(file).or_default().push(tensor);
        }
        let mut absent = by_file.iter().filter(|(file, _)| !dir.join(file).exists());
        if let Some((file, tensors)) = absent.next() {
            return Err(SafetensorsError::MissingFile {
                path: dir.join(file),
                index: index.to_owned(),
                tensor: tensors[0].to_owned(),
                missing: 1 + absent.count(),
                files: by_file.len(),
            });
        }

        let mut set = TensorSet { root: dir.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for (file, names) in by_file {
            let path = dir.join(file);
            let mut held: HashMap<String, Tensor> = tensors(&path, set.files.len(), &map(&path)?)?.collect();
            for name in names {
                let Some(found) = held.remove_entry(name) else {
                    let (index, tensor) = (index.to_owned(), name.to_owned());
                    return Err(SafetensorsError::NotInFile { path, index, tensor });
                };
                set.tensors.extend([found]);
            }
            set.files.push(path);
        }
        Ok(set)
    }

    /// The folder (or the one file) that was opened, for messages about tensors that are not there.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files that tensors lie in.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file that a tensor lies in.
    pub fn path_of(&self, tensor: &Tensor) -> &Path {
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
    pub fn names_with(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let from = self.tensors.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }
}

fn map(path: &Path) -> Result<Bytes, SafetensorsError> {
    let mapped =
        flashflood_backends::map_file(path).map_err(|source| SafetensorsError::Io { path: path.to_owned(), source })?;
    Ok(Bytes::from_owner(mapped))
}

fn tensors(
    path: &Path,
    file: usize,
    bytes: &Bytes,
) -> Result<impl Iterator<Item = (String, Tensor)> + use<>, SafetensorsError> {
    let entries = read_header(path, bytes)?;
    let bytes = bytes.clone();
    Ok(entries.into_iter().map(move |Entry { name, dtype, shape, offset, len }| {
        let start = usize::try_from(offset).expect("read_header checked that the range lies in the bytes");
        let bytes = bytes.slice(start..start + len);
        (name.clone(), Tensor { name, dtype, shape, file, offset, bytes })
    }))
}

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
        0 => "no weights at all\nhint: is the download complete?".to_owned(),
        1..=3 => names.join(", "),
        n => format!("{}, {} and {} others", names[0], names[1], n - 2),
    }
}

#[cfg(test)]
mod tests;
