//! What `flashflood calibrate` keeps of a model at work, and `flashflood pack --calibration` quantises by: of each expert how
//! often it was used, and the second moments of what its matrices were multiplied with.
//!
//! ```text
//! STATS/calibration.json         what is in the folder, written last
//! STATS/layer-000.safetensors    of layer 0, and so on; dense layers have none
//! ```
//!
//! # `calibration.json`
//!
//! | key | what |
//! | --- | --- |
//! | `format`, `version` | `"flashflood-calibration"`, 1 |
//! | `model` | a checksum of the model's configuration, of the formats of its experts, its norms, and the first bytes of its embedding and routers: as in a pack's `source` |
//! | `tokens`, `text` | how many tokens there were, and the xxh3-64 of their ids |
//! | `per_expert` | whether every layer has input moments per expert, however wide; false where it is missing |
//! | `layers` | per layer with experts: `layer`, `bytes` and `xxh3` of its file |
//!
//! # `layer-NNN.safetensors`
//!
//! `g` is the router's weight of an expert for a token, `x` the input of the experts, `z` what `down` is multiplied with; E
//! experts, hidden width H, experts of width I.
//!
//! | tensor | what |
//! | --- | --- |
//! | `uses` u32 `[E]` | tokens of each expert that are in its moments |
//! | `weights` f32 `[E]` | their `g^2` added up |
//! | `input.roots` f32 `[E or 1, H]`, `input.entries` i16 `[E or 1, H (H + 1) / 2]` | mean of `g^2 x transpose(x)` over `g^2`, per expert, or of all experts together: roots `r` of the diagonal, and the lower triangle row by row, `m[i, j] / (r[i] r[j])` times 32767 |
//! | `hidden.roots` f32 `[E, I]`, `hidden.entries` i16 `[E, I (I + 1) / 2]` | the same of `z` |
//! | `input_kept_out.ends` u32 `[E]`, `input_kept_out.rows` bf16 `[n, H]` | `g x` of some tokens that are not in the moments, expert after expert, and where each one's end |
//! | `hidden_kept_out.ends`, `hidden_kept_out.rows` | the same of `z` |

mod moments;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use moments::{KeptOut, Moments};
use tensors::{Tensors, TensorsOut};

use super::layout::LayerExperts;
use super::pack::Checksum;
use crate::file_error::FileError;

const FORMAT: &str = "flashflood-calibration";
const VERSION: u64 = 1;

/// Name of the file that makes a folder a calibration.
pub(crate) const CALIBRATION: &str = "calibration.json";

/// What a calibration is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CalibrationHead {
    format: String,
    version: u64,
    /// Which model.
    pub(crate) model: Checksum,
    /// Tokens of text.
    pub(crate) tokens: u64,
    /// Of their ids.
    pub(crate) text: Checksum,
    /// Input moments of every expert also where they are wide. Calibrations that do not say so are without.
    #[serde(default)]
    pub(crate) per_expert: bool,
    /// Those that are done.
    pub(crate) layers: Vec<LayerFile>,
}

/// The file of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerFile {
    /// Of the model.
    pub(crate) layer: usize,
    /// Its length.
    pub(crate) bytes: u64,
    /// Of all bytes.
    pub(crate) xxh3: Checksum,
}

/// What is known of the experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerCalibration {
    /// Tokens of each expert.
    pub(crate) uses: Vec<u32>,
    /// Squares of their weights added up.
    pub(crate) weights: Vec<f32>,
    /// Of what gate and up are multiplied with: one for all experts, or one each.
    pub(crate) input: Moments,
    /// Of what down is multiplied with, of each expert.
    pub(crate) hidden: Moments,
    /// What gate and up are judged by.
    pub(crate) input_kept_out: KeptOut,
    /// What down is judged by.
    pub(crate) hidden_kept_out: KeptOut,
}

/// A finished calibration.
pub struct Calibration {
    folder: PathBuf,
    head: CalibrationHead,
    /// Of all that is in it.
    sum: Checksum,
}

/// The file of layer `layer` of the model.
pub(crate) fn layer_file(layer: usize) -> String {
    format!("layer-{layer:03}.safetensors")
}

impl CalibrationHead {
    /// Of no layer yet.
    pub(crate) fn new(model: Checksum, ids: &[u32], per_expert: bool) -> Self {
        let text = Checksum(xxh3_64(bytemuck::cast_slice(ids)));
        CalibrationHead {
            format: FORMAT.to_owned(),
            version: VERSION,
            model,
            tokens: ids.len() as u64,
            text,
            per_expert,
            layers: Vec::new(),
        }
    }

    /// Whether the MoE layers `moe_layers` of a model that are before its layer `end` are all done.
    pub(crate) fn covers(&self, moe_layers: &[usize], end: usize) -> bool {
        let done = self.layers.iter().map(|file| file.layer);
        moe_layers.iter().copied().filter(|layer| *layer < end).eq(done.filter(|layer| *layer < end))
    }

    /// Reads one. That it is of a model is another question.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let head: CalibrationHead =
            serde_json::from_str(text).map_err(FileError::syntax(path, "not a calibration that can be read"))?;
        if head.format != FORMAT || head.version != VERSION {
            let found = format!("{:?} version {}", head.format, head.version);
            return Err(FileError::new(path, "", format!("{FORMAT} version {VERSION}"), found)
                .hint("make the calibration again with this flashflood"));
        }
        Ok(head)
    }
}

impl Calibration {
    /// Opens the folder that `flashflood calibrate` made.
    ///
    /// # Errors
    /// A folder that is none, or is not finished.
    pub fn open(folder: &Path) -> Result<Calibration, FileError> {
        let path = folder.join(CALIBRATION);
        if !path.is_file() {
            let expected = "by a calibration";
            return Err(FileError::missing(&path, "", expected)
                .hint("flashflood calibrate MODEL --out FOLDER makes one, and goes on with one that it has begun"));
        }
        let text = fs::read_to_string(&path).map_err(FileError::io("read", &path))?;
        let head = CalibrationHead::parse(&path, &text)?;
        Ok(Calibration { folder: folder.to_owned(), head, sum: Checksum(xxh3_64(text.as_bytes())) })
    }

    /// Tells it from other calibrations.
    pub fn checksum(&self) -> Checksum {
        self.sum
    }

    /// Tokens of text that it saw.
    pub fn tokens(&self) -> u64 {
        self.head.tokens
    }

    /// That it is of the model with this checksum, and of all of its MoE layers.
    pub(crate) fn check(&self, model: Checksum, moe_layers: &[usize]) -> Result<(), FileError> {
        let path = self.folder.join(CALIBRATION);
        if self.head.model != model {
            return Err(FileError::new(&path, "model", format!("{model}, of this model"), self.head.model)
                .hint("this is a calibration of another model, or of another release of it; flashflood calibrate makes one of this model"));
        }
        let found: Vec<usize> = self.head.layers.iter().map(|layer| layer.layer).collect();
        if found != moe_layers {
            let expected = format!("the {} layers with routed experts", moe_layers.len());
            return Err(
                FileError::new(&path, "layers", expected, format!("{found:?}")).hint("make the calibration again")
            );
        }
        Ok(())
    }

    /// Reads MoE layer `n`, whose experts are `experts`.
    ///
    /// # Errors
    /// A file that is damaged, or is of another shape.
    pub(crate) fn layer(&self, n: usize, experts: &LayerExperts) -> Result<LayerCalibration, FileError> {
        let LayerFile { layer, bytes, xxh3 } = &self.head.layers[n];
        let path = self.folder.join(layer_file(*layer));
        let read = fs::read(&path).map_err(FileError::io("read", &path))?;
        let found = (read.len() as u64, Checksum(xxh3_64(&read)));
        if found != (*bytes, *xxh3) {
            let [expected, found] =
                [(*bytes, *xxh3), found].map(|(bytes, sum)| format!("{bytes} bytes with checksum {sum}"));
            return Err(FileError::new(&path, "", expected, found)
                .hint("the file is damaged; remove it and make the calibration again"));
        }
        LayerCalibration::read(&path, &read, experts)
    }
}

impl LayerCalibration {
    /// For a layer whose input moments are one each, or one for all experts.
    pub(crate) fn new(experts: &LayerExperts) -> LayerCalibration {
        let (hidden, width) = (experts.slot.gate.cols, experts.slot.down.cols);
        LayerCalibration {
            uses: Vec::new(),
            weights: Vec::new(),
            input: Moments::new(hidden),
            hidden: Moments::new(width),
            input_kept_out: KeptOut::new(hidden),
            hidden_kept_out: KeptOut::new(width),
        }
    }

    /// The bytes of its file.
    pub(crate) fn serialise(&self, path: &Path) -> Result<Vec<u8>, FileError> {
        let mut out = TensorsOut::default();
        out.words("uses".to_owned(), vec![self.uses.len()], &self.uses);
        out.floats("weights".to_owned(), vec![self.weights.len()], &self.weights);
        self.input.write("input", &mut out);
        self.hidden.write("hidden", &mut out);
        self.input_kept_out.write("input_kept_out", &mut out);
        self.hidden_kept_out.write("hidden_kept_out", &mut out);
        out.serialise().map_err(FileError::syntax(path, "not to be written"))
    }

    fn read(path: &Path, bytes: &[u8], experts: &LayerExperts) -> Result<Self, FileError> {
        let tensors = Tensors::new(path, bytes)?;
        let (count, hidden, width) = (experts.experts, experts.slot.gate.cols, experts.slot.down.cols);
        let weights = tensors.floats("weights", &[count])?;
        if weights.iter().any(|weight| *weight < 0.0) {
            return Err(tensors.error("weights", "numbers from 0 on", "one below"));
        }
        Ok(LayerCalibration {
            uses: tensors.words("uses", &[count])?,
            weights,
            input: Moments::read(&tensors, "input", hidden, &[count, 1])?,
            hidden: Moments::read(&tensors, "hidden", width, &[count])?,
            input_kept_out: KeptOut::read(&tensors, "input_kept_out", hidden, count)?,
            hidden_kept_out: KeptOut::read(&tensors, "hidden_kept_out", width, count)?,
        })
    }
}
