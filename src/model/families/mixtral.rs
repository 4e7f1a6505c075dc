//! Mixtral: attention without norms of queries and keys, and routed experts whose weights are a softmax over the chosen.

use super::Model;
use super::gguf_keys::{self, GgufFamily};
use super::keys::{AttentionOf, ConfigKeys, MoeKeys, Trunk};
use super::tensor_names::ATTENTION;
use crate::file_error::FileError;
use crate::model::blocks::decoder;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{AttentionShape, FeedForward, LayerShape, Mixer, MoeShape, Shape};
use crate::weights::gguf::GgufNames;
use crate::weights::names::{ExpertNames, Names};

struct Mixtral {
    trunk: Trunk,
    layers: usize,
    attention: AttentionShape,
    moe: MoeShape,
}

/// Its GGUF files, whose architecture is that of models without experts too.
pub(super) const GGUF: GgufFamily = GgufFamily {
    architecture: "llama",
    config: |keys| {
        if keys.experts()? == 0 {
            return Err(keys.found("expert_count", "1 or more (of this architecture, Mixtral is read)", 0));
        }
        keys.trunk("mixtral")?;
        keys.attention(false)?;
        // the first files call it as the width of a dense layer
        let widths = ["expert_feed_forward_length", "feed_forward_length"];
        let width = widths.into_iter().find(|width| keys.has(width)).unwrap_or(widths[1]);
        keys.moe("intermediate_size", width)
    },
};

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    keys.refuse(&[])?;
    let of = AttentionOf { partial_rotary: false, gate: false, head_norms: false, may_divide: true };
    let attention = AttentionShape { window: keys.window("sliding_window")?, ..keys.attention(of)? };
    // `intermediate_size` is an expert's width
    let moe = keys.moe(MoeKeys {
        experts: ["num_local_experts", "num_experts"],
        width: "intermediate_size",
        has_shared: false,
        renormalise: true,
    })?;
    Ok(Box::new(Mixtral { layers: keys.layer_count()?, attention, trunk: keys.trunk()?, moe }))
}

impl Model for Mixtral {
    fn shape(&self) -> Shape {
        let layer = LayerShape { mixer: Mixer::Attention(self.attention), feed_forward: FeedForward::Moe(self.moe) };
        self.trunk.shape("mixtral", std::iter::repeat_n(layer, self.layers))
    }

    fn names(&self) -> Names {
        let experts = ExpertNames { module: "block_sparse_moe", listed: ["w1", "w3", "w2"] };
        Names {
            layer: &[ATTENTION, &[("router", "block_sparse_moe.gate")]],
            norms_plus_one: false,
            fused: Vec::new(),
            experts,
        }
    }

    fn gguf_names(&self) -> GgufNames {
        GgufNames { interleaved_heads: Some(self.attention.head_dim), ..gguf_keys::names(&self.shape(), "ffn_norm") }
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        decoder(r, &self.shape())
    }
}
