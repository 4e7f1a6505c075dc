//! `config.json`, read once into one struct: what differs between the members of the family is a field here.

/// The three members of the family that share one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// Qwen3.5-MoE (and 3.6).
    #[serde(rename = "qwen3_5_moe")]
    Qwen35Moe,
    /// Qwen3-Next.
    Qwen3Next,
    /// Qwen3-MoE.
    Qwen3Moe,
}

/// What mixes tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// Gated delta-net.
    LinearAttention,
    /// Softmax attention over a KV cache.
    FullAttention,
}

/// Shapes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which member of the family.
    pub model_type: ModelType,
    /// Residual width.
    pub hidden: usize,
    /// One per layer.
    pub layers: Vec<LayerKind>,
    /// Rows of the embedding, padding included.
    pub vocab: usize,
    /// Epsilon of every RMS norm.
    pub rms_eps: f32,
    /// Longest context the model was trained for.
    pub max_positions: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per attention head.
    pub head_dim: usize,
    /// Elements of a head that are rotated.
    pub rotary_dim: usize,
    /// Base of the rotation.
    pub rope_theta: f64,
    /// q_proj carries a gate per head that multiplies the attention output through a sigmoid.
    pub attention_gate: bool,
    /// Norm weights on disk are `w` of `1 + w` (the gated delta-net's norm never is).
    pub norm_plus_one: bool,
    /// Present when any layer is linear attention.
    pub linear: Option<LinearConfig>,
    /// Routed experts per layer.
    pub experts: usize,
    /// Routed experts per token.
    pub top_k: usize,
    /// Router weights are divided by their sum.
    pub renormalise: bool,
    /// Width of a routed expert.
    pub moe_intermediate: usize,
    /// Width of the shared expert, where there is one.
    pub shared_intermediate: Option<usize>,
    /// lm_head is the embedding.
    pub tied_embeddings: bool,
}

/// Shapes of the gated delta-net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearConfig {
    /// Query and key heads.
    pub key_heads: usize,
    /// Value heads, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements per query and key head.
    pub key_dim: usize,
    /// Elements per value head.
    pub value_dim: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
}

impl LinearConfig {
    /// Channels of the convolution: q, k and v.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }
}
