//! Attention with keys and values in every format.

use std::sync::Arc;

use super::CheckError;
use super::subject::{CheckedShape, Subject, TOKENS};
use crate::compute::ops::{Attention, Quantised};
use crate::compute::{KvFormat, Recording};
use crate::model::AttentionShape;
use crate::weights::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout, WeightFormat};

/// Heads that some formats are not for have 128 elements.
const DIM: usize = 128;

/// Nobody reads it: devices have slots, and slots are of a layout.
fn an_expert() -> ExpertLayout {
    let slot = SlotLayout::new(64, 64, [WeightFormat::affine(4, 64); 3]);
    let bytes = vec![0; slot.bytes];
    let place = Place::Strided { file: 0, base: 0, stride: slot.bytes as u64 };
    let parts = vec![Part { place, len: slot.bytes, at: 0 }];
    let layer = LayerExperts { experts: 1, top_k: 1, slot, parts, rewritten: Vec::new(), checksums: None };
    let file = ExpertFile::Memory { name: "an expert of a check", bytes: bytes.into() };
    ExpertLayout { files: vec![file], layers: vec![layer] }
}

/// Layers of attention at the shape of a model for each format, which leave outputs as they are and in 8 bits.
pub(super) fn formats(shape: &CheckedShape) -> Result<Subject, CheckError> {
    let AttentionShape { heads, kv_heads, head_dim, rotary_dim, gate, .. } = shape.attention;
    let is_for_all =
        KvFormat::ALL.iter().flat_map(|format| format.of_heads(head_dim)).all(|format| format.takes(head_dim));
    let dim = if is_for_all { head_dim } else { DIM };
    let q_head = if gate { 2 * dim } else { dim };
    let mut r = Recording::new(TOKENS);
    let qkv = r.tensor("qkv", 1, heads * q_head + 2 * kv_heads * dim);
    r.input = Some(qkv);
    let [q_norm, k_norm] = ["q_norm", "k_norm"].map(|name| Some(r.vector(name, &vec![1.0; dim])));
    for format in KvFormat::ALL {
        let formats = format.of_heads(dim);
        let kv = r.kv_cache(format!("kv in {format}"), kv_heads * dim, formats);
        let label = format!("attention, {format}");
        let plain = r.tensor(label.clone(), 1, heads * dim).into();
        let packed = Quantised::tensor(&mut r, &format!("{label} in 8 bits"), 1, heads * dim, 2).into();
        let (bias, sinks, window, eps, rotary_dim) = (None, None, None, 1e-6, rotary_dim.min(dim));
        for (label, out) in [(label.clone(), plain), (format!("{label} in 8 bits"), packed)] {
            #[rustfmt::skip]
            let attention = Attention {
                qkv, q_norm, k_norm, bias, sinks, window, kv, formats, out, heads, kv_heads, dim, rotary_dim, gate, eps,
            };
            r.push(label, attention)?;
        }
    }
    Ok(Subject {
        name: "every format of keys and values".to_owned(),
        recording: Arc::new(r),
        experts: Arc::new(an_expert()),
        shape: None,
        choices: Vec::new(),
    })
}
