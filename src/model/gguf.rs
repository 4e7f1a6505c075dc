//! Opens the model in a GGUF file: its keys become a `config.json`, and the families read that.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::families::{self, GgufConfig, Model};
use super::gguf_text;
use super::text_files::TextFiles;
use crate::file_error::FileError;
use crate::weights::gguf::{Gguf, GgufSource, is_later_part, of_name};

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

/// The GGUF file in `folder`, or in a folder in it, whose name ends with `quant`, as in `NAME-Q4_K_M.gguf`: of a model that
/// is split its first part.
///
/// # Errors
/// No such file, with the names that there are.
pub fn gguf_of(folder: &Path, quant: &str) -> Result<PathBuf, FileError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = models_in(folder);
    all.extend(entries.filter(|path| path.is_dir()).flat_map(|path| models_in(&path)));
    // without the number of a part
    let stem = |path: &Path| match of_name(path) {
        Some((stem, ..)) => stem.to_owned(),
        None => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let mut named: Vec<(String, &PathBuf)> = all.iter().map(|path| (stem(path), path)).collect();
    named.sort();
    let wanted = quant.to_ascii_lowercase();
    let is_wanted = |stem: &str| {
        let rest = stem.to_ascii_lowercase().strip_suffix(&wanted).map(str::to_owned);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
    };
    match named.iter().filter(|(stem, _)| is_wanted(stem)).min_by_key(|(stem, _)| stem.len()) {
        Some((_, path)) => Ok((*path).clone()),
        None => {
            let found = named.iter().map(|(stem, _)| stem.as_str()).collect::<Vec<_>>().join(", ");
            let found = if found.is_empty() { "no GGUF file in it".to_owned() } else { found };
            Err(FileError::new(folder, "", format!("a GGUF file whose name ends with {quant}"), found))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn the_file_of_a_quantisation() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::create_dir(place("UD-Q4_K_XL")).unwrap();
        let names = [
            "M-Q4_K_M.gguf",
            "M-Q4_K.gguf",
            "M-UD-Q8_0.gguf",
            "mmproj-Q8_0.gguf",
            "UD-Q4_K_XL/M-UD-Q4_K_XL-00001-of-00002.gguf",
            "UD-Q4_K_XL/M-UD-Q4_K_XL-00002-of-00002.gguf",
        ];
        names.iter().for_each(|name| std::fs::write(place(name), "").unwrap());
        for (quant, name) in [("Q4_K_M", names[0]), ("q4_k", names[1]), ("Q8_0", names[2]), ("UD-Q4_K_XL", names[4])] {
            assert_eq!(gguf_of(folder.path(), quant).unwrap(), place(name), "{quant}");
        }
        let error = gguf_of(folder.path(), "Q5_K_M").unwrap_err().to_string();
        assert!(["M-Q4_K_M", "M-UD-Q8_0", "M-UD-Q4_K_XL"].iter().all(|name| error.contains(name)), "{error}");
        assert!(gguf_of(&place("UD-Q4_K_XL/nowhere"), "Q8_0").unwrap_err().to_string().contains("no GGUF file in"));
    }
}
