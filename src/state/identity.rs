//! Which model a saved state belongs to.

use std::collections::BTreeSet;
use std::fmt;

use flashflood_formats::CacheFormat;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::codes::format_code;
use crate::compute::{CacheStream, KvFormat, LayerState, Op, Recorded, Recording, View};
use crate::weights::Matrix;

/// Bytes of a matrix that are taken for its contents: norms and some of every matrix tell two models apart without
/// reading gigabytes.
const SAMPLE: usize = 4096;

/// What one layer keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LayerContent {
    /// Rows of every position, in some streams: keys and values.
    Cache(Vec<StreamShape>),
    /// Tensors that do not grow with the tokens: the last inputs of a convolution, a recurrent state.
    State(Vec<StreamShape>),
}

impl LayerContent {
    /// What it keeps, one stream or tensor after the other.
    pub(crate) fn streams(&self) -> &[StreamShape] {
        match self {
            LayerContent::Cache(streams) | LayerContent::State(streams) => streams,
        }
    }
}

/// A stream of a cache, or a tensor of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamShape {
    /// Elements of a position, or of the tensor.
    pub width: u64,
    /// How they are stored.
    pub format: CacheFormat,
}

impl StreamShape {
    /// Bytes of a position, or of the tensor. Saturates.
    pub(crate) fn bytes(&self) -> u64 {
        let width = usize::try_from(self.width).unwrap_or(usize::MAX);
        self.format.row_bytes(width) as u64
    }
}

/// What must be equal for a saved state to go on: the model, how its weights are stored, and the form of activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// xxh3 of the configuration, the norms, and a sample of every resident matrix.
    pub fingerprint: u64,
    /// Formats of weights and activations, for people.
    pub form: String,
    /// One per layer.
    pub layers: Vec<LayerContent>,
}

impl Identity {
    /// Of a model that is open; `config` is its `config.json` as it was found, `rounds_prompts` whether prompts are multiplied
    /// in f16 where tokens of decode are in f32.
    pub(crate) fn new(
        config: &[u8],
        embed: &Matrix,
        recording: &Recording,
        state: &[LayerState],
        rounds_prompts: bool,
    ) -> Identity {
        let mut sum = Xxh3::new();
        sum.update(config);
        // Tensors of the model, each once and in no order, however they are stacked: options that change no bits, such as
        // guesses at experts, record some again.
        let weights = std::iter::once(embed).chain(&recording.matrices).flat_map(samples);
        let vectors = recording.vectors.iter().map(|(_, values)| xxh3_64(bytemuck::cast_slice(values)));
        let parts: BTreeSet<u64> = weights.chain(vectors).collect();
        parts.into_iter().for_each(|part| sum.update(&part.to_le_bytes()));
        let mut formats: Vec<String> = Vec::new();
        for recorded in &recording.steps {
            if let Recorded::Experts(op) = recorded {
                for format in op.slot.matrices().map(|(_, place)| place.format.to_string()) {
                    sum.update(format.as_bytes());
                    if !formats.contains(&format) {
                        formats.push(format);
                    }
                }
            }
        }
        let is_packed = |recorded: &Recorded| match recorded {
            Recorded::Kernel { kernel: Op::Matmul(product), .. } => product.x.packed().is_some(),
            Recorded::Experts(op) => op.x.packed().is_some(),
            _ => false,
        };
        let activations = match (recording.steps.iter().any(is_packed), rounds_prompts) {
            (true, _) => "int8",
            (false, true) => "f32, of prompts f16",
            (false, false) => "f32",
        };
        let form = format!("experts {}, activations {activations}", formats.join(" and "));
        let layers = state.iter().map(|layer| match layer {
            LayerState::Attention { kv } => {
                let stream = |of: &CacheStream| StreamShape { width: of.width as u64, format: of.format };
                LayerContent::Cache(recording.caches[kv.0].streams.iter().map(stream).collect())
            }
            LayerState::DeltaNet { conv, recurrent, .. } => {
                let tensor = |view: &View| {
                    let spec = recording.spec(view.tensor);
                    let width = (recording.elements(view.tensor) / spec.stride * spec.width) as u64;
                    StreamShape { width, format: CacheFormat::F32 }
                };
                LayerContent::State([conv, recurrent].map(tensor).into())
            }
        });
        Identity { fingerprint: sum.digest(), form, layers: layers.collect() }
    }

    /// How keys and values are kept, in the words of `--kv`: of the first layer that has some.
    pub(crate) fn kv(&self) -> String {
        let streams = self.layers.iter().find_map(|layer| match layer {
            LayerContent::Cache(streams) => Some(streams.as_slice()),
            LayerContent::State(_) => None,
        });
        let Some([keys, values]) = streams else { return "none".to_owned() };
        let head = match keys.format {
            CacheFormat::Q8 { head } | CacheFormat::Tq4 { head } => head,
            CacheFormat::F32 | CacheFormat::F16 => 0,
        };
        let formats = [keys.format, values.format];
        let kv = KvFormat::ALL.into_iter().find(|kv| kv.of_heads(head) == formats);
        kv.map_or_else(|| formats.map(|format| format.to_string()).join(" and "), |kv| kv.to_string())
    }

    /// A number of those formats; 0 where all are f32.
    pub(super) fn kv_code(&self) -> u64 {
        let streams = self.layers.iter().flat_map(LayerContent::streams);
        streams.fold(0, |code: u64, stream| code.wrapping_mul(31).wrapping_add(format_code(stream.format)))
    }

    /// The same model whose keys and values are kept in another way.
    pub(crate) fn differs_in_kv(&self, other: &Identity) -> bool {
        let widths = |identity: &Identity| -> Vec<(bool, Vec<u64>)> {
            let layer = |layer: &LayerContent| {
                let widths = layer.streams().iter().map(|stream| stream.width).collect();
                (matches!(layer, LayerContent::Cache(_)), widths)
            };
            identity.layers.iter().map(layer).collect()
        };
        self.kv() != other.kv()
            && (self.fingerprint, &self.form, widths(self)) == (other.fingerprint, &other.form, widths(other))
    }

    /// Whether there is a state that cannot be gone back in.
    pub(crate) fn is_recurrent(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, LayerContent::State(_)))
    }
}

/// xxh3 of the shape and some of the contents of every block of a matrix.
fn samples(matrix: &Matrix) -> impl Iterator<Item = u64> {
    matrix.blocks.iter().map(|block| {
        let mut sum = Xxh3::new();
        sum.update(format!("{} {} {}", block.rows, matrix.cols, matrix.format).as_bytes());
        // of affine weights codes and scales
        block.streams[..2].iter().for_each(|stream| sum.update(&stream[..stream.len().min(SAMPLE)]));
        sum.digest()
    })
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {:016x} of {} layers, {}", self.fingerprint, self.layers.len(), self.form)
    }
}
