//! What the rest of the program knows of a model: sizes, and what kinds of layers it has. Which family it is of only
//! [`families`](super::families) know.

use super::yarn::Yarn;
use crate::compute::ops::DeltaNetShape;

/// Shapes and constants of a model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Shape {
    /// The family's name in `config.json`.
    pub model_type: &'static str,
    /// Residual width.
    pub hidden: usize,
    /// Rows of the embedding, padding included.
    pub vocab: usize,
    /// Longest context: what the model was trained for, or what rotary positions are stretched to.
    pub max_positions: usize,
    /// Epsilon of every RMS norm.
    pub rms_eps: f32,
    /// lm_head is the embedding.
    pub tied_embeddings: bool,
    /// From first to last.
    pub layers: Vec<LayerShape>,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LayerShape {
    /// What mixes tokens.
    pub mixer: Mixer,
    /// What follows it.
    pub feed_forward: FeedForward,
}

/// What mixes tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Softmax attention over a KV cache.
    Attention(AttentionShape),
    /// Gated delta-net: linear attention.
    DeltaNet(DeltaNetShape),
}

/// What a layer does with each token.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// SwiGLU of this width.
    Dense {
        /// Width between its products.
        width: usize,
    },
    /// Routed experts.
    Moe(MoeShape),
}

/// Softmax attention.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Elements of a head that are rotated.
    pub rotary_dim: usize,
    /// Base of the rotation.
    pub rope_theta: f64,
    /// How the rotation is stretched to longer contexts than the model was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yarn: Option<Yarn>,
    /// q carries a gate per head that multiplies the output through a sigmoid.
    pub gate: bool,
    /// Heads of queries and keys are normed before they are rotated.
    pub head_norms: bool,
    /// Positions that a query sees, itself included; all of them where there is no window.
    pub window: Option<usize>,
}

/// A layer of routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MoeShape {
    /// Routed experts.
    pub experts: usize,
    /// Routed experts per token.
    pub top_k: usize,
    /// Width of a routed expert.
    pub width: usize,
    /// Router weights are divided by their sum.
    pub renormalise: bool,
    /// Width of the expert that every token uses, where there is one.
    pub shared: Option<usize>,
}

impl Shape {
    /// The layers that have routed experts, by their place in the model.
    pub fn moe_layers(&self) -> Vec<usize> {
        let is_moe = |layer: &LayerShape| matches!(layer.feed_forward, FeedForward::Moe(_));
        self.layers.iter().enumerate().filter(|(_, layer)| is_moe(layer)).map(|(i, _)| i).collect()
    }

    /// The routed experts of the first layer that has some.
    pub fn moe(&self) -> Option<MoeShape> {
        self.layers.iter().find_map(|layer| match layer.feed_forward {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense { .. } => None,
        })
    }

    /// The first layer of attention.
    pub fn attention(&self) -> Option<AttentionShape> {
        self.layers.iter().find_map(|layer| match layer.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::DeltaNet(_) => None,
        })
    }

    /// How rotary positions are stretched, where they are.
    pub fn yarn(&self) -> Option<Yarn> {
        self.attention().and_then(|attention| attention.yarn)
    }

    /// Positions that the model was trained for.
    pub(crate) fn trained_positions(&self) -> usize {
        self.yarn().map_or(self.max_positions, |yarn| yarn.original)
    }

    /// The first gated delta-net.
    pub fn delta_net(&self) -> Option<DeltaNetShape> {
        self.layers.iter().find_map(|layer| match layer.mixer {
            Mixer::DeltaNet(delta_net) => Some(delta_net),
            Mixer::Attention(_) => None,
        })
    }

    /// Cosines, then sines, for positions `first..first + tokens`: `[tokens, rotary_dim]`.
    ///
    /// Made on the CPU: WGSL only specifies sine and cosine on [-pi, pi]. The angle is a product of f32 as in the reference.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "f32 as in the reference")]
    pub(crate) fn rope_table(&self, first: usize, tokens: usize) -> Vec<f32> {
        let Some(AttentionShape { rotary_dim, rope_theta, yarn, .. }) = self.attention() else {
            return vec![0.0; 4];
        };
        let plain = |i: usize| (1.0 / rope_theta.powf(2.0 * i as f64 / rotary_dim as f64)) as f32;
        let frequencies = match yarn {
            Some(yarn) => yarn.frequencies(rope_theta, rotary_dim),
            None => (0..rotary_dim / 2).map(plain).collect(),
        };
        let scale = yarn.map_or(1.0, |yarn| yarn.attention_factor as f32);
        let mut table = Vec::with_capacity(tokens * rotary_dim);
        for position in first..first + tokens {
            let angles = frequencies.iter().map(|f| position as f32 * f);
            table.extend(angles.clone().map(|angle| scale * angle.cos()));
            table.extend(angles.map(|angle| scale * angle.sin()));
        }
        table
    }
}
