//! From the metadata of a GGUF file to a `config.json`: everything behind it (shapes, identities, packs, sessions) then
//! is the same wherever the weights lie.

use serde_json::{Map, Value, json};

use super::keys::VALUE_HEADS_IN_TURN;
use crate::file_error::FileError;
use crate::model::Yarn;
use crate::model::shape::Shape;
use crate::weights::gguf::{Gguf, GgufNames, Metadata};
use crate::weights::names::FusedRows;

/// What GGUF files of a family are called, and which of their keys it has.
pub(super) struct GgufFamily {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Puts the family's keys together.
    pub(super) config: fn(&mut GgufKeys<'_>) -> Result<(), FileError>,
}

/// A `config.json` that is made from a GGUF file.
pub(crate) struct GgufConfig {
    /// Its text.
    pub(crate) text: String,
    /// (key of it, key of the file that it comes from).
    origins: Vec<(&'static str, String)>,
}

impl GgufConfig {
    /// An error about a key of this text as one about the key of the file that it comes from.
    pub(crate) fn in_file(&self, error: FileError) -> FileError {
        let origin = self.origins.iter().find(|(key, _)| error.place() == format!("`{key}`"));
        match origin {
            Some((_, origin)) => error.at(format!("`{origin}`")),
            None => error,
        }
    }
}

/// Keys of a file, on their way into a `config.json`.
pub(super) struct GgufKeys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
    config: Map<String, Value>,
    origins: Vec<(&'static str, String)>,
}

impl<'a> GgufKeys<'a> {
    pub(super) fn new(gguf: &'a Gguf, architecture: &'a str) -> GgufKeys<'a> {
        GgufKeys { gguf, architecture, config: Map::new(), origins: Vec::new() }
    }

    pub(super) fn finish(self) -> GgufConfig {
        GgufConfig { text: Value::Object(self.config).to_string(), origins: self.origins }
    }

    fn metadata(&self) -> &'a Metadata {
        self.gguf.metadata()
    }

    /// `key` behind the name of the architecture.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A size that may be given for each layer, then the same for all of them.
    fn size(&self, key: &str) -> Result<Option<usize>, FileError> {
        let name = self.name(key);
        if !self.metadata().is_array(&name) {
            return self.metadata().size(&name);
        }
        let mut sizes = self.metadata().sizes(&name)?.unwrap_or_default();
        // layers that are left out have none
        sizes.truncate(self.layers()?);
        match sizes.first() {
            Some(first) if sizes.iter().all(|size| size == first) => Ok(Some(*first)),
            _ => Err(self.metadata().found(&name, "the same for all layers", format!("{sizes:?}"))),
        }
    }

    fn needed(&self, key: &str) -> Result<usize, FileError> {
        self.size(key)?.ok_or_else(|| self.metadata().missing(&self.name(key), "a whole number"))
    }

    /// Puts a size that must be there under `key`.
    pub(super) fn put_size(&mut self, key: &'static str, from: &str) -> Result<usize, FileError> {
        let size = self.needed(from)?;
        self.put(key, from, json!(size));
        Ok(size)
    }

    pub(super) fn put(&mut self, key: &'static str, from: &str, value: Value) {
        self.origins.push((key, self.name(from)));
        self.config.insert(key.to_owned(), value);
    }

    /// Layers of the model, without those that guess tokens behind them.
    fn layers(&self) -> Result<usize, FileError> {
        let (key, guessing) = (self.name("block_count"), self.name("nextn_predict_layers"));
        let all = self.metadata().size(&key)?.ok_or_else(|| self.metadata().missing(&key, "the number of layers"))?;
        let guessing = self.metadata().size(&guessing)?.unwrap_or(0);
        all.checked_sub(guessing).filter(|layers| *layers > 0).ok_or_else(|| {
            let found = format!("{all} with {guessing} layers that guess tokens (nextn_predict_layers)");
            self.metadata().found(&key, "a layer besides those that guess tokens", found)
        })
    }

    /// Refuses a key that says something else than one of `allowed`: it would change what is computed.
    fn refuse_other(&self, key: &str, allowed: &[f64], expected: &str) -> Result<(), FileError> {
        let name = self.name(key);
        match self.metadata().number(&name)? {
            Some(found) if !allowed.contains(&found) => Err(self.metadata().found(&name, expected, found)),
            _ => Ok(()),
        }
    }

    /// What all families have around their layers.
    pub(super) fn trunk(&mut self, model_type: &'static str) -> Result<(), FileError> {
        self.config.insert("model_type".to_owned(), json!(model_type));
        let layers = self.layers()?;
        self.put("num_hidden_layers", "block_count", json!(layers));
        self.put_size("hidden_size", "embedding_length")?;
        self.put_size("max_position_embeddings", "context_length")?;
        let (key, eps) = (self.name("attention.layer_norm_rms_epsilon"), "attention.layer_norm_rms_epsilon");
        let value = self.metadata().number(&key)?.ok_or_else(|| self.metadata().missing(&key, "a number"))?;
        self.put("rms_norm_eps", eps, json!(value));
        let embedding = self.gguf.shape_of("token_embd.weight");
        let Some(&[vocab, _]) = embedding else {
            let found = embedding.map_or_else(|| "nothing".to_owned(), |shape| format!("{shape:?}"));
            let place = "tensor `token_embd.weight`";
            return Err(FileError::new(self.gguf.root(), place, "the embeddings of all tokens", found));
        };
        self.put("vocab_size", "vocab_size", json!(vocab));
        let tied = self.gguf.shape_of("output.weight").is_none();
        self.config.insert("tie_word_embeddings".to_owned(), json!(tied));
        Ok(())
    }

    /// Attention; only some elements of a head are rotated where it is `partial`.
    pub(super) fn attention(&mut self, partial: bool) -> Result<(), FileError> {
        let heads = self.put_size("num_attention_heads", "attention.head_count")?;
        let kv_heads = self.size("attention.head_count_kv")?.unwrap_or(heads);
        self.put("num_key_value_heads", "attention.head_count_kv", json!(kv_heads));
        let shared = self.needed("embedding_length")? / heads.max(1);
        let dim = self.size("attention.key_length")?.unwrap_or(shared);
        self.put("head_dim", "attention.key_length", json!(dim));
        let values = self.size("attention.value_length")?.unwrap_or(shared);
        if values != dim {
            let expected = format!("{dim}, as attention.key_length");
            return Err(self.metadata().found(&self.name("attention.value_length"), &expected, values));
        }
        self.rope(dim, partial)
    }

    fn rope(&mut self, dim: usize, partial: bool) -> Result<(), FileError> {
        // as llama.cpp where it is not said
        let theta = self.metadata().number(&self.name("rope.freq_base"))?.unwrap_or(10_000.0);
        self.put("rope_theta", "rope.freq_base", json!(theta));
        let rotated = self.size("rope.dimension_count")?.unwrap_or(dim);
        if !partial && rotated != dim {
            let expected = format!("{dim}, all of a head");
            return Err(self.metadata().found(&self.name("rope.dimension_count"), &expected, rotated));
        }
        if partial {
            let mut factor = rotated as f64 / dim as f64;
            // it is multiplied again and rounded down
            if ((dim as f64 * factor) as usize) < rotated {
                factor = factor.next_up();
            }
            self.put("partial_rotary_factor", "rope.dimension_count", json!(factor));
        }
        let kind = self.name("rope.scaling.type");
        let expected = "none or yarn (other scaled rotary positions are not implemented)";
        match self.metadata().text(&kind)? {
            None | Some("none" | "linear") => {}
            Some("yarn") => return self.yarn(),
            Some(found) => return Err(self.metadata().found(&kind, expected, found)),
        }
        for factor in ["rope.scaling.factor", "rope.scale_linear"] {
            self.refuse_other(factor, &[0.0, 1.0], "1 (scaled rotary positions are not implemented)")?;
        }
        Ok(())
    }

    fn yarn(&mut self) -> Result<(), FileError> {
        // the largest that anything here may be
        const MOST: f64 = 65_536.0;
        let number = |key: &str| match self.metadata().number(&self.name(key))? {
            Some(value) if !(0.0..=MOST).contains(&value) => {
                Err(self.metadata().found(&self.name(key), &format!("a number from 0 to {MOST}"), value))
            }
            value => Ok(value),
        };
        // the second is what older files have
        let factor = number("rope.scaling.factor")?.or(number("rope.scale_linear")?);
        let name = self.name("rope.scaling.factor");
        let factor = factor.ok_or_else(|| self.metadata().missing(&name, "how many times longer the context is"))?;
        let mut scaling = json!({ "rope_type": "yarn", "factor": factor });
        if let Some(original) = self.size("rope.scaling.original_context_length")? {
            scaling["original_max_position_embeddings"] = json!(original);
        }
        for (key, from) in [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
        {
            if let Some(value) = number(from)? {
                scaling[key] = json!(value);
            }
        }
        self.refuse_other("rope.scaling.yarn_ext_factor", &[-1.0, 1.0], "1, as everywhere")?;
        // files have what multiplies the factor that follows, configurations have the product
        if let Some(times) = number("rope.scaling.attn_factor")?.filter(|times| *times != 1.0) {
            scaling["attention_factor"] = json!(times * Yarn::attention_factor(factor, None));
        }
        self.refuse_other("rope.scaling.yarn_attn_factor", &[1.0], "1, which leaves it to the factor")?;
        self.refuse_other("rope.scaling.yarn_log_multiplier", &[0.0], "0, which leaves it to the factor")?;
        self.put("rope_scaling", "rope.scaling.type", scaling);
        Ok(())
    }

    /// Which layers are linear, and their shape. `in_turn`: files have the value heads in another order than releases.
    pub(super) fn delta_net(&mut self, in_turn: bool) -> Result<(), FileError> {
        let layers = self.layers()?;
        let recurrent = self.name("attention.recurrent_layers");
        let interval = self.size("full_attention_interval")?.unwrap_or(4);
        let linear = match self.metadata().flags(&recurrent)? {
            Some(flags) if flags.len() >= layers => flags[..layers].to_vec(),
            Some(flags) => {
                let expected = format!("one for each of {layers} layers");
                return Err(self.metadata().found(&recurrent, &expected, flags.len()));
            }
            None if interval == 0 => {
                return Err(self.metadata().found(&self.name("full_attention_interval"), "1 or more", 0));
            }
            None => (1..=layers).map(|layer| layer % interval != 0).collect(),
        };
        let kind = |linear: &bool| if *linear { "linear_attention" } else { "full_attention" };
        self.put("layer_types", "attention.recurrent_layers", linear.iter().map(kind).collect());
        let key_heads = self.put_size("linear_num_key_heads", "ssm.group_count")?;
        let value_heads = self.put_size("linear_num_value_heads", "ssm.time_step_rank")?;
        let dim = self.put_size("linear_key_head_dim", "ssm.state_size")?;
        self.put("linear_value_head_dim", "ssm.state_size", json!(dim));
        self.put_size("linear_conv_kernel_dim", "ssm.conv_kernel")?;
        let width = self.needed("ssm.inner_size")?;
        if value_heads.checked_mul(dim) != Some(width) {
            let expected = format!("{value_heads} heads (ssm.time_step_rank) of {dim} elements (ssm.state_size)");
            return Err(self.metadata().found(&self.name("ssm.inner_size"), &expected, width));
        }
        if in_turn && key_heads != value_heads {
            self.config.insert(VALUE_HEADS_IN_TURN.to_owned(), json!(true));
        }
        Ok(())
    }

    /// Routed experts, whose width is under the key `width`.
    pub(super) fn moe(&mut self, width: &'static str, from: &str) -> Result<(), FileError> {
        self.put_size("num_experts", "expert_count")?;
        self.put_size("num_experts_per_tok", "expert_used_count")?;
        self.put_size(width, from)?;
        // llama.cpp does so for all of these, whatever the release says
        self.config.insert("norm_topk_prob".to_owned(), json!(true));
        self.refuse_other("expert_gating_func", &[0.0, 1.0], "1, a softmax")?;
        self.refuse_other("expert_weights_scale", &[0.0, 1.0], "1, weights as they are")?;
        self.refuse_other("expert_group_count", &[0.0, 1.0], "1, no groups of experts")?;
        let norm = self.name("expert_weights_norm");
        match self.metadata().flag(&norm)? {
            Some(false) => Err(self.metadata().found(&norm, "true, weights that add up to 1", false)),
            _ => Ok(()),
        }
    }

    /// The expert that every token uses. Some files do not say how wide it is.
    pub(super) fn shared_expert(&mut self) -> Result<(), FileError> {
        let (key, from) = ("shared_expert_intermediate_size", "expert_shared_feed_forward_length");
        let of_tensor = match self.gguf.shape_of("blk.0.ffn_up_shexp.weight") {
            Some(&[width, _]) => Some(width),
            _ => None,
        };
        match self.size(from)?.or(of_tensor) {
            Some(width) => self.put(key, from, json!(width)),
            None => return Err(self.metadata().missing(&self.name(from), "the width of the shared expert")),
        }
        Ok(())
    }

    /// Whether the file has a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.metadata().has(&self.name(key))
    }

    /// How many experts there are, for families whose architecture has models without.
    pub(super) fn experts(&self) -> Result<usize, FileError> {
        Ok(self.size("expert_count")?.unwrap_or(0))
    }

    pub(super) fn found(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> FileError {
        self.metadata().found(&self.name(key), expected, found)
    }
}

/// What files do with the tensors of a model of this shape. Those of some have q, k and v of attention as one.
pub(super) fn names(shape: &Shape, post_norm: &'static str) -> GgufNames {
    let fused = shape.attention().map(|of| {
        let queries = of.heads * of.head_dim * if of.gate { 2 } else { 1 };
        let keys = of.kv_heads * of.head_dim;
        let rows = |first: usize, count: usize| std::iter::once(first..first + count).collect();
        FusedRows {
            module: "attn_qkv",
            rows: queries + 2 * keys,
            parts: vec![
                ("attention.q", "attn_q", rows(0, queries)),
                ("attention.k", "attn_k", rows(queries, keys)),
                ("attention.v", "attn_v", rows(queries + keys, keys)),
            ],
        }
    });
    GgufNames { post_norm, fused: fused.into_iter().collect(), interleaved_heads: None }
}
