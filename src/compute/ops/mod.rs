//! One file per kernel: the operation with its operands, its shape check, its CPU twin, and its GPU dispatches.
//! The WGSL of the same name is in `wgsl/`.

mod attention;
mod combine_norm;
mod cooperative;
mod delta_net;
mod experts;
mod logits_top_k;
mod matvec;
mod product;
mod quantise;
mod rms_norm;
mod router_top_k;
mod stream_read;

pub use attention::Attention;
pub use combine_norm::CombineNorm;
pub use cooperative::CooperativeTile;
pub use delta_net::{DeltaNet, conv_inputs, head_channels};
pub use experts::{ExpertTile, Experts, Pair, Route};
pub use logits_top_k::LogitsTopK;
pub use matvec::{MatVec, RowsOf};
pub use product::{ProductShape, Team, Tile};
pub(crate) use quantise::Known;
pub use quantise::{Input, Quantise, Quantised};
pub use rms_norm::RmsNorm;
pub use router_top_k::RouterTopK;
pub use stream_read::StreamRead;

/// The logistic function.
pub(crate) fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// `v * sigmoid(v)`.
pub(crate) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}
