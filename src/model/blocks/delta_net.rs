use crate::compute::View;
use crate::compute::ops::{DeltaNet, DeltaNetShape, head_channels};
use crate::model::recorder::{Projection, RecordError, Recorder};
use crate::weights::{MatrixRole, VectorRole};

/// `x += out(delta_net(q, k, v, z, b, a of normed))`: causal convolution, the gated delta rule, a gated norm of each head.
pub(crate) fn delta_net(r: &mut Recorder<'_>, shape: &DeltaNetShape, normed: View, x: View) -> Result<(), RecordError> {
    let &DeltaNetShape { value_heads, key_dim, value_dim, conv_kernel, .. } = shape;
    let (channels, values) = (shape.channels(), value_heads * value_dim);
    let (_, parts) = r.project(
        "qkvzba",
        normed,
        &[
            Projection::new("delta_net.qkv", channels, MatrixRole::DeltaNet),
            Projection::new("delta_net.z", values, MatrixRole::DeltaNet),
            Projection::new("delta_net.b", value_heads, MatrixRole::DeltaNetGate),
            Projection::new("delta_net.a", value_heads, MatrixRole::DeltaNetGate),
        ],
    )?;
    let [qkv, z, b, a] = parts[..] else { unreachable!("four projections give four views") };
    let weight = r.vector("delta_net.conv", &[channels, conv_kernel], VectorRole::Taps)?;
    let a_log = r.vector("delta_net.a_log", &[value_heads], VectorRole::Decay)?;
    let dt_bias = r.vector("delta_net.dt_bias", &[value_heads], VectorRole::DecayBias)?;
    let norm = r.vector("delta_net.norm", &[value_dim], VectorRole::PlainNorm)?;
    let conv = r.state("conv", value_heads * (conv_kernel - 1), head_channels(shape));
    let state = r.state("recurrent", value_heads * key_dim, value_dim);
    r.recurrent_layer(conv, state, *shape);
    let out = r.tensor("delta_net", 1, values);
    let (shape, eps) = (*shape, r.eps());
    r.push(
        "delta_net",
        DeltaNet { qkv, z, b, a, weight, a_log, dt_bias, norm, conv, state, out: out.into(), shape, eps },
    )?;
    r.add_product("mixer_out", out, "delta_net.out", MatrixRole::DeltaNet, x)
}
