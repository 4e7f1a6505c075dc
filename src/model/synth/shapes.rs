use super::super::config::LinearConfig;
use super::super::{Config, LayerKind, ModelType};

/// Published models whose shapes can be synthesised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// 60 layers of 512 experts.
    #[value(name = "qwen3.5-397b-a17b")]
    Qwen35A17b,
    /// 48 layers of 256 experts.
    #[value(name = "qwen3.5-122b-a10b")]
    Qwen35A10b,
    /// 40 layers of 256 experts.
    #[value(name = "qwen3.5-35b-a3b")]
    Qwen35A3b,
    /// 48 layers of 512 experts.
    #[value(name = "qwen3-next-80b-a3b")]
    Qwen3NextA3b,
}

impl Shape {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Qwen35A17b => "qwen3.5-397b-a17b",
            Shape::Qwen35A10b => "qwen3.5-122b-a10b",
            Shape::Qwen35A3b => "qwen3.5-35b-a3b",
            Shape::Qwen3NextA3b => "qwen3-next-80b-a3b",
        }
    }

    /// The model's config with its first `layers` layers.
    pub(crate) fn config(self, layers: Option<usize>) -> Config {
        // (layers, hidden, heads, value heads, experts, top-k, expert width, vocabulary)
        let (all, hidden, heads, value_heads, experts, top_k, width, vocab) = match self {
            Shape::Qwen35A17b => (60, 4096, 32, 64, 512, 10, 1024, 248_320),
            Shape::Qwen35A10b => (48, 3072, 32, 64, 256, 8, 1024, 248_320),
            Shape::Qwen35A3b => (40, 2048, 16, 32, 256, 8, 512, 248_320),
            Shape::Qwen3NextA3b => (48, 2048, 16, 32, 512, 10, 512, 151_936),
        };
        let layers = layers.unwrap_or(all).clamp(1, all);
        let model_type = if self == Shape::Qwen3NextA3b { ModelType::Qwen3Next } else { ModelType::Qwen35Moe };
        Config {
            model_type,
            hidden,
            layers: (1..=layers)
                .map(|i| if i % 4 == 0 { LayerKind::FullAttention } else { LayerKind::LinearAttention })
                .collect(),
            vocab,
            rms_eps: 1e-6,
            max_positions: 262_144,
            heads,
            kv_heads: 2,
            head_dim: 256,
            rotary_dim: 64,
            rope_theta: 1e7,
            attention_gate: true,
            norm_plus_one: false,
            linear: Some(LinearConfig { key_heads: 16, value_heads, key_dim: 128, value_dim: 128, conv_kernel: 4 }),
            experts,
            top_k,
            renormalise: true,
            moe_intermediate: width,
            shared_intermediate: Some(width),
            tied_embeddings: false,
        }
    }
}
