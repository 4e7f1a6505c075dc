//! One file per operation: its operands, its shape check, its CPU twin, and the stages and dispatches of its kernels, whose
//! WGSL is in `wgsl/`.

mod attention;
mod combine;
mod combine_norm;
mod cooperative;
mod delta_net;
mod experts;
mod logits_top_k;
mod matmul;
mod product;
mod quantise;
mod rms_norm;
mod router_top_k;
mod stream_read;
mod swiglu;

pub use attention::Attention;
pub use combine::Combine;
pub use combine_norm::CombineNorm;
pub use cooperative::CooperativeTile;
pub use delta_net::{DeltaNet, DeltaNetShape, conv_inputs, head_channels};
pub use experts::{ExpertTile, Experts, Pair, Route};
pub use logits_top_k::LogitsTopK;
pub use matmul::{Matmul, RowsOf};
pub use product::{ProductShape, Team, Tile};
pub(crate) use quantise::Known;
pub use quantise::{Input, Quantise, Quantised};
pub use rms_norm::RmsNorm;
pub use router_top_k::{Groups, RouterRule, RouterTopK, Scoring};
pub use stream_read::StreamRead;
pub use swiglu::Swiglu;

/// The logistic function.
pub(crate) fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// `v * sigmoid(v)`.
pub(crate) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}
