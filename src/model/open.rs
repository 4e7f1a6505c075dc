//! Opens a model wherever it lies: a Hugging Face snapshot (BF16/F16/F32 or MLX affine), a GGUF file, a pack, the
//! embedded model, or random numbers. Every weight is asked for once, so shapes, dtypes and offsets all agree with the config afterwards.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use flashflood_small_moe as embedded;

use super::links::{dangling, dangling_in, is_dangling};
use super::recorder::{RecordError, RecordedModel, Recorder};
use super::rope_scaling::RopeScaling;
use super::shape::Shape;
use super::text_files::{TextFiles, read_config};
use super::{families, gguf};
use crate::compute::Recording;
use crate::file_error::FileError;
use crate::weights::calibration::Calibration;
use crate::weights::pack::{self, Checksum, Pack, PackError, PackFiles, PackSource};
use crate::weights::safetensors::TensorSet;
use crate::weights::snapshot::{Quantization, Snapshot};
use crate::weights::{ExpertLayout, Listing, Matrix, WeightSource, check_resident};

/// A model on disk (or embedded), opened and checked.
pub struct ModelSource {
    /// The folder, or the GGUF file.
    pub root: PathBuf,
    /// Sizes, and what kinds of layers it has.
    pub shape: Shape,
    /// Every weight, as views.
    pub weights: Listing,
    /// The text of its `config.json`.
    pub config: String,
    /// What the text layer reads.
    pub text_files: TextFiles,
    /// `[vocab, hidden]`: rows are looked up by the host.
    pub(crate) embedding: Matrix,
    /// What a token does, as plain operations.
    pub(crate) recording: Recording,
    /// Of a pack on disk: what is held against its manifest before the model is used.
    pub(crate) pack_files: Option<PackFiles>,
}

/// What can be wrong with a model's folder.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder, its configuration, its tensors.
    #[error(transparent)]
    File(#[from] FileError),
    /// A pack.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Weights that do not fit the forward pass.
    #[error("{path}: {source}", path = .path.display())]
    Shape {
        /// The folder.
        path: PathBuf,
        /// Which operation, what was expected and found.
        source: Box<crate::compute::ShapeError>,
    },
}

impl ModelSource {
    /// Opens the folder `path`: a pack when it holds a `manifest.json`, otherwise a snapshot with a `config.json`; or the
    /// GGUF file `path`, which may be one of several that a model is split over, or the only model of a folder.
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
        if is_dangling(path) {
            return Err(dangling(path).into());
        }
        if let Some(file) = gguf_at(path)? {
            if let Some(stripe) = stripes.first() {
                return Err(refused_stripe(stripe, false).into());
            }
            let gguf::GgufModel { config, model, weights, text_files } = gguf::open(&file)?;
            return ModelSource::record(&file, model.as_ref(), config, &weights, text_files);
        }
        refuse_no_folder(path)?;
        let is_pack = pack::is_pack(path);
        if let Some(stripe) = stripes.iter().find(|stripe| !is_pack || !stripe.join("experts").is_dir()) {
            return Err(refused_stripe(stripe, is_pack).into());
        }
        if is_pack {
            return ModelSource::from_pack(path, pack::open_striped(path, stripes)?, TextFiles::read(path)?);
        }
        if let Some(link) = dangling_in(path) {
            return Err(dangling(&link).into());
        }
        let config_path = path.join("config.json");
        let Some(config) = read_config(path)? else {
            return Err(no_model(path, instead_of_config(path)).into());
        };
        let model = families::read(&config_path, &config)?;
        let quantization = Quantization::from_json(&config_path, &config)?;
        let snapshot = Snapshot::new(TensorSet::open(path)?, quantization, model.names())?;
        ModelSource::record(path, model.as_ref(), config, &snapshot, TextFiles::read(path)?)
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
            ..TextFiles::default()
        };
        ModelSource::from_pack(Path::new("embedded small-moe"), pack, text_files)
    }

    fn from_pack(root: &Path, pack: Pack, text_files: TextFiles) -> Result<ModelSource, SourceError> {
        let model = families::read(&pack.manifest, &pack.config)?;
        let with_experts = model.shape().moe_layers();
        if let Some(layer) = pack.layers.iter().find(|layer| !with_experts.contains(layer)) {
            let expected = format!("records of the {} layers with routed experts", with_experts.len());
            let found = format!("records of layer {layer}, which has none");
            return Err(FileError::new(&pack.manifest, "layers", expected, found).into());
        }
        let source = ModelSource::record(root, model.as_ref(), pack.config, pack.weights.as_ref(), text_files)?;
        Ok(ModelSource { pack_files: pack.files, ..source })
    }

    /// Holds the resident weights of a pack and the files beside them against its manifest.
    ///
    /// # Errors
    /// A file that is not as it was when the pack was made, and a disk that fails.
    pub(crate) fn verify(&self) -> Result<(), SourceError> {
        let tell = |error: &PackError| tracing::warn!("{error}");
        Ok(self.pack_files.as_ref().map_or(Ok(()), |files| files.verify(&tell))?)
    }

    /// The model of the text of a `config.json`, with the weights of `source`. `root` names it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn of_source(
        root: &Path,
        config: String,
        source: &dyn WeightSource,
        text_files: TextFiles,
    ) -> Result<ModelSource, SourceError> {
        let model = families::read(&root.join("config.json"), &config)?;
        ModelSource::record(root, model.as_ref(), config, source, text_files)
    }

    fn record(
        root: &Path,
        model: &dyn families::Model,
        config: String,
        source: &dyn WeightSource,
        text_files: TextFiles,
    ) -> Result<ModelSource, SourceError> {
        let shape = model.shape();
        let mut recorder = Recorder::new(source, &shape);
        model.forward(&mut recorder).map_err(|error| match error {
            RecordError::Weights(error) => SourceError::File(error),
            RecordError::Shape(source) => SourceError::Shape { path: root.to_owned(), source: source.into() },
        })?;
        let RecordedModel { recording, weights, embedding, tied } = recorder.finish();
        let text_files = text_files.with_ends_of(&config);
        let shape = Shape { tied_embeddings: tied, ..shape };
        let root = root.to_owned();
        Ok(ModelSource { root, shape, weights, config, text_files, embedding, recording, pack_files: None })
    }

    /// Its shape with rotary positions stretched as `rope` says.
    ///
    /// # Errors
    /// More positions than any model has.
    pub fn shape_with(&self, rope: RopeScaling) -> Result<Shape, SourceError> {
        if rope == RopeScaling::Auto {
            return Ok(self.shape.clone());
        }
        let path = if self.root.is_file() { self.root.clone() } else { self.root.join("config.json") };
        let shape = families::read_with(&path, &self.config, rope)?.shape();
        Ok(Shape { tied_embeddings: self.shape.tied_embeddings, ..shape })
    }

    /// Where the routed experts lie, by MoE layer.
    pub fn experts(&self) -> &ExpertLayout {
        &self.weights.experts
    }

    /// What a token does, as plain operations: what [`compute::lower`](crate::compute::lower) takes.
    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Makes a pack of it: see [`pack::write_pack`].
    ///
    /// # Errors
    /// As [`pack::write_pack`].
    pub fn write_pack(
        &self,
        copy_from: Option<&Path>,
        out: &Path,
        options: &pack::PackOptions,
        observer: &pack::Observer<'_>,
    ) -> Result<pack::PackSummary, PackError> {
        self.write_any_pack(None, copy_from, out, options, observer)
    }

    /// The same, with experts quantised by `calibration`, which is of this model.
    ///
    /// # Errors
    /// As [`write_pack`](Self::write_pack), and a calibration of another model or of experts with few bits.
    pub fn write_calibrated_pack(
        &self,
        calibration: &Calibration,
        copy_from: Option<&Path>,
        out: &Path,
        options: &pack::PackOptions,
        observer: &pack::Observer<'_>,
    ) -> Result<pack::PackSummary, PackError> {
        self.write_any_pack(Some(calibration), copy_from, out, options, observer)
    }

    fn write_any_pack(
        &self,
        calibration: Option<&Calibration>,
        copy_from: Option<&Path>,
        out: &Path,
        options: &pack::PackOptions,
        observer: &pack::Observer<'_>,
    ) -> Result<pack::PackSummary, PackError> {
        let moe_layers = self.shape.moe_layers();
        let texts = if self.text_files.inside { self.text_files.as_files() } else { Vec::new() };
        let source = PackSource { texts: &texts, calibration, ..self.pack_source(&moe_layers) };
        let copy_from = copy_from.filter(|_| !self.text_files.inside);
        pack::write_pack(source, copy_from, out, options, observer)
    }

    fn pack_source<'a>(&'a self, moe_layers: &'a [usize]) -> PackSource<'a> {
        PackSource { weights: &self.weights, moe_layers, config: &self.config, texts: &[], calibration: None }
    }

    /// Tells models of one shape apart, as packs and calibrations do that are made of them.
    pub(crate) fn fingerprint(&self) -> Checksum {
        pack::fingerprint(&self.pack_source(&self.shape.moe_layers()))
    }
}

/// Looks for numbers that no model has in the resident weights: NaN, infinity, matrices of zeros.
///
/// # Errors
/// The first matrix that has them.
pub fn verify_numbers(source: &ModelSource) -> Result<(), SourceError> {
    Ok(check_resident(&source.weights, &source.root, source.shape.tied_embeddings)?)
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource").field("root", &self.root).field("shape", &self.shape).finish_non_exhaustive()
    }
}

fn no_model(path: &Path, (found, hint): (String, String)) -> FileError {
    FileError::new(path, "", "a folder with a model", found).hint(hint)
}

fn refused_stripe(stripe: &Path, is_pack: bool) -> FileError {
    match is_pack {
        true => FileError::new(stripe, "", "a folder with layers of the pack in experts/", "none")
            .hint("move some of the pack's experts/layer-NNN.bin there"),
        false => {
            FileError::new(stripe, "", "a stripe of a pack", "a snapshot, whose layers cannot lie on several disks")
                .hint("flashflood pack makes a pack")
        }
    }
}

fn refuse_no_folder(path: &Path) -> Result<(), FileError> {
    let found = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => ("a file", "give the folder that holds it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (
            "nothing at this path",
            "give the folder of a snapshot or a pack, a GGUF file, or the name of a repository, which flashflood pull downloads",
        ),
        Err(source) => return Err(FileError::io("read", path)(source)),
    };
    Err(no_model(path, (found.0.to_owned(), found.1.to_owned())))
}

/// The GGUF file that `path` means: itself, or the only model of a folder that has no other weights.
fn gguf_at(path: &Path) -> Result<Option<PathBuf>, FileError> {
    if gguf::is_gguf(path) {
        return Ok(Some(path.to_owned()));
    }
    // somebody who keeps a GGUF beside a snapshot or in a pack means the folder
    if pack::is_pack(path) || is_snapshot(path) {
        return Ok(None);
    }
    let models = gguf::models_in(path);
    match &models[..] {
        [] => Ok(None),
        [model] => Ok(Some(gguf::path_in(path, &model.files[0]))),
        [first, ..] => {
            let names = models.iter().map(|model| model.files[0].as_str()).collect::<Vec<_>>().join(", ");
            let found = format!("{}: {names}", models.len());
            let hint = format!("give one of them, such as {}", gguf::path_in(path, &first.files[0]).display());
            Err(FileError::new(path, "", "one GGUF model", found).hint(hint))
        }
    }
}

/// Whether a folder has weights as safetensors, whole or in parts, with or without an index, and what they are of.
fn is_snapshot(path: &Path) -> bool {
    let is_weights = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    };
    let mut entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    path.join("config.json").exists() && entries.any(is_weights)
}

/// What a folder without `config.json` seems to be, and what helps.
fn instead_of_config(dir: &Path) -> (String, String) {
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
        _ => "a snapshot has config.json beside its safetensors files, a pack has manifest.json".to_owned(),
    };
    ("no config.json and no manifest.json in it".to_owned(), hint)
}

#[cfg(test)]
mod tests;
