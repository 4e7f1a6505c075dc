//! The metadata of a GGUF file with the shape of a published model: keys of the model and a tokenizer of bytes, as
//! llama.cpp reads them too.

use std::path::Path;

use serde_json::Value;

use super::tokenizer::{SPECIAL, byte_characters};
use super::{Published, random_model};
use crate::file_error::FileError;
use crate::model::{SourceError, families};
use crate::weights::gguf::{RandomGguf, Written, computed_with, named};
use crate::weights::random::RandomFormats;

/// (key of `config.json`, key behind the architecture).
const SIZES: [(&str, &str); 18] = [
    ("num_hidden_layers", "block_count"),
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("vocab_size", "vocab_size"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("head_dim", "attention.value_length"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ("intermediate_size", "feed_forward_length"),
    ("full_attention_interval", "full_attention_interval"),
    ("linear_conv_kernel_dim", "ssm.conv_kernel"),
    ("linear_key_head_dim", "ssm.state_size"),
    ("linear_num_key_heads", "ssm.group_count"),
];

impl Published {
    /// The types that matrices of [`gguf`](Self::gguf) may have.
    pub fn gguf_types() -> Vec<&'static str> {
        computed_with()
    }

    /// A GGUF file of this shape with its first `layers` layers (all when `None`), whose matrices have the type `kind`.
    ///
    /// # Errors
    /// A type that is not one of [`gguf_types`](Self::gguf_types).
    pub fn gguf(self, layers: Option<usize>, kind: &str, seed: u64) -> Result<RandomGguf, SourceError> {
        random_gguf(Path::new(self.name()), self.config(layers), kind, seed)
    }
}

/// A GGUF file of any configuration. `root` names it.
pub(crate) fn random_gguf(root: &Path, config: Value, kind: &str, seed: u64) -> Result<RandomGguf, SourceError> {
    let known = computed_with();
    let Some(kind) = named(kind).filter(|kind| known.contains(&kind.name)) else {
        return Err(FileError::new(root, "type", format!("one of {}", known.join(", ")), kind).into());
    };
    let model = families::read(root, &config.to_string())?;
    let shape = model.shape();
    let keys = keys(families::gguf_architecture(shape.model_type), &root.to_string_lossy(), &config);
    // of the weights themselves only the vectors are taken
    let source = random_model(root, config, RandomFormats::Affine { bits: 4, resident_bits: 4 }, seed)?;
    Ok(RandomGguf::new(&keys, &source.weights, &shape.moe_layers(), &model.gguf_names(), kind, seed))
}

fn keys(architecture: &str, name: &str, config: &Value) -> Vec<(String, Written)> {
    let size = |key: &str| config[key].as_u64().and_then(|size| u32::try_from(size).ok());
    let of = |key: &str, value: Written| (format!("{architecture}.{key}"), value);
    let plain = |key: &str, value: Written| (key.to_owned(), value);
    let mut keys = vec![
        plain("general.architecture", Written::Text(architecture.to_owned())),
        plain("general.name", Written::Text(format!("random weights of the shape of {name}"))),
        plain("general.quantization_version", Written::U32(2)),
    ];
    for (from, to) in SIZES {
        keys.extend(size(from).map(|size| of(to, Written::U32(size))));
    }
    for (from, to) in [("rms_norm_eps", "attention.layer_norm_rms_epsilon"), ("rope_theta", "rope.freq_base")] {
        #[expect(clippy::cast_possible_truncation, reason = "files have f32")]
        keys.extend(config[from].as_f64().map(|number| of(to, Written::F32(number as f32))));
    }
    let heads = size("num_attention_heads").unwrap_or(1);
    let head = size("head_dim").unwrap_or_else(|| size("hidden_size").unwrap_or(0) / heads);
    let share = config["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a head")]
    let rotated = (f64::from(head) * share) as u32;
    keys.push(of("rope.dimension_count", Written::U32(rotated)));
    if let Some(value_heads) = size("linear_num_value_heads") {
        let width = value_heads * size("linear_value_head_dim").unwrap_or(0);
        keys.push(of("ssm.time_step_rank", Written::U32(value_heads)));
        keys.push(of("ssm.inner_size", Written::U32(width)));
        // height, width and time of pictures, in the proportions of the releases: llama.cpp wants them to be said
        let half = i32::try_from(rotated / 2).unwrap_or(0);
        let third = half * 11 / 32;
        let sections = vec![third, third, half - 2 * third, 0];
        keys.push(of("rope.dimension_sections", Written::I32s(sections)));
    }
    keys.extend(tokenizer(architecture, size("vocab_size").unwrap_or(0) as usize));
    keys
}

/// A tokenizer of 256 bytes and the chat tokens; the rest of the vocabulary is not used.
fn tokenizer(architecture: &str, vocab: usize) -> Vec<(String, Written)> {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    let bytes = byte_characters();
    // readers want a merge, and this one is of every such tokenizer: two spaces
    let space = bytes[usize::from(b' ')];
    let mut tokens: Vec<(String, i32)> = bytes.iter().map(|c| (c.to_string(), NORMAL)).collect();
    tokens.extend(SPECIAL.map(|token| (token.to_owned(), CONTROL)));
    tokens.push((format!("{space}{space}"), NORMAL));
    let unused = (tokens.len()..vocab).map(|id| (format!("[unused {id}]"), UNUSED));
    tokens.extend(unused);
    tokens.truncate(vocab.max(bytes.len()));
    let is_there = tokens.iter().any(|(_, kind)| *kind == CONTROL);
    let (texts, kinds) = tokens.into_iter().unzip();
    let pre = if architecture.starts_with("qwen35") { "qwen35" } else { "qwen2" };
    let mut keys = vec![
        ("model", Written::Text("gpt2".to_owned())),
        ("pre", Written::Text(pre.to_owned())),
        ("tokens", Written::Texts(texts)),
        ("token_type", Written::I32s(kinds)),
        ("merges", Written::Texts(vec![format!("{space} {space}")])),
        ("add_bos_token", Written::Flag(false)),
    ];
    if is_there {
        let first = u32::try_from(bytes.len()).unwrap_or(0);
        keys.push(("eos_token_id", Written::U32(first + 2)));
        keys.push(("padding_token_id", Written::U32(first)));
    }
    keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
}
