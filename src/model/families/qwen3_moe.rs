//! Qwen3-MoE: attention with norms of queries and keys in every layer, and routed experts.

use super::Model;
use super::gguf_keys::{self, GgufFamily};
use super::keys::{AttentionOf, ConfigKeys, MoeKeys, Trunk};
use super::tensor_names::{ATTENTION, HEAD_NORMS, ROUTER};
use crate::file_error::FileError;
use crate::model::blocks::decoder;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{AttentionShape, FeedForward, LayerShape, Mixer, MoeShape, Shape};
use crate::weights::gguf::GgufNames;
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen3Moe {
    trunk: Trunk,
    layers: usize,
    attention: AttentionShape,
    moe: MoeShape,
}

/// Its GGUF files.
pub(super) const GGUF: GgufFamily = GgufFamily {
    architecture: "qwen3moe",
    config: |keys| {
        keys.trunk("qwen3_moe")?;
        keys.attention(false)?;
        keys.moe("moe_intermediate_size", "expert_feed_forward_length")
    },
};

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    keys.refuse(&["attention_bias", "use_sliding_window"])?;
    keys.refuse_dense_layers()?;
    let experts = ["num_experts", "num_local_experts"];
    Ok(Box::new(Qwen3Moe {
        layers: keys.layer_kinds(Some("qwen3_moe"))?.len(),
        attention: keys.attention(AttentionOf {
            partial_rotary: false,
            gate: false,
            head_norms: true,
            may_divide: false,
        })?,
        trunk: keys.trunk()?,
        moe: keys.moe(MoeKeys { experts, width: "moe_intermediate_size", has_shared: false, renormalise: false })?,
    }))
}

impl Model for Qwen3Moe {
    fn shape(&self) -> Shape {
        let layer = LayerShape { mixer: Mixer::Attention(self.attention), feed_forward: FeedForward::Moe(self.moe) };
        self.trunk.shape("qwen3_moe", std::iter::repeat_n(layer, self.layers))
    }

    fn names(&self) -> Names {
        Names {
            layer: &[ATTENTION, HEAD_NORMS, ROUTER],
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
