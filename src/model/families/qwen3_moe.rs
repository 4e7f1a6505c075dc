//! Qwen3-MoE: attention with norms of queries and keys in every layer, and routed experts.

use super::Model;
use super::keys::{AttentionOf, ConfigKeys, MoeKeys, Trunk};
use crate::file_error::FileError;
use crate::model::blocks::{attention, moe};
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{AttentionShape, FeedForward, LayerShape, Mixer, MoeShape, Shape};
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen3Moe {
    trunk: Trunk,
    layers: usize,
    attention: AttentionShape,
    moe: MoeShape,
}

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
        moe: keys.moe(MoeKeys { experts, width: "moe_intermediate_size", has_shared: false })?,
    }))
}

impl Model for Qwen3Moe {
    fn shape(&self) -> Shape {
        let layer = LayerShape { mixer: Mixer::Attention(self.attention), feed_forward: FeedForward::Moe(self.moe) };
        self.trunk.shape("qwen3_moe", std::iter::repeat_n(layer, self.layers))
    }

    fn names(&self) -> Names {
        Names { layer: &LAYER, norms_plus_one: false, fused: Vec::new(), experts: MLP_EXPERTS }
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        let x = r.embed(self.trunk.vocab, self.trunk.hidden)?;
        for i in 0..self.layers {
            r.begin_layer(i);
            let normed = r.norm("input_norm", x)?;
            attention(r, &self.attention, normed, x)?;
            let normed = r.norm("post_norm", x)?;
            moe(r, &self.moe, normed, x)?;
            r.end_layer(i);
        }
        let normed = r.norm("norm", x)?;
        r.logits(normed, self.trunk.tied_embeddings)
    }
}

const LAYER: [(&str, &str); 9] = [
    ("input_norm", "input_layernorm"),
    ("post_norm", "post_attention_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.o", "self_attn.o_proj"),
    ("attention.q_norm", "self_attn.q_norm"),
    ("attention.k_norm", "self_attn.k_norm"),
    ("router", "mlp.gate"),
];
