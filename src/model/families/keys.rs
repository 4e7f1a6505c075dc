//! The keys of `config.json` that families share, each held against what a model can have and what kernels can do before
//! anything is computed from it: products of shapes cannot overflow later.

use std::ops::RangeInclusive;

use crate::compute::ops::DeltaNetShape;
use crate::file_error::FileError;
use crate::model::RopeScaling;
use crate::model::shape::{AttentionShape, LayerShape, Mixer, MoeShape, Shape};
use crate::weights::Keys;

/// Widths and vocabularies beyond these are no model: the limits keep every product of shapes inside 64 bits.
const MAX_WIDTH: usize = 1 << 17;
const MAX_HEADS: usize = 1 << 12;
const MAX_LAYERS: usize = 1 << 12;
const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_POSITIONS: usize = 1 << 30;

/// Value heads take their key heads in turn: see [`DeltaNetShape::in_turn`].
pub(super) const VALUE_HEADS_IN_TURN: &str = "linear_value_heads_in_turn";

/// A `config.json`.
pub(super) struct ConfigKeys<'a> {
    /// The whole of it.
    pub(super) root: Keys<'a>,
    /// The text model's part: `text_config`, or the whole.
    pub(super) text: Keys<'a>,
    /// How rotary positions are stretched.
    pub(super) rope: RopeScaling,
}

/// What all families have around their layers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trunk {
    pub(super) hidden: usize,
    pub(super) vocab: usize,
    pub(super) max_positions: usize,
    pub(super) rms_eps: f32,
    pub(super) tied_embeddings: bool,
}

/// What attention of a family has beside its heads.
#[derive(Clone, Copy)]
pub(super) struct AttentionOf {
    /// `partial_rotary_factor` says how much of a head is rotated, else all of it.
    pub(super) partial_rotary: bool,
    pub(super) gate: bool,
    pub(super) head_norms: bool,
    /// Where `head_dim` is not there, heads share out `hidden_size`.
    pub(super) may_divide: bool,
}

/// What mixes tokens, by the names in `layer_types`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerKind {
    LinearAttention,
    FullAttention,
}

/// Keys of a layer of routed experts.
#[derive(Clone, Copy)]
pub(super) struct MoeKeys {
    /// Number of experts: the first of these that is there.
    pub(super) experts: [&'static str; 2],
    pub(super) width: &'static str,
    pub(super) has_shared: bool,
    /// What an absent `norm_topk_prob` means, as transformers has it for the family.
    pub(super) renormalise: bool,
}

impl Trunk {
    /// The shape of a model with these layers.
    pub(super) fn shape(&self, model_type: &'static str, layers: impl Iterator<Item = LayerShape>) -> Shape {
        Shape {
            model_type,
            hidden: self.hidden,
            vocab: self.vocab,
            max_positions: self.max_positions,
            rms_eps: self.rms_eps,
            tied_embeddings: self.tied_embeddings,
            layers: layers.collect(),
        }
    }
}

impl ConfigKeys<'_> {
    fn range(&self, key: &str, value: usize, range: RangeInclusive<usize>, why: &str) -> Result<usize, FileError> {
        match range.contains(&value) {
            true => Ok(value),
            false => Err(self.text.found(key, &format!("{} to {}{why}", range.start(), range.end()), value)),
        }
    }

    pub(super) fn size_in(&self, key: &str, range: RangeInclusive<usize>, why: &str) -> Result<usize, FileError> {
        self.range(key, self.text.size(key)?, range, why)
    }

    fn columns(&self, key: &str, value: usize) -> Result<usize, FileError> {
        match value % 32 {
            0 => Ok(value),
            _ => Err(self.text.found(key, "a multiple of 32 (the kernels take 32 columns at a time)", value)),
        }
    }

    /// A width that matrices have as columns.
    pub(super) fn width(&self, key: &str) -> Result<usize, FileError> {
        self.columns(key, self.size_in(key, 1..=MAX_WIDTH, "")?)
    }

    /// Refuses activations that are not SwiGLU's, and `flags` that are set: they would change the mathematics.
    pub(super) fn refuse(&self, flags: &[&str]) -> Result<(), FileError> {
        if self.text.text("hidden_act")?.is_some_and(|act| act != "silu") {
            return Err(self.text.value("hidden_act", "\"silu\""));
        }
        match flags.iter().find(|flag| !matches!(self.text.flag(flag), Ok(None | Some(false)))) {
            None => Ok(()),
            Some(flag) => Err(self.text.value(flag, "false")),
        }
    }

    /// Refuses models of whose layers some have no experts.
    pub(super) fn refuse_dense_layers(&self) -> Result<(), FileError> {
        if self.text.has("decoder_sparse_step") && self.text.size("decoder_sparse_step")? != 1 {
            return Err(self.text.value("decoder_sparse_step", "1 (every layer has experts)"));
        }
        match self.text.list("mlp_only_layers")?.is_some_and(|layers| !layers.is_empty()) {
            true => Err(self.text.value("mlp_only_layers", "an empty list (every layer has experts)")),
            false => Ok(()),
        }
    }

    pub(super) fn trunk(&self) -> Result<Trunk, FileError> {
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon that f32 cannot hold is refused")]
        let rms_eps = self.text.number("rms_norm_eps")? as f32;
        if !(rms_eps.is_finite() && rms_eps > 0.0) {
            return Err(self.text.found("rms_norm_eps", "a finite number above 0", rms_eps));
        }
        let tied = |keys: &Keys<'_>| keys.flag("tie_word_embeddings");
        Ok(Trunk {
            hidden: self.width("hidden_size")?,
            vocab: self.size_in("vocab_size", 1..=MAX_VOCAB, "")?,
            max_positions: self.max_positions()?,
            rms_eps,
            tied_embeddings: tied(&self.text)?.or(tied(&self.root)?).unwrap_or(false),
        })
    }

    /// How many layers there are.
    pub(super) fn layer_count(&self) -> Result<usize, FileError> {
        self.size_in("num_hidden_layers", 1..=MAX_LAYERS, "")
    }

    /// A kind per layer: `layer_types`, or every `full_attention_interval`-th of full attention. `only_full` is the name
    /// of a family that has no other kind, and needs no key then.
    pub(super) fn layer_kinds(&self, only_full: Option<&str>) -> Result<Vec<LayerKind>, FileError> {
        let keys = &self.text;
        let count = self.layer_count()?;
        let Some(types) = keys.list("layer_types")? else {
            if only_full.is_some() {
                return Ok(vec![LayerKind::FullAttention; count]);
            }
            if !keys.has("full_attention_interval") {
                return Err(keys.missing("layer_types", "a kind per layer, or `full_attention_interval`"));
            }
            let interval = keys.size("full_attention_interval")?;
            if interval == 0 {
                return Err(keys.value("full_attention_interval", "1 or more"));
            }
            let kind = |i: usize| match i % interval {
                0 => LayerKind::FullAttention,
                _ => LayerKind::LinearAttention,
            };
            return Ok((1..=count).map(kind).collect());
        };
        if types.len() != count {
            return Err(keys.found("layer_types", &format!("{count} kinds (num_hidden_layers)"), types.len()));
        }
        let kind = |(i, kind): (usize, &serde_json::Value)| match kind.as_str() {
            Some("full_attention") => Ok(LayerKind::FullAttention),
            Some("linear_attention") if only_full.is_none() => Ok(LayerKind::LinearAttention),
            _ => {
                let expected = match only_full {
                    Some(family) => format!("\"full_attention\" ({family} has no other kind)"),
                    None => "\"linear_attention\" or \"full_attention\"".to_owned(),
                };
                Err(keys.found(&format!("layer_types[{i}]"), &expected, crate::weights::shown(kind)))
            }
        };
        types.iter().enumerate().map(kind).collect()
    }

    /// The mixer of each layer of a family that has both kinds.
    pub(super) fn mixers(&self, attention: AttentionOf) -> Result<Vec<Mixer>, FileError> {
        let kinds = self.layer_kinds(None)?;
        let attention = Mixer::Attention(self.attention(attention)?);
        let delta_net = match kinds.contains(&LayerKind::LinearAttention) {
            true => Mixer::DeltaNet(self.delta_net()?),
            false => attention,
        };
        let mixer = |kind| if kind == LayerKind::FullAttention { attention } else { delta_net };
        Ok(kinds.into_iter().map(mixer).collect())
    }

    pub(super) fn attention(&self, of: AttentionOf) -> Result<AttentionShape, FileError> {
        let heads = self.size_in("num_attention_heads", 1..=MAX_HEADS, "")?;
        let kv_heads = self.size_in("num_key_value_heads", 1..=heads, " (num_attention_heads)")?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({heads})");
            return Err(self.text.found("num_key_value_heads", &expected, kv_heads));
        }
        let head_dim = match self.text.has("head_dim") {
            false if of.may_divide => self.text.size("hidden_size")? / heads,
            _ => self.text.size("head_dim")?,
        };
        self.range("head_dim", head_dim, 1..=256, " (what the attention kernels hold)")?;
        self.columns("num_attention_heads * head_dim", heads * head_dim)?;
        let (rope_theta, rotary_dim) = self.rope(of.partial_rotary, head_dim)?;
        let (yarn, AttentionOf { gate, head_norms, .. }) = (self.yarn()?, of);
        Ok(AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta, yarn, gate, head_norms, window: None })
    }

    /// The positions that a query sees, where they are limited.
    pub(super) fn window(&self, key: &str) -> Result<Option<usize>, FileError> {
        match self.text.has(key) {
            true => self.size_in(key, 1..=MAX_POSITIONS, "").map(Some),
            false => Ok(None),
        }
    }

    /// The base of the rotation and how many elements of a head are rotated.
    fn rope(&self, partial: bool, head_dim: usize) -> Result<(f64, usize), FileError> {
        let keys = &self.text;
        let nested = keys.object("rope_parameters")?;
        let holder = |key: &str| match &nested {
            Some(nested) if nested.has(key) || !keys.has(key) => nested.clone(),
            _ => keys.clone(),
        };
        let theta = holder("rope_theta").number("rope_theta")?;
        // a base of 1 has no slow rotations
        if !(theta.is_finite() && theta > 1.0) {
            return Err(holder("rope_theta").found("rope_theta", "a finite number above 1", theta));
        }
        let mut rotary = head_dim;
        if partial {
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
                reason = "a product of a factor in (0, 1] and a size of 256 at most"
            )]
            let rounded = (head_dim as f64 * factor) as usize;
            rotary = rounded;
        }
        if rotary == 0 || !rotary.is_multiple_of(2) || rotary > head_dim {
            let expected = format!("an even number of rotated elements, 2 to {head_dim} (head_dim)");
            return Err(keys.found("head_dim * partial_rotary_factor", &expected, rotary));
        }
        Ok((theta, rotary))
    }

    fn delta_net(&self) -> Result<DeltaNetShape, FileError> {
        let holds = " (what the delta-net kernels hold)";
        let shape = DeltaNetShape {
            key_heads: self.size_in("linear_num_key_heads", 1..=MAX_HEADS, "")?,
            value_heads: self.size_in("linear_num_value_heads", 1..=MAX_HEADS, "")?,
            key_dim: self.size_in("linear_key_head_dim", 1..=256, holds)?,
            value_dim: self.size_in("linear_value_head_dim", 1..=256, holds)?,
            conv_kernel: self.size_in("linear_conv_kernel_dim", 2..=8, " (what the convolution kernel holds)")?,
            // no release has this key: it is how a model whose weights come from GGUF says it
            in_turn: self.text.flag(VALUE_HEADS_IN_TURN)?.unwrap_or(false),
        };
        if !shape.value_heads.is_multiple_of(shape.key_heads) {
            let expected = format!("a multiple of linear_num_key_heads ({})", shape.key_heads);
            return Err(self.text.found("linear_num_value_heads", &expected, shape.value_heads));
        }
        self.columns("linear_num_value_heads * linear_value_head_dim", shape.value_heads * shape.value_dim)?;
        Ok(shape)
    }

    pub(super) fn moe(&self, keys: MoeKeys) -> Result<MoeShape, FileError> {
        let [first, other] = keys.experts;
        let experts = if !self.text.has(first) && self.text.has(other) { other } else { first };
        let count = self.size_in(experts, 1..=1024, " (what the router kernel holds)")?;
        let most = count.min(32);
        let why = if most == 32 { " (what the router kernel holds)" } else { " (num_experts)" };
        Ok(MoeShape {
            experts: count,
            top_k: self.size_in("num_experts_per_tok", 1..=most, why)?,
            width: self.width(keys.width)?,
            renormalise: self.text.flag("norm_topk_prob")?.unwrap_or(keys.renormalise),
            shared: match keys.has_shared {
                true => Some(self.width("shared_expert_intermediate_size")?),
                false => None,
            },
        })
    }
}
