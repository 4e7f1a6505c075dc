//! Opens a model wherever it lies: a Hugging Face snapshot (BF16/F16/F32 or MLX affine), a pack, the embedded model.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::experts::ExpertLayout;
use crate::formats::pack::{self, Pack, PackError};
use crate::formats::safetensors::{SafetensorsError, TensorSet};
use crate::model::bind::{BindError, Bound, bind};
use crate::model::config::ConfigError;
use crate::model::quantization::Quantization;
use crate::model::{Config, ModelWeights, embedded};

/// A model on disk (or embedded), opened and checked: shapes, dtypes and offsets all agree with the config.
pub struct ModelSource {
    /// The folder.
    pub root: PathBuf,
    /// Shapes and constants.
    pub config: Config,
    /// Resident weights, as views.
    pub weights: ModelWeights,
    /// Where the routed experts lie.
    pub experts: ExpertLayout,
    /// What the text layer reads.
    pub text_files: TextFiles,
}

/// The contents of the files that come with the weights; `None` where a model has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// `chat_template.jinja`, or the default `chat_template` of `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<String>,
    /// `generation_config.json`.
    pub generation_config: Option<String>,
}

/// What can be wrong with a model's folder.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not a folder with a model in it.
    #[error("{path}: expected a folder with a model, found {found}", path = .path.display())]
    NoModel {
        /// As given.
        path: PathBuf,
        /// What is there, with a hint where there is one.
        found: String,
    },
    /// A folder that cannot hold layers of the model.
    #[error("{path}: {}", if *.is_pack {
        "expected a folder with layers of the pack in experts/ (hint: move some of the pack's experts/layer-NNN.bin there)"
    } else {
        "only a pack's layers can lie on several disks (hint: flashflood pack makes one)"
    }, path = .path.display())]
    Stripe {
        /// The folder.
        path: PathBuf,
        /// Whether the model is a pack.
        is_pack: bool,
    },
    /// A file that is there cannot be read.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `tokenizer_config.json` holds something else than it should.
    #[error("{path}: expected {expected}: {source}", path = .path.display())]
    TokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weight files.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// The tensors in them.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A pack.
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl ModelSource {
    /// Opens the folder `path`: a pack when it holds a `manifest.json`, otherwise a snapshot with a `config.json`.
    /// Weights are mapped and not read, apart from norms and scales.
    ///
    /// # Errors
    /// Whatever is missing, damaged or not supported, with the file, the tensor or key, and what was expected and found.
    pub fn open(path: &Path) -> Result<ModelSource, SourceError> {
        Self::open_striped(path, &[])
    }

    /// As [`open`](Self::open), of a pack of which some layers' files lie in the same places of other folders, so that
    /// several disks read at once.
    ///
    /// # Errors
    /// As [`open`](Self::open); a stripe that is no folder, and stripes of a model that is not a pack.
    pub fn open_striped(path: &Path, stripes: &[PathBuf]) -> Result<ModelSource, SourceError> {
        refuse_no_folder(path)?;
        let is_pack = path.join("manifest.json").is_file();
        for stripe in stripes {
            if !is_pack || !stripe.join("experts").is_dir() {
                return Err(SourceError::Stripe { path: stripe.clone(), is_pack });
            }
        }
        if is_pack {
            return Ok(ModelSource::from_pack(path, pack::open_striped(path, stripes)?, TextFiles::read(path)?));
        }
        let config_path = path.join("config.json");
        let Some(text) = read_text(&config_path)? else {
            return Err(SourceError::NoModel { path: path.to_owned(), found: instead_of_config(path) });
        };
        let mut config = Config::from_json(&config_path, &text)?;
        let quantization = Quantization::from_json(&config_path, &text)?;
        let tensors = TensorSet::open(path)?;
        let Bound { weights, experts, tied_embeddings } = bind(&tensors, &config, quantization.as_ref())?;
        config.tied_embeddings = tied_embeddings;
        let text_files = TextFiles::read(path)?;
        Ok(ModelSource { root: path.to_owned(), config, weights, experts, text_files })
    }

    /// Opens the small model that is part of this program.
    ///
    /// # Errors
    /// None, unless the program was built from damaged files.
    pub fn embedded() -> Result<ModelSource, SourceError> {
        let pack = pack::open_embedded(embedded::MANIFEST, embedded::RESIDENT, &embedded::LAYERS)?;
        let text = |text: &str| Some(text.to_owned());
        let text_files = TextFiles {
            tokenizer: text(embedded::TOKENIZER),
            chat_template: text(embedded::CHAT_TEMPLATE),
            tokenizer_config: text(embedded::TOKENIZER_CONFIG),
            generation_config: text(embedded::GENERATION_CONFIG),
        };
        Ok(ModelSource::from_pack(Path::new("embedded small-moe"), pack, text_files))
    }

    fn from_pack(root: &Path, pack: Pack, text_files: TextFiles) -> ModelSource {
        let Pack { config, weights, experts, .. } = pack;
        ModelSource { root: root.to_owned(), config, weights, experts, text_files }
    }
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource").field("root", &self.root).field("config", &self.config).finish_non_exhaustive()
    }
}

impl TextFiles {
    /// Reads what there is in the folder `dir`.
    ///
    /// # Errors
    /// A file that is there but cannot be read or is not UTF-8, and a `tokenizer_config.json` that is not JSON or whose
    /// `chat_template` is neither a string nor a list of named templates.
    pub fn read(dir: &Path) -> Result<TextFiles, SourceError> {
        let config_path = dir.join("tokenizer_config.json");
        let tokenizer_config = read_text(&config_path)?;
        let chat_template = match (read_text(&dir.join("chat_template.jinja"))?, &tokenizer_config) {
            (None, Some(text)) => template_in(text).map_err(|source| SourceError::TokenizerConfig {
                path: config_path,
                expected: "an object whose `chat_template`, if any, is a string or a list of {name, template}",
                source,
            })?,
            (template, _) => template,
        };
        Ok(TextFiles {
            tokenizer: read_text(&dir.join("tokenizer.json"))?,
            chat_template,
            tokenizer_config,
            generation_config: read_text(&dir.join("generation_config.json"))?,
        })
    }
}

/// The default chat template in a `tokenizer_config.json`.
fn template_in(text: &str) -> Result<Option<String>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct TokenizerConfig {
        #[serde(default)]
        chat_template: Option<Template>,
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Template {
        One(String),
        Named(Vec<Named>),
    }
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
        template: String,
    }
    Ok(match serde_json::from_str::<TokenizerConfig>(text)?.chat_template {
        Some(Template::One(template)) => Some(template),
        Some(Template::Named(list)) => list.into_iter().find(|t| t.name == "default").map(|t| t.template),
        None => None,
    })
}

/// A text file; `None` when there is none.
fn read_text(path: &Path) -> Result<Option<String>, SourceError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SourceError::Io { path: path.to_owned(), source }),
    }
}

fn refuse_no_folder(path: &Path) -> Result<(), SourceError> {
    let found = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => {
            let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
            let hint = match gguf {
                true => "GGUF is not read: give the folder of a safetensors snapshot",
                false => "give the folder that holds it",
            };
            format!("a file\nhint: {hint}")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "nothing at this path\nhint: give the folder of a snapshot or a pack, or the name of a repository, which flashflood pull downloads"
                .to_owned()
        }
        Err(source) => return Err(SourceError::Io { path: path.to_owned(), source }),
    };
    Err(SourceError::NoModel { path: path.to_owned(), found })
}

/// What a folder without `config.json` seems to be.
fn instead_of_config(dir: &Path) -> String {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let hint = match names(dir) {
        names_here if names_here.is_empty() => "the folder is empty".to_owned(),
        names_here if names_here.iter().any(|name| name == "snapshots") => match names(&dir.join("snapshots")).last() {
            Some(revision) => {
                let inner = dir.join("snapshots").join(revision);
                format!("this is an entry of the Hugging Face cache: give {}", inner.display())
            }
            None => "this is an entry of the Hugging Face cache, and no revision is downloaded".to_owned(),
        },
        names_here if names_here.iter().any(|name| name.ends_with(".gguf")) => {
            "GGUF is not read: give the folder of a safetensors snapshot".to_owned()
        }
        _ => "a snapshot has config.json beside its safetensors files, a pack has manifest.json".to_owned(),
    };
    format!("no config.json and no manifest.json in it\nhint: {hint}")
}
