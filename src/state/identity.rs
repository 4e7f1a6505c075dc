//! Which model a saved state belongs to.

use std::collections::BTreeSet;
use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::compute::{Recorded, Recording};
use crate::model::{Config, LayerState, Matrix};

/// Bytes of a matrix that are taken for its contents: norms and some of every matrix tell two models apart without
/// reading gigabytes.
const SAMPLE: usize = 4096;

/// What one layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerShape {
    /// Keys and values of every position.
    Attention {
        /// Keys of a position, and as many values.
        width: u64,
    },
    /// The same for any number of tokens.
    DeltaNet {
        /// Values of the convolution's last inputs.
        conv: u64,
        /// Values of the recurrent state.
        recurrent: u64,
    },
}

/// What must be equal for a saved state to go on: the model, how its weights are stored, and the form of activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// xxh3 of the configuration, the norms, and a sample of every resident matrix.
    pub fingerprint: u64,
    /// Formats of weights and activations, for people.
    pub form: String,
    /// One per layer.
    pub layers: Vec<LayerShape>,
}

impl Identity {
    /// Of a model that is open.
    pub fn new(config: &Config, embed: &Matrix, recording: &Recording, state: &[LayerState]) -> Identity {
        let mut sum = Xxh3::new();
        sum.update(format!("{config:?}").as_bytes());
        // Tensors of the model, each once and in no order, however they are stacked: options that change no bits, such as
        // guesses at experts, record some again.
        let weights = std::iter::once(embed).chain(&recording.matrices).flat_map(samples);
        let vectors = recording.vectors.iter().map(|(_, values)| xxh3_64(bytemuck::cast_slice(values)));
        let parts: BTreeSet<u64> = weights.chain(vectors).collect();
        parts.into_iter().for_each(|part| sum.update(&part.to_le_bytes()));
        let mut formats: Vec<String> = Vec::new();
        for recorded in &recording.steps {
            if let Recorded::Experts(op) = recorded {
                for format in [op.slot.gate_up.format, op.slot.down.format].map(|format| format.to_string()) {
                    sum.update(format.as_bytes());
                    if !formats.contains(&format) {
                        formats.push(format);
                    }
                }
            }
        }
        let activations = if recording.quantised.is_empty() { "f32" } else { "int8" };
        let form = format!("experts {}, activations {activations}", formats.join(" and "));
        let layers = state.iter().map(|layer| match layer {
            LayerState::Attention { kv } => LayerShape::Attention { width: recording.kv[kv.0].width as u64 },
            LayerState::DeltaNet { conv, recurrent, .. } => {
                let values = |view: &crate::compute::View| {
                    let spec = recording.spec(view.tensor);
                    (recording.elements(view.tensor) / spec.stride * spec.width) as u64
                };
                LayerShape::DeltaNet { conv: values(conv), recurrent: values(recurrent) }
            }
        });
        Identity { fingerprint: sum.digest(), form, layers: layers.collect() }
    }

    /// Whether there is a state that cannot be gone back in.
    pub fn is_recurrent(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, LayerShape::DeltaNet { .. }))
    }
}

/// xxh3 of the shape and some of the contents of every block of a matrix.
fn samples(matrix: &Matrix) -> impl Iterator<Item = u64> {
    matrix.blocks.iter().map(|block| {
        let mut sum = Xxh3::new();
        sum.update(format!("{} {} {}", block.rows, matrix.cols, matrix.format).as_bytes());
        sum.update(&block.codes[..block.codes.len().min(SAMPLE)]);
        sum.update(&block.scales[..block.scales.len().min(SAMPLE)]);
        sum.digest()
    })
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {:016x} of {} layers, {}", self.fingerprint, self.layers.len(), self.form)
    }
}
