use flashflood_formats::CacheFormat;

use crate::compute::View;
use crate::compute::ops::Attention;
use crate::model::recorder::{Projection, RecordError, Recorder};
use crate::model::shape::AttentionShape;
use crate::weights::{MatrixRole, VectorRole};

/// `x += o(attention(q, k, v of normed))`, with an output gate where the shape has one.
pub(crate) fn attention(
    r: &mut Recorder<'_>,
    shape: &AttentionShape,
    normed: View,
    x: View,
) -> Result<(), RecordError> {
    let &AttentionShape { heads, kv_heads, head_dim: dim, rotary_dim, gate, window, .. } = shape;
    let (queries, keys, role) = (heads * dim, kv_heads * dim, MatrixRole::Attention);
    // with the gate, per head: q rows, then gate rows
    let q_rows = if gate { 2 * queries } else { queries };
    let (qkv, _) = r.project(
        "qkv",
        normed,
        &[
            Projection::new("attention.q", q_rows, role),
            Projection::new("attention.k", keys, role),
            Projection::new("attention.v", keys, role),
        ],
    )?;
    let (q_norm, k_norm) = match shape.head_norms {
        true => (
            Some(r.vector("attention.q_norm", &[dim], VectorRole::Norm)?),
            Some(r.vector("attention.k_norm", &[dim], VectorRole::Norm)?),
        ),
        false => (None, None),
    };
    let kv = r.attention_cache(keys);
    let out = r.tensor("attention", 1, queries);
    let eps = r.eps();
    let attention = Attention {
        qkv,
        q_norm,
        k_norm,
        bias: None,
        sinks: None,
        window,
        kv,
        // as they are computed; the engine chooses another
        formats: [CacheFormat::F32; 2],
        out: out.into(),
        heads,
        kv_heads,
        dim,
        rotary_dim,
        gate,
        eps,
    };
    r.push("attention", attention)?;
    r.add_product("mixer_out", out, "attention.o", role, x)
}
