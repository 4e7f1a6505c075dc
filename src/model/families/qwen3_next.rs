//! Qwen3-Next: the mathematics of Qwen3.5-MoE. Its releases keep the projections of a delta-net in two tensors, whose rows
//! are blocked by key head.

use super::Model;
use super::gguf_keys::GgufFamily;
use super::keys::ConfigKeys;
use super::qwen3_5_moe::{Qwen35Moe, gguf_config};
use crate::compute::ops::DeltaNetShape;
use crate::file_error::FileError;
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::Shape;
use crate::weights::gguf::GgufNames;
use crate::weights::names::{FusedRows, Names};

struct Qwen3Next(Qwen35Moe);

/// Its GGUF files.
pub(super) const GGUF: GgufFamily =
    GgufFamily { architecture: "qwen3next", config: |keys| gguf_config(keys, "qwen3_next", false) };

pub(super) fn read(keys: &ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError> {
    Ok(Box::new(Qwen3Next(Qwen35Moe::read(keys, "qwen3_next")?)))
}

impl Model for Qwen3Next {
    fn shape(&self) -> Shape {
        self.0.shape()
    }

    fn names(&self) -> Names {
        let fused = self.shape().delta_net().map(|shape| vec![qkvz(&shape), ba(&shape)]);
        Names { fused: fused.unwrap_or_default(), ..self.0.names() }
    }

    /// Files keep β and decay in one tensor as releases do, and older ones the rest too.
    fn gguf_names(&self) -> GgufNames {
        let mut names = self.0.gguf_names();
        if let Some(shape) = self.shape().delta_net() {
            names.fused.push(FusedRows { module: "ssm_in", ..qkvz(&shape) });
            names.fused.push(FusedRows { module: "ssm_ba", ..ba(&shape) });
        }
        names
    }

    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError> {
        self.0.forward(r)
    }
}

/// Per key head `[q | k | its v heads | their z]`, as q, k, v over z.
fn qkvz(shape: &DeltaNetShape) -> FusedRows {
    let key = shape.key_dim;
    let value = shape.value_heads / shape.key_heads * shape.value_dim;
    let head = 2 * key + 2 * value;
    let rows = |from: usize, count: usize| {
        (0..shape.key_heads).map(move |i| {
            let start = i * head + from;
            start..start + count
        })
    };
    let qkv = rows(0, key).chain(rows(key, key)).chain(rows(2 * key, value)).collect();
    let z = rows(2 * key + value, value).collect();
    FusedRows {
        module: "linear_attn.in_proj_qkvz",
        rows: shape.key_heads * head,
        parts: vec![("delta_net.qkv", "linear_attn.in_proj_qkv", qkv), ("delta_net.z", "linear_attn.in_proj_z", z)],
    }
}

/// The same for `[b | a]` per key head.
fn ba(shape: &DeltaNetShape) -> FusedRows {
    let each = shape.value_heads / shape.key_heads;
    let rows = |from: usize| {
        (0..shape.key_heads).map(move |i| {
            let start = i * 2 * each + from;
            start..start + each
        })
    };
    let (b, a) = (rows(0).collect(), rows(each).collect());
    FusedRows {
        module: "linear_attn.in_proj_ba",
        rows: 2 * shape.value_heads,
        parts: vec![("delta_net.b", "linear_attn.in_proj_b", b), ("delta_net.a", "linear_attn.in_proj_a", a)],
    }
}
