//! Opens the model in a GGUF file: its keys become a `config.json`, and the families read that.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::families::{self, GgufConfig, Model};
use super::gguf_text;
use super::text_files::TextFiles;
use crate::file_error::FileError;
use crate::weights::gguf::{Gguf, GgufSource, is_later_part};

/// A model in a GGUF file.
pub(super) struct GgufModel {
    /// The text of its `config.json`.
    pub(super) config: String,
    /// What it computes.
    pub(super) model: Box<dyn Model>,
    /// Its weights.
    pub(super) weights: GgufSource,
    /// What the text layer reads.
    pub(super) text_files: TextFiles,
}

/// Opens the model whose file, or one of whose files, is at `path`.
///
/// # Errors
/// A file that is damaged, of an architecture of no family, or of a model that is not computed.
pub(super) fn open(path: &Path) -> Result<GgufModel, FileError> {
    let gguf = Gguf::open(path)?;
    let config = families::gguf_config(&gguf)?;
    let model = read(gguf.root(), &config)?;
    let text_files = gguf_text::text_files(gguf.metadata())?;
    let weights = GgufSource::new(gguf, model.gguf_names(), model.shape().layers.len())?;
    Ok(GgufModel { config: config.text, model, weights, text_files })
}

fn read(path: &Path, config: &GgufConfig) -> Result<Box<dyn Model>, FileError> {
    families::read(path, &config.text).map_err(|error| config.in_file(error))
}

/// Whether the file at `path` is one to be read as GGUF: by its name or, as files in stores of models have no ending, by
/// its first bytes.
pub(super) fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut start = [0; 4];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"GGUF"
    };
    path.is_file() && (is_called_gguf(path) || begins())
}

fn is_called_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The models among the GGUF files of the folder `dir`: a split model by its first file, and no vision encoders.
pub(super) fn models_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_encoder = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("mmproj"));
    let is_model = |path: &PathBuf| is_called_gguf(path) && !is_later_part(path) && !is_encoder(path);
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_model).collect();
    models.sort();
    models
}
