//! Opens the model in a GGUF file: its keys become a `config.json`, and the families read that.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::families::{self, GgufConfig, Model};
use super::gguf_text;
use super::quantisations::{Quantisation, labels, of_label, quantisations};
use super::text_files::TextFiles;
use crate::file_error::FileError;
use crate::weights::gguf::{Gguf, GgufSource};

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

/// How deep files lie in the folder of a repository: in `UD-Q4_K_XL/`, seldom a folder further down.
const DEPTH: usize = 2;

/// The models among the GGUF files of the folder `dir` and of the folders in it.
pub(crate) fn models_in(dir: &Path) -> Vec<Quantisation> {
    let mut names = Vec::new();
    list(dir, "", DEPTH, &mut names);
    quantisations(names.iter().map(String::as_str))
}

/// Names of the GGUF files in `dir`, with `/`, behind `start`.
fn list(dir: &Path, start: &str, depth: usize, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = format!("{start}{}", entry.file_name().to_string_lossy());
        if is_called_gguf(&path) {
            names.push(name);
        } else if depth > 0 && path.is_dir() {
            list(&path, &format!("{name}/"), depth - 1, names);
        }
    }
}

/// Where the file `name`, with `/`, lies in `folder`.
pub(super) fn path_in(folder: &Path, name: &str) -> PathBuf {
    name.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}

/// The GGUF file in `folder`, or in a folder in it, that `quant` means: its name, or that of its folder, ends with it, as
/// in `NAME-Q4_K_M.gguf`. Of a model that is split it is the first part.
///
/// # Errors
/// No such file, with the quantisations that there are.
pub fn gguf_of(folder: &Path, quant: &str) -> Result<PathBuf, FileError> {
    let models = models_in(folder);
    match of_label(&models, quant) {
        Some(model) => Ok(path_in(folder, &model.files[0])),
        None => {
            let found = if models.is_empty() { "no GGUF file in it".to_owned() } else { labels(&models) };
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
        assert!(["Q4_K_M", "UD-Q8_0", "UD-Q4_K_XL"].iter().all(|name| error.contains(name)), "{error}");
        assert!(gguf_of(&place("UD-Q4_K_XL/nowhere"), "Q8_0").unwrap_err().to_string().contains("no GGUF file in"));
    }
}
