//! Qwen3.5-MoE (and 3.6): gated delta-nets with gated attention in every fourth layer, routed experts and a shared one.

use super::Model;
use super::keys::{AttentionOf, ConfigKeys, MoeKeys, Trunk};
use crate::file_error::FileError;
use crate::model::blocks::{attention, delta_net, moe};
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{FeedForward, LayerShape, Mixer, MoeShape, Shape};
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
            moe: keys.moe(MoeKeys { experts, width: "moe_intermediate_size", has_shared: true })?,
        })
    }
}

impl Model for Qwen35Moe {
    fn shape(&self) -> Shape {
        let layer = |mixer: &Mixer| LayerShape { mixer: *mixer, feed_forward: FeedForward::Moe(self.moe) };
        self.trunk.shape(self.model_type, self.layers.iter().map(layer))
    }

    fn names(&self) -> Names {
        Names { layer: &LAYER, norms_plus_one: true, fused: Vec::new(), experts: MLP_EXPERTS }
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        let x = r.embed(self.trunk.vocab, self.trunk.hidden)?;
        for (i, mixer) in self.layers.iter().enumerate() {
            r.begin_layer(i);
            let normed = r.norm("input_norm", x)?;
            match mixer {
                Mixer::Attention(shape) => attention(r, shape, normed, x)?,
                Mixer::DeltaNet(shape) => delta_net(r, shape, normed, x)?,
            }
            let normed = r.norm("post_norm", x)?;
            moe(r, &self.moe, normed, x)?;
            r.end_layer(i);
        }
        let normed = r.norm("norm", x)?;
        r.logits(normed, self.trunk.tied_embeddings)
    }
}

const LAYER: [(&str, &str); 22] = [
    ("input_norm", "input_layernorm"),
    ("post_norm", "post_attention_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.o", "self_attn.o_proj"),
    ("attention.q_norm", "self_attn.q_norm"),
    ("attention.k_norm", "self_attn.k_norm"),
    ("delta_net.qkv", "linear_attn.in_proj_qkv"),
    ("delta_net.z", "linear_attn.in_proj_z"),
    ("delta_net.b", "linear_attn.in_proj_b"),
    ("delta_net.a", "linear_attn.in_proj_a"),
    ("delta_net.out", "linear_attn.out_proj"),
    ("delta_net.conv", "linear_attn.conv1d"),
    ("delta_net.a_log", "linear_attn.A_log"),
    ("delta_net.dt_bias", "linear_attn.dt_bias"),
    ("delta_net.norm", "linear_attn.norm"),
    ("router", "mlp.gate"),
    ("shared.gate", "mlp.shared_expert.gate_proj"),
    ("shared.up", "mlp.shared_expert.up_proj"),
    ("shared.down", "mlp.shared_expert.down_proj"),
    ("shared.scalar_gate", "mlp.shared_expert_gate"),
];
