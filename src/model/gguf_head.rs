//! What a GGUF file is, from its header alone: a machine may have dozens of them.

use std::io;
use std::path::{Path, PathBuf};

use super::{families, gguf};
use crate::file_error::FileError;
use crate::weights::gguf::Gguf;

/// A GGUF file, or the files of a model that is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufHead {
    /// What -m takes beside the name of the repository or in its folder: `Q4_K_M`.
    pub label: String,
    /// The file, the first of several.
    pub path: PathBuf,
    /// Bytes of all of them that are here.
    pub bytes: u64,
    /// What its header says.
    pub found: GgufFound,
}

/// What the header of a GGUF file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GgufFound {
    /// A model that is read: its architecture, and the type of most of its weights.
    Runs {
        /// `general.architecture`.
        architecture: String,
        /// Such as `Q4_K`.
        weights: &'static str,
    },
    /// A model that is not.
    Other {
        /// `general.architecture`, where there is one.
        architecture: String,
        /// Such as `Q4_K`.
        weights: &'static str,
    },
    /// A file that is missing, of several or behind a link.
    Partial,
    /// A file that cannot be read, with the reason.
    Broken(String),
}

impl GgufHead {
    /// The models among the GGUF files in `folder` and the folders in it.
    pub fn all_in(folder: &Path) -> Vec<GgufHead> {
        let head = |model: super::quantisations::Quantisation| {
            let paths: Vec<PathBuf> = model.files.iter().map(|file| gguf::path_in(folder, file)).collect();
            GgufHead::of(model.label, &paths)
        };
        gguf::models_in(folder).into_iter().map(head).collect()
    }

    /// That of one file.
    pub fn of_file(path: &Path) -> GgufHead {
        GgufHead::of(String::new(), &[path.to_owned()])
    }

    fn of(label: String, paths: &[PathBuf]) -> GgufHead {
        let bytes = paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|meta| meta.len()).sum();
        let path = paths[0].clone();
        GgufHead { label, bytes, found: look_at(&path), path }
    }

    /// What the model itself says that it is called.
    pub fn name_in(path: &Path) -> Option<String> {
        let gguf = Gguf::open(path).ok()?;
        let name = gguf.metadata().text("general.name").ok()??.trim().to_owned();
        Some(name).filter(|name| !name.is_empty())
    }
}

fn look_at(path: &Path) -> GgufFound {
    let gguf = match Gguf::open(path) {
        Ok(gguf) => gguf,
        Err(error) if error.is_missing() || is_absent(&error) => return GgufFound::Partial,
        Err(error) => return GgufFound::Broken(error.to_string().lines().next().unwrap_or_default().to_owned()),
    };
    let architecture = gguf.metadata().text("general.architecture").ok().flatten();
    let architecture: String = architecture.unwrap_or("no architecture").chars().take(40).collect();
    let (weights, computed) = gguf.most_bytes();
    let runs = || families::gguf_config(&gguf).is_ok_and(|config| families::read(path, &config.text).is_ok());
    match computed && runs() {
        true => GgufFound::Runs { architecture, weights },
        false => GgufFound::Other { architecture, weights },
    }
}

/// A link that leads nowhere.
fn is_absent(error: &FileError) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}
