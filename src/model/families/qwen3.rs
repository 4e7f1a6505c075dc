//! Qwen3, dense: attention with norms of queries and keys, and SwiGLU.

use super::Model;
use super::keys::{AttentionOf, ConfigKeys, Trunk};
use crate::file_error::FileError;
use crate::model::blocks::{attention, feed_forward};
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{AttentionShape, FeedForward, LayerShape, Mixer, Shape};
use crate::weights::names::{MLP_EXPERTS, Names};

struct Qwen3 {
    trunk: Trunk,
    layers: usize,
    attention: AttentionShape,
    width: usize,
}

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
        Names { layer: &LAYER, norms_plus_one: false, fused: Vec::new(), experts: MLP_EXPERTS }
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        let x = r.embed(self.trunk.vocab, self.trunk.hidden)?;
        for i in 0..self.layers {
            r.begin_layer(i);
            let normed = r.norm("input_norm", x)?;
            attention(r, &self.attention, normed, x)?;
            let normed = r.norm("post_norm", x)?;
            feed_forward(r, self.width, normed, x)?;
            r.end_layer(i);
        }
        let normed = r.norm("norm", x)?;
        r.logits(normed, self.trunk.tied_embeddings)
    }
}

const LAYER: [(&str, &str); 11] = [
    ("input_norm", "input_layernorm"),
    ("post_norm", "post_attention_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.o", "self_attn.o_proj"),
    ("attention.q_norm", "self_attn.q_norm"),
    ("attention.k_norm", "self_attn.k_norm"),
    ("ffn.gate", "mlp.gate_proj"),
    ("ffn.up", "mlp.up_proj"),
    ("ffn.down", "mlp.down_proj"),
];
