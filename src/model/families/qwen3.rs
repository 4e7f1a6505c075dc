//! Qwen3, dense: attention with norms of queries and keys, and SwiGLU.

use super::Model;
use super::gguf_keys::{self, GgufFamily};
use super::keys::{AttentionOf, ConfigKeys, Trunk};
use super::tensor_names::{ATTENTION, FEED_FORWARD, HEAD_NORMS};
use crate::file_error::FileError;
use crate::model::blocks::decoder;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{AttentionShape, FeedForward, LayerShape, Mixer, Shape};
use crate::weights::gguf::GgufNames;
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen3 {
    trunk: Trunk,
    layers: usize,
    attention: AttentionShape,
    width: usize,
}

/// Its GGUF files.
pub(super) const GGUF: GgufFamily = GgufFamily {
    architecture: "qwen3",
    config: |keys| {
        keys.trunk("qwen3")?;
        keys.attention(false)?;
        keys.put_size("intermediate_size", "feed_forward_length").map(drop)
    },
};

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    keys.refuse(&["attention_bias", "use_sliding_window"])?;
    Ok(Box::new(Qwen3 {
        layers: keys.layer_kinds(Some("qwen3"))?.len(),
        attention: keys.attention(AttentionOf {
            partial_rotary: false,
            gate: false,
            head_norms: true,
            may_divide: false,
        })?,
        trunk: keys.trunk()?,
        width: keys.width("intermediate_size")?,
    }))
}

impl Model for Qwen3 {
    fn shape(&self) -> Shape {
        let feed_forward = FeedForward::Dense { width: self.width };
        let layer = LayerShape { mixer: Mixer::Attention(self.attention), feed_forward };
        self.trunk.shape("qwen3", std::iter::repeat_n(layer, self.layers))
    }

    fn names(&self) -> Names {
        Names {
            layer: &[ATTENTION, HEAD_NORMS, FEED_FORWARD],
            norms_plus_one: false,
            fused: Vec::new(),
            experts: MLP_EXPERTS,
        }
    }

    fn gguf_names(&self) -> GgufNames {
        gguf_keys::names(&self.shape(), "ffn_norm")
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        decoder(r, &self.shape())
    }
}
