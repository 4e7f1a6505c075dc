//! Qwen3.5, dense, alone or as the text part of a vision release: gated delta-nets with gated attention in every fourth
//! layer, and SwiGLU.

use super::Model;
use super::keys::{ConfigKeys, Trunk};
use super::qwen3_5_moe::GATED;
use crate::file_error::FileError;
use crate::model::blocks::{attention, delta_net, feed_forward};
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{FeedForward, LayerShape, Mixer, Shape};
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen35 {
    trunk: Trunk,
    layers: Vec<Mixer>,
    width: usize,
}

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
            feed_forward(r, self.width, normed, x)?;
            r.end_layer(i);
        }
        let normed = r.norm("norm", x)?;
        r.logits(normed, self.trunk.tied_embeddings)
    }
}

const LAYER: [(&str, &str); 20] = [
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
    ("ffn.gate", "mlp.gate_proj"),
    ("ffn.up", "mlp.up_proj"),
    ("ffn.down", "mlp.down_proj"),
];
