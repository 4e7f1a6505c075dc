//! Qwen3.5, dense, alone or as the text part of a vision release: gated delta-nets with gated attention in every fourth
//! layer, and SwiGLU.

use super::Model;
use super::gguf_keys::{self, GgufFamily};
use super::keys::{ConfigKeys, Trunk};
use super::qwen3_5_moe::GATED;
use super::tensor_names::{ATTENTION, DELTA_NET, FEED_FORWARD, HEAD_NORMS};
use crate::file_error::FileError;
use crate::model::blocks::decoder;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{FeedForward, LayerShape, Mixer, Shape};
use crate::weights::gguf::GgufNames;
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen35 {
    trunk: Trunk,
    layers: Vec<Mixer>,
    width: usize,
}

/// Its GGUF files.
pub(super) const GGUF: GgufFamily = GgufFamily {
    architecture: "qwen35",
    config: |keys| {
        keys.trunk("qwen3_5")?;
        keys.attention(true)?;
        keys.delta_net(true)?;
        keys.put_size("intermediate_size", "feed_forward_length").map(drop)
    },
};

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    keys.refuse(&["attention_bias", "use_sliding_window"])?;
    Ok(Box::new(Qwen35 { layers: keys.mixers(GATED)?, trunk: keys.trunk()?, width: keys.width("intermediate_size")? }))
}

impl Model for Qwen35 {
    fn shape(&self) -> Shape {
        let feed_forward = FeedForward::Dense { width: self.width };
        let layer = |mixer: &Mixer| LayerShape { mixer: *mixer, feed_forward };
        self.trunk.shape("qwen3_5", self.layers.iter().map(layer))
    }

    fn names(&self) -> Names {
        Names {
            layer: &[ATTENTION, HEAD_NORMS, DELTA_NET, FEED_FORWARD],
            norms_plus_one: true,
            fused: Vec::new(),
            experts: MLP_EXPERTS,
        }
    }

    fn gguf_names(&self) -> GgufNames {
        gguf_keys::names(&self.shape(), "post_attention_norm")
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        decoder(r, &self.shape())
    }
}
