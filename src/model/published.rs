//! Published models whose shapes can be made with random weights, so that a machine can be measured before 200 GB are
//! downloaded.

mod gguf;
mod tokenizer;

use std::path::Path;

use serde_json::{Value, json};

use super::{ModelSource, Shape, SourceError, TextFiles, shape_of_config};
use crate::weights::random::{RandomFormats, RandomSource};
#[cfg(test)]
pub(crate) use gguf::random_gguf;

/// A published model, by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Published {
    /// 60 layers of 512 experts.
    #[cfg_attr(feature = "cli", value(name = "qwen3.5-397b-a17b"))]
    Qwen35A17b,
    /// 48 layers of 256 experts.
    #[cfg_attr(feature = "cli", value(name = "qwen3.5-122b-a10b"))]
    Qwen35A10b,
    /// 40 layers of 256 experts.
    #[cfg_attr(feature = "cli", value(name = "qwen3.5-35b-a3b"))]
    Qwen35A3b,
    /// 64 dense layers.
    #[cfg_attr(feature = "cli", value(name = "qwen3.5-27b"))]
    Qwen3527b,
    /// 48 layers of 512 experts.
    #[cfg_attr(feature = "cli", value(name = "qwen3-next-80b-a3b"))]
    Qwen3NextA3b,
    /// 36 dense layers.
    #[cfg_attr(feature = "cli", value(name = "qwen3-4b"))]
    Qwen34b,
    /// 32 layers of 8 experts.
    #[cfg_attr(feature = "cli", value(name = "mixtral-8x7b"))]
    Mixtral8x7b,
}

impl Published {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Published::Qwen35A17b => "qwen3.5-397b-a17b",
            Published::Qwen35A10b => "qwen3.5-122b-a10b",
            Published::Qwen35A3b => "qwen3.5-35b-a3b",
            Published::Qwen3527b => "qwen3.5-27b",
            Published::Qwen3NextA3b => "qwen3-next-80b-a3b",
            Published::Qwen34b => "qwen3-4b",
            Published::Mixtral8x7b => "mixtral-8x7b",
        }
    }

    /// Its `config.json`, with the first `layers` layers.
    pub(crate) fn config(self, layers: Option<usize>) -> Value {
        let mut config = match self {
            // (layers, hidden, heads, value heads, experts, top-k, expert width)
            Published::Qwen35A17b => qwen3_5_moe((60, 4096, 32, 64, 512, 10, 1024)),
            Published::Qwen35A10b => qwen3_5_moe((48, 3072, 32, 64, 256, 8, 1024)),
            Published::Qwen35A3b => qwen3_5_moe((40, 2048, 16, 32, 256, 8, 512)),
            Published::Qwen3NextA3b => {
                let mut config = qwen3_5_moe((48, 2048, 16, 32, 512, 10, 512));
                config["model_type"] = json!("qwen3_next");
                config["vocab_size"] = json!(151_936);
                config
            }
            Published::Qwen3527b => with(
                gated(64, 5120, 24, 48),
                json!({ "model_type": "qwen3_5", "num_key_value_heads": 4, "intermediate_size": 17_408 }),
            ),
            Published::Qwen34b => json!({
                "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 2560, "vocab_size": 151_936,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728,
                "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40_960,
                "tie_word_embeddings": true
            }),
            Published::Mixtral8x7b => json!({
                "model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32_000,
                "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336,
                "num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
                "max_position_embeddings": 32_768, "tie_word_embeddings": false
            }),
        };
        let all = config["num_hidden_layers"].as_u64().unwrap_or(1);
        let wanted = layers.map_or(all, |layers| (layers as u64).clamp(1, all));
        config["num_hidden_layers"] = json!(wanted);
        config
    }

    /// Sizes of the whole model.
    pub(crate) fn shape(self) -> Result<Shape, SourceError> {
        let config = self.config(None).to_string();
        Ok(shape_of_config(Path::new(self.name()), &config)?)
    }

    /// A model of this shape with its first `layers` layers (all when `None`), experts of `bits` bits and everything else
    /// of `resident_bits`.
    ///
    /// # Errors
    /// None, unless its configuration is one that the families refuse.
    pub fn synthesise(
        self,
        layers: Option<usize>,
        bits: u8,
        resident_bits: u8,
        seed: u64,
    ) -> Result<ModelSource, SourceError> {
        let formats = RandomFormats::Affine { bits, resident_bits };
        random_model(Path::new(self.name()), self.config(layers), formats, seed)
    }

    /// The same in FP8 as official releases have it: a scale for 128 columns; embedding, logits, routers and gates in bf16.
    ///
    /// # Errors
    /// None, unless its configuration is one that the families refuse.
    pub fn synthesise_fp8(self, layers: Option<usize>, seed: u64) -> Result<ModelSource, SourceError> {
        random_model(Path::new(self.name()), self.config(layers), RandomFormats::Fp8, seed)
    }
}

/// A model of any configuration with random weights. `root` names it.
pub(crate) fn random_model(
    root: &Path,
    config: Value,
    formats: RandomFormats,
    seed: u64,
) -> Result<ModelSource, SourceError> {
    let text_files = TextFiles { tokenizer: Some(tokenizer::byte_level()), ..TextFiles::default() };
    ModelSource::of_source(root, config.to_string(), &RandomSource::new(formats, seed), text_files)
}

/// What the Qwen3.5 and Qwen3-Next families have in common.
fn gated(layers: usize, hidden: usize, heads: usize, value_heads: usize) -> Value {
    json!({
        "num_hidden_layers": layers, "hidden_size": hidden, "vocab_size": 248_320, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 262_144, "num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": 256,
        "rope_theta": 1e7, "partial_rotary_factor": 0.25, "full_attention_interval": 4,
        "linear_num_key_heads": 16, "linear_num_value_heads": value_heads, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "tie_word_embeddings": false
    })
}

fn qwen3_5_moe(
    (layers, hidden, heads, value_heads, experts, top_k, width): (usize, usize, usize, usize, usize, usize, usize),
) -> Value {
    with(
        gated(layers, hidden, heads, value_heads),
        json!({
            "model_type": "qwen3_5_moe", "num_experts": experts, "num_experts_per_tok": top_k,
            "moe_intermediate_size": width, "shared_expert_intermediate_size": width
        }),
    )
}

/// The keys of both objects; those of the second win.
fn with(mut config: Value, more: Value) -> Value {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}
