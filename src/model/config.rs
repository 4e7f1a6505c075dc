//! `config.json`, read once into one struct: what differs between the members of the family is a field here.
//!
//! Every number is held against a limit before anything is computed from it, so that products of shapes cannot
//! overflow later.

mod read;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

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
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// What can be wrong with `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("{path}: not valid JSON: {source}", path = .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key is not there.
    #[error("{path}: `{key}` is missing: expected {expected}", path = .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// With the objects around it: `text_config.hidden_size`.
        key: String,
        /// What it should hold.
        expected: String,
    },
    /// A key holds something else than it should.
    #[error("{path}: `{key}`: expected {expected}, found {found}", path = .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// With the objects around it: `text_config.hidden_size`.
        key: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// Not a model of the family.
    #[error(
        "{path}: `{key}`: expected one of qwen3_5_moe, qwen3_5_moe_text, qwen3_next, qwen3_moe, found {found}{hint}",
        path = .path.display()
    )]
    ModelType {
        /// The file.
        path: PathBuf,
        /// `model_type`, with the objects around it.
        key: String,
        /// What it holds.
        found: String,
        /// Empty, or a line that says more.
        hint: &'static str,
    },
}

/// Widths and vocabularies beyond these are no model: the limits keep every product of shapes inside 64 bits.
const MAX_WIDTH: usize = 1 << 17;
const MAX_HEADS: usize = 1 << 12;
const MAX_LAYERS: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 30;

impl Config {
    /// Holds every number against what a model can have and what the kernels can do. Whoever makes a `Config` from
    /// something other than a `config.json` calls it before use; `path` is for messages.
    ///
    /// # Errors
    /// The first value that does not hold, under its key in `config.json`.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key: &str, expected: &str, found: String| {
            Err(ConfigError::Value { path: path.to_owned(), key: key.to_owned(), expected: expected.to_owned(), found })
        };
        let range = |key: &str, value: usize, range: RangeInclusive<usize>, why: &str| match range.contains(&value) {
            true => Ok(()),
            false => fail(key, &format!("{} to {}{why}", range.start(), range.end()), value.to_string()),
        };
        let columns = |key: &str, value: usize| match value % 32 {
            0 => Ok(()),
            _ => fail(key, "a multiple of 32 (the kernels take 32 columns at a time)", value.to_string()),
        };

        range("num_hidden_layers", self.layers.len(), 1..=MAX_LAYERS, "")?;
        range("hidden_size", self.hidden, 1..=MAX_WIDTH, "")?;
        columns("hidden_size", self.hidden)?;
        range("vocab_size", self.vocab, 1..=MAX_VOCAB, "")?;
        range("max_position_embeddings", self.max_positions, 1..=MAX_POSITIONS, "")?;
        range("num_attention_heads", self.heads, 1..=MAX_HEADS, "")?;
        range("num_key_value_heads", self.kv_heads, 1..=self.heads, " (num_attention_heads)")?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({})", self.heads);
            return fail("num_key_value_heads", &expected, self.kv_heads.to_string());
        }
        range("head_dim", self.head_dim, 1..=256, " (what the attention kernels hold)")?;
        columns("num_attention_heads * head_dim", self.heads * self.head_dim)?;
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let expected = format!("an even number of rotated elements, 2 to {} (head_dim)", self.head_dim);
            return fail("head_dim * partial_rotary_factor", &expected, self.rotary_dim.to_string());
        }
        if !(self.rms_eps.is_finite() && self.rms_eps > 0.0) {
            return fail("rms_norm_eps", "a finite number above 0", self.rms_eps.to_string());
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return fail("rope_theta", "a finite number, 1 or more", self.rope_theta.to_string());
        }
        range("num_experts", self.experts, 1..=1024, " (what the router kernel holds)")?;
        let most = self.experts.min(32);
        let why = if most == 32 { " (what the router kernel holds)" } else { " (num_experts)" };
        range("num_experts_per_tok", self.top_k, 1..=most, why)?;
        range("moe_intermediate_size", self.moe_intermediate, 1..=MAX_WIDTH, "")?;
        columns("moe_intermediate_size", self.moe_intermediate)?;
        if let Some(shared) = self.shared_intermediate {
            range("shared_expert_intermediate_size", shared, 1..=MAX_WIDTH, "")?;
            columns("shared_expert_intermediate_size", shared)?;
        }

        match (&self.linear, self.layers.contains(&LayerKind::LinearAttention)) {
            (Some(linear), _) => {
                range("linear_num_key_heads", linear.key_heads, 1..=MAX_HEADS, "")?;
                range("linear_num_value_heads", linear.value_heads, 1..=MAX_HEADS, "")?;
                if linear.value_heads % linear.key_heads != 0 {
                    let expected = format!("a multiple of linear_num_key_heads ({})", linear.key_heads);
                    return fail("linear_num_value_heads", &expected, linear.value_heads.to_string());
                }
                let holds = " (what the delta-net kernels hold)";
                range("linear_key_head_dim", linear.key_dim, 1..=256, holds)?;
                range("linear_value_head_dim", linear.value_dim, 1..=256, holds)?;
                columns("linear_num_value_heads * linear_value_head_dim", linear.value_heads * linear.value_dim)?;
                range("linear_conv_kernel_dim", linear.conv_kernel, 2..=8, " (what the convolution kernel holds)")
            }
            (None, true) => fail("layer_types", "no linear attention where its shapes are missing", "some".to_owned()),
            (None, false) => Ok(()),
        }
    }

    /// Elements of a routed expert: gate, up and down.
    pub fn expert_elements(&self) -> usize {
        3 * self.hidden * self.moe_intermediate
    }
}

#[cfg(test)]
mod tests;
