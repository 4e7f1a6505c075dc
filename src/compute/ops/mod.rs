//! One file per kernel: the operation with its operands, its shape check, its CPU twin, and its GPU dispatches.
//! The WGSL of the same name is in `wgsl/`.

mod attention;
mod combine;
mod conv_silu;
mod delta_net;
mod experts;
mod gated_rms_norm;
mod logits_top_k;
mod matvec;
mod product;
mod qk_norm_rope;
mod quantise;
mod rms_norm;
mod router_top_k;
mod swiglu;

pub use attention::Attention;
pub use combine::Combine;
pub use conv_silu::ConvSilu;
pub use delta_net::DeltaNet;
pub use experts::{Experts, Pair, Route, resident_pairs_dispatch, resident_pairs_stage};
pub use gated_rms_norm::GatedRmsNorm;
pub use logits_top_k::LogitsTopK;
pub use matvec::{MatVec, RowsOf};
pub use product::ProductShape;
pub use qk_norm_rope::QkNormRope;
pub(crate) use quantise::Known;
pub use quantise::{Input, Quantise, Quantised};
pub use rms_norm::RmsNorm;
pub use router_top_k::RouterTopK;
pub use swiglu::SwiGlu;

/// The logistic function.
pub(crate) fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// `v * sigmoid(v)`.
pub(crate) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}
