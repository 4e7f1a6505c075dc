//! Binds the tensors of a snapshot to the weights of the model: every name, dtype and shape is held against the config.
//!
//! What the releases of the family do differently on disk ends here: prefixes, fused projections, the 1 of `1 + w`.

mod experts;
mod reader;

use std::path::PathBuf;

use crate::experts::ExpertLayout;
use crate::formats::safetensors::TensorSet;
use crate::model::config::{Config, LayerKind, LinearConfig};
use crate::model::names;
use crate::model::quantization::Quantization;
use crate::model::weights::{
    AttentionWeights, DeltaNetWeights, LayerWeights, Matrix, MixerWeights, ModelWeights, SharedExpertWeights,
};
use reader::Reader;

/// What can be wrong with the tensors of a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No embedding under any name that the family uses.
    #[error(
        "{path}: expected one of the tensors {expected}, found none of them among {found} tensors",
        path = .path.display()
    )]
    NotThisFamily {
        /// The snapshot.
        path: PathBuf,
        /// The names looked for.
        expected: String,
        /// Tensors in the snapshot.
        found: usize,
    },
    /// A tensor is not there.
    #[error("{path}: tensor `{tensor}` is missing: expected {expected}", path = .path.display())]
    Missing {
        /// The snapshot.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it should be.
        expected: String,
    },
    /// An expert is not there, or not whole.
    #[error(
        "{path}: expert {expert} of layer {layer} is incomplete: tensor `{tensor}` is missing (expected experts 0 to {last})",
        path = .path.display()
    )]
    MissingExpert {
        /// The snapshot.
        path: PathBuf,
        /// Counted from 0.
        layer: usize,
        /// Counted from 0.
        expert: usize,
        /// The last expert of a layer.
        last: usize,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another dtype or shape than the config asks for.
    #[error("{path}: tensor `{tensor}`: expected {expected}, found {found}", path = .path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A number that would spread through every token.
    #[error("{path}: tensor `{tensor}`, {place}: expected a finite number, found {found}", path = .path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row or element.
        place: String,
        /// NaN or an infinity.
        found: f32,
    },
}

/// A snapshot, bound.
pub struct Bound {
    /// Resident weights, as views.
    pub weights: ModelWeights,
    /// Where the routed experts lie.
    pub experts: ExpertLayout,
    /// lm_head is the embedding: the config says so and there is no tensor of its own.
    pub tied_embeddings: bool,
}

/// Finds every weight of the model in `tensors`. `config` has passed [`Config::check`]; `quantization` is the section of
/// the same `config.json` (without one, bits and groups follow from the shapes). Tensors of the vision tower and the MTP
/// head are left alone.
///
/// # Errors
/// A tensor or an expert that is missing, that has another dtype or shape than the config asks for, or scales and norms
/// that are not finite. The scales of experts are not read here.
pub fn bind(tensors: &TensorSet, config: &Config, quantization: Option<&Quantization>) -> Result<Bound, BindError> {
    let Some((trunk, head)) = names::layout(tensors) else {
        return Err(BindError::NotThisFamily {
            path: tensors.root().to_owned(),
            expected: names::LAYOUTS.map(|(trunk, _)| format!("`{trunk}embed_tokens.weight`")).join(", "),
            found: tensors.names().count(),
        });
    };
    let reader = Reader { tensors, quantization, plus_one: config.norm_plus_one && !names::is_mlx(tensors) };
    let embed_tokens = reader.matrix(&format!("{trunk}embed_tokens"), config.vocab, config.hidden)?;
    let own_head = [head, "lm_head", "language_model.lm_head"]
        .into_iter()
        .find(|name| tensors.get(&format!("{name}.weight")).is_some());
    let tied_embeddings = config.tied_embeddings && own_head.is_none();
    let lm_head = match tied_embeddings {
        true => embed_tokens.clone(),
        false => reader.matrix(own_head.unwrap_or(head), config.vocab, config.hidden)?,
    };
    let norm = reader.norm(&format!("{trunk}norm.weight"), config.hidden)?;
    let layers = config
        .layers
        .iter()
        .enumerate()
        .map(|(i, &kind)| layer(&reader, config, &format!("{trunk}layers.{i}."), kind))
        .collect::<Result<_, _>>()?;
    let experts = experts::layout(&reader, config, trunk)?;
    Ok(Bound { weights: ModelWeights { embed_tokens, lm_head, norm, layers }, experts, tied_embeddings })
}

fn layer(reader: &Reader<'_>, config: &Config, at: &str, kind: LayerKind) -> Result<LayerWeights, BindError> {
    let hidden = config.hidden;
    let matrix = |name: &str, rows: usize, cols: usize| reader.matrix(&format!("{at}{name}"), rows, cols);
    let mixer = match (kind, &config.linear) {
        (LayerKind::LinearAttention, Some(linear)) => {
            MixerWeights::DeltaNet(delta_net(reader, hidden, linear, &format!("{at}linear_attn."))?)
        }
        _ => MixerWeights::Attention(attention(reader, config, &format!("{at}self_attn."))?),
    };
    let shared = match config.shared_intermediate {
        Some(width) => Some(SharedExpertWeights {
            gate: matrix("mlp.shared_expert.gate_proj", width, hidden)?,
            up: matrix("mlp.shared_expert.up_proj", width, hidden)?,
            down: matrix("mlp.shared_expert.down_proj", hidden, width)?,
            scalar_gate: matrix("mlp.shared_expert_gate", 1, hidden)?,
        }),
        None => None,
    };
    Ok(LayerWeights {
        input_norm: reader.norm(&format!("{at}input_layernorm.weight"), hidden)?,
        post_norm: reader.norm(&format!("{at}post_attention_layernorm.weight"), hidden)?,
        mixer,
        router: matrix("mlp.gate", config.experts, hidden)?,
        shared,
    })
}

fn attention(reader: &Reader<'_>, config: &Config, at: &str) -> Result<AttentionWeights, BindError> {
    let matrix = |name: &str, rows: usize, cols: usize| reader.matrix(&format!("{at}{name}"), rows, cols);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let gates = if config.attention_gate { queries } else { 0 };
    Ok(AttentionWeights {
        q: matrix("q_proj", queries + gates, config.hidden)?,
        k: matrix("k_proj", keys, config.hidden)?,
        v: matrix("v_proj", keys, config.hidden)?,
        o: matrix("o_proj", config.hidden, queries)?,
        q_norm: reader.norm(&format!("{at}q_norm.weight"), config.head_dim)?,
        k_norm: reader.norm(&format!("{at}k_norm.weight"), config.head_dim)?,
    })
}

fn delta_net(
    reader: &Reader<'_>,
    hidden: usize,
    linear: &LinearConfig,
    at: &str,
) -> Result<DeltaNetWeights, BindError> {
    let matrix = |name: &str, rows: usize, cols: usize| reader.matrix(&format!("{at}{name}"), rows, cols);
    let (heads, values) = (linear.value_heads, linear.value_heads * linear.value_dim);
    let fused = |name: &str| reader.tensors.get(&format!("{at}{name}.weight")).is_some();
    let (qkv, z) = match fused("in_proj_qkvz") {
        true => split_qkvz(&matrix("in_proj_qkvz", linear.channels() + values, hidden)?, linear, at),
        false => (matrix("in_proj_qkv", linear.channels(), hidden)?, matrix("in_proj_z", values, hidden)?),
    };
    let (b, a) = match fused("in_proj_ba") {
        true => split_ba(&matrix("in_proj_ba", 2 * heads, hidden)?, linear, at),
        false => (matrix("in_proj_b", heads, hidden)?, matrix("in_proj_a", heads, hidden)?),
    };
    let (channels, taps) = (linear.channels(), linear.conv_kernel);
    Ok(DeltaNetWeights {
        qkv,
        z,
        b,
        a,
        // both orders of the axes are the same bytes: one of the two has length 1
        conv: reader.vector(&format!("{at}conv1d.weight"), &[&[channels, 1, taps], &[channels, taps, 1]])?,
        a_log: reader.vector(&format!("{at}A_log"), &[&[heads]])?,
        dt_bias: reader.vector(&format!("{at}dt_bias"), &[&[heads]])?,
        // the one norm of the family that is never `1 + w`
        norm: reader.vector(&format!("{at}norm.weight"), &[&[linear.value_dim]])?,
        out: matrix("out_proj", hidden, values)?,
    })
}

/// Qwen3-Next's rows are blocked by key head, `[q | k | its v heads | their z]`: lists them as q, k, v over z.
fn split_qkvz(fused: &Matrix, linear: &LinearConfig, at: &str) -> (Matrix, Matrix) {
    let key = linear.key_dim;
    let value = linear.value_heads / linear.key_heads * linear.value_dim;
    let rows = |from: usize, count: usize| {
        (0..linear.key_heads).map(move |head| {
            let start = head * (2 * key + 2 * value) + from;
            start..start + count
        })
    };
    let qkv = rows(0, key).chain(rows(key, key)).chain(rows(2 * key, value));
    let z = rows(2 * key + value, value);
    (list_rows(fused, &format!("{at}in_proj_qkv.weight"), qkv), list_rows(fused, &format!("{at}in_proj_z.weight"), z))
}

/// As [`split_qkvz`], for `[b | a]` per key head.
fn split_ba(fused: &Matrix, linear: &LinearConfig, at: &str) -> (Matrix, Matrix) {
    let each = linear.value_heads / linear.key_heads;
    let rows = |from: usize| {
        (0..linear.key_heads).map(move |head| {
            let start = head * 2 * each + from;
            start..start + each
        })
    };
    (
        list_rows(fused, &format!("{at}in_proj_b.weight"), rows(0)),
        list_rows(fused, &format!("{at}in_proj_a.weight"), rows(each)),
    )
}

fn list_rows(fused: &Matrix, name: &str, ranges: impl Iterator<Item = std::ops::Range<usize>>) -> Matrix {
    let blocks: Vec<_> = ranges.flat_map(|range| fused.slice_rows(range).blocks).collect();
    let rows = blocks.iter().map(|block| block.rows).sum();
    Matrix { name: name.to_owned(), rows, cols: fused.cols, format: fused.format, blocks }
}

#[cfg(test)]
mod tests;
