//! Qwen3.5-MoE (and 3.6): gated delta-nets with gated attention in every fourth layer, routed experts and a shared one.

use super::Model;
use super::gguf_keys::{self, GgufFamily, GgufKeys};
use super::keys::{AttentionOf, ConfigKeys, MoeKeys, Trunk};
use super::tensor_names::{ATTENTION, DELTA_NET, HEAD_NORMS, ROUTER, SHARED_EXPERT};
use crate::file_error::FileError;
use crate::model::blocks::decoder;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{FeedForward, LayerShape, Mixer, MoeShape, Shape};
use crate::weights::gguf::GgufNames;
use crate::weights::names::{MLP_EXPERTS, Names};

/// A model of the family, or of one that computes the same.
pub(super) struct Qwen35Moe {
    pub(super) model_type: &'static str,
    pub(super) trunk: Trunk,
    pub(super) layers: Vec<Mixer>,
    pub(super) moe: MoeShape,
}

/// Attention of the Qwen3.5 and Qwen3-Next families.
pub(super) const GATED: AttentionOf =
    AttentionOf { partial_rotary: true, gate: true, head_norms: true, may_divide: false };

/// Its GGUF files.
pub(super) const GGUF: GgufFamily =
    GgufFamily { architecture: "qwen35moe", config: |keys| gguf_config(keys, "qwen3_5_moe", true) };

/// `in_turn`: files have the value heads in another order than releases.
pub(super) fn gguf_config(keys: &mut GgufKeys<'_>, model_type: &'static str, in_turn: bool) -> Result<(), FileError> {
    keys.trunk(model_type)?;
    keys.attention(true)?;
    keys.delta_net(in_turn)?;
    keys.moe("moe_intermediate_size", "expert_feed_forward_length")?;
    keys.shared_expert()
}

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    Ok(Box::new(Qwen35Moe::read(keys, "qwen3_5_moe")?))
}

impl Qwen35Moe {
    pub(super) fn read(keys: &ConfigKeys<'_>, model_type: &'static str) -> Result<Self, FileError> {
        keys.refuse(&["attention_bias", "use_sliding_window"])?;
        keys.refuse_dense_layers()?;
        let experts = ["num_experts", "num_local_experts"];
        Ok(Qwen35Moe {
            model_type,
            layers: keys.mixers(GATED)?,
            trunk: keys.trunk()?,
            moe: keys.moe(MoeKeys { experts, width: "moe_intermediate_size", has_shared: true, renormalise: true })?,
        })
    }
}

impl Model for Qwen35Moe {
    fn shape(&self) -> Shape {
        let layer = |mixer: &Mixer| LayerShape { mixer: *mixer, feed_forward: FeedForward::Moe(self.moe) };
        self.trunk.shape(self.model_type, self.layers.iter().map(layer))
    }

    fn names(&self) -> Names {
        Names {
            layer: &[ATTENTION, HEAD_NORMS, DELTA_NET, ROUTER, SHARED_EXPERT],
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
