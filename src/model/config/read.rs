//! From the text of a `config.json` to a [`Config`].

use std::path::Path;

use serde_json::Value;

use super::{Config, ConfigError, LayerKind, LinearConfig, MAX_LAYERS, ModelType};
use crate::model::json::{self, Keys};

const DENSE: &str = "\nhint: this is a dense model: it has no experts to stream, and flashflood does not run it";

impl Config {
    /// Reads the text of a `config.json`, nested (`text_config`) or flat. `path` is for messages.
    ///
    /// # Errors
    /// Text that is not JSON, an unknown `model_type`, a missing key, and every value that [`Config::check`] refuses;
    /// each names the file, the key, what was expected and what was found.
    pub fn from_json(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let root: Value =
            serde_json::from_str(text).map_err(|source| ConfigError::Json { path: path.to_owned(), source })?;
        let root = Keys::root(path, &root)?;
        let keys = root.object("text_config")?.unwrap_or_else(|| root.clone());
        let model_type = model_type(&root, &keys)?;
        let gated = model_type != ModelType::Qwen3Moe;
        refuse_unsupported(&keys)?;
        let layers = layers(&keys, model_type)?;
        let head_dim = keys.size("head_dim")?;
        let (rope_theta, rotary_dim) = rope(&keys, gated, head_dim)?;
        let linear = match layers.contains(&LayerKind::LinearAttention) {
            true => Some(LinearConfig {
                key_heads: keys.size("linear_num_key_heads")?,
                value_heads: keys.size("linear_num_value_heads")?,
                key_dim: keys.size("linear_key_head_dim")?,
                value_dim: keys.size("linear_value_head_dim")?,
                conv_kernel: keys.size("linear_conv_kernel_dim")?,
            }),
            false => None,
        };
        let config = Config {
            model_type,
            hidden: keys.size("hidden_size")?,
            layers,
            vocab: keys.size("vocab_size")?,
            #[expect(clippy::cast_possible_truncation, reason = "an epsilon that f32 cannot hold is refused by check")]
            rms_eps: keys.number("rms_norm_eps")? as f32,
            max_positions: keys.size("max_position_embeddings")?,
            heads: keys.size("num_attention_heads")?,
            kv_heads: keys.size("num_key_value_heads")?,
            head_dim,
            rotary_dim,
            rope_theta,
            attention_gate: gated,
            norm_plus_one: gated,
            linear,
            experts: match keys.has("num_experts") {
                false if keys.has("num_local_experts") => keys.size("num_local_experts")?,
                _ => keys.size("num_experts")?,
            },
            top_k: keys.size("num_experts_per_tok")?,
            renormalise: keys.flag("norm_topk_prob")?.unwrap_or(true),
            moe_intermediate: keys.size("moe_intermediate_size")?,
            shared_intermediate: match gated {
                true => Some(keys.size("shared_expert_intermediate_size")?),
                false => None,
            },
            tied_embeddings: keys.flag("tie_word_embeddings")?.or(root.flag("tie_word_embeddings")?).unwrap_or(false),
        };
        config.check(path)?;
        Ok(config)
    }
}

fn model_type(root: &Keys<'_>, text: &Keys<'_>) -> Result<ModelType, ConfigError> {
    let keys = if text.has("model_type") { text } else { root };
    let found = keys.text("model_type")?;
    let found = match found {
        Some("qwen3_5_moe" | "qwen3_5_moe_text") => return Ok(ModelType::Qwen35Moe),
        Some("qwen3_next") => return Ok(ModelType::Qwen3Next),
        Some("qwen3_moe") => return Ok(ModelType::Qwen3Moe),
        Some(other) => other,
        None => {
            return Err(keys.missing("model_type", "qwen3_5_moe, qwen3_5_moe_text, qwen3_next or qwen3_moe"));
        }
    };
    let dense = matches!(found, "qwen3_5" | "qwen3_5_text" | "qwen3" | "qwen2" | "llama" | "mistral" | "gemma3");
    Err(ConfigError::ModelType {
        path: keys.path().to_owned(),
        key: keys.name("model_type"),
        found: found.chars().take(80).collect(),
        hint: if dense { DENSE } else { "" },
    })
}

/// Refuses what would change the mathematics and is not implemented.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), ConfigError> {
    if let Some(act) = keys.text("hidden_act")?
        && act != "silu"
    {
        return Err(keys.value("hidden_act", "\"silu\""));
    }
    if keys.has("decoder_sparse_step") && keys.size("decoder_sparse_step")? != 1 {
        return Err(keys.value("decoder_sparse_step", "1 (every layer has experts)"));
    }
    if keys.list("mlp_only_layers")?.is_some_and(|layers| !layers.is_empty()) {
        return Err(keys.value("mlp_only_layers", "an empty list (every layer has experts)"));
    }
    for key in ["attention_bias", "use_sliding_window"] {
        if keys.flag(key)? == Some(true) {
            return Err(keys.value(key, "false"));
        }
    }
    Ok(())
}

fn layers(keys: &Keys<'_>, model_type: ModelType) -> Result<Vec<LayerKind>, ConfigError> {
    let count = keys.size("num_hidden_layers")?;
    // before a list of that length is made
    if !(1..=MAX_LAYERS).contains(&count) {
        return Err(keys.value("num_hidden_layers", &format!("1 to {MAX_LAYERS}")));
    }
    let all_full = model_type == ModelType::Qwen3Moe;
    let Some(types) = keys.list("layer_types")? else {
        if all_full {
            return Ok(vec![LayerKind::FullAttention; count]);
        }
        if !keys.has("full_attention_interval") {
            return Err(keys.missing("layer_types", "a kind per layer, or `full_attention_interval`"));
        }
        let interval = keys.size("full_attention_interval")?;
        if interval == 0 {
            return Err(keys.value("full_attention_interval", "1 or more"));
        }
        return Ok((1..=count)
            .map(|i| if i % interval == 0 { LayerKind::FullAttention } else { LayerKind::LinearAttention })
            .collect());
    };
    let wrong = |key: String, expected: String, found: String| {
        Err(ConfigError::Value { path: keys.path().to_owned(), key, expected, found })
    };
    if types.len() != count {
        let expected = format!("{count} kinds (num_hidden_layers)");
        return wrong(keys.name("layer_types"), expected, types.len().to_string());
    }
    let mut layers = Vec::with_capacity(count);
    for (i, kind) in types.iter().enumerate() {
        layers.push(match kind.as_str() {
            Some("full_attention") => LayerKind::FullAttention,
            Some("linear_attention") if !all_full => LayerKind::LinearAttention,
            _ => {
                let expected = match all_full {
                    true => "\"full_attention\" (qwen3_moe has no other kind)",
                    false => "\"linear_attention\" or \"full_attention\"",
                };
                let key = keys.name(&format!("layer_types[{i}]"));
                return wrong(key, expected.to_owned(), json::shown(kind));
            }
        });
    }
    Ok(layers)
}

/// The base of the rotation and how many elements of a head are rotated.
fn rope(keys: &Keys<'_>, partial: bool, head_dim: usize) -> Result<(f64, usize), ConfigError> {
    let nested = keys.object("rope_parameters")?;
    for scaling in [nested.clone(), keys.object("rope_scaling")?].into_iter().flatten() {
        for key in ["rope_type", "type"] {
            if scaling.text(key)?.is_some_and(|kind| kind != "default") {
                return Err(scaling.value(key, "\"default\" (scaled rotary positions are not implemented)"));
            }
        }
    }
    let holder = |key: &str| match &nested {
        Some(nested) if nested.has(key) || !keys.has(key) => nested.clone(),
        _ => keys.clone(),
    };
    let theta = holder("rope_theta").number("rope_theta")?;
    if !partial {
        return Ok((theta, head_dim));
    }
    let holder = holder("partial_rotary_factor");
    let factor = holder.number("partial_rotary_factor")?;
    if !(factor > 0.0 && factor <= 1.0) {
        return Err(holder.value("partial_rotary_factor", "a number above 0, at most 1"));
    }
    // rounded down, as the reference does
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a product of a factor in (0, 1] and a size; an absurd head_dim is refused by check"
    )]
    let rotary = (head_dim as f64 * factor) as usize;
    Ok((theta, rotary))
}
