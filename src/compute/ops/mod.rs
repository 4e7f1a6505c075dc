//! One file per operation: its operands, its shape check, its CPU twin, and the stages and dispatches of its kernels, whose
//! WGSL is in `wgsl/`.

mod attention;
mod combine;
mod combine_norm;
mod cooperative;
mod delta_net;
mod expert_down;
pub(crate) mod expert_groups;
mod experts;
mod logits_top_k;
mod matmul;
mod matmul_norm;
mod product;
mod quantise;
mod rms_norm;
mod router_top_k;
mod stream_read;
mod swiglu;
mod unscaled;

pub(crate) use attention::Attention;
pub(crate) use combine::Combine;
pub(crate) use combine_norm::CombineNorm;
pub use cooperative::CooperativeTile;
#[cfg(test)]
pub(crate) use delta_net::conv_inputs;
pub(crate) use delta_net::{DeltaNet, DeltaNetShape, head_channels};
pub(crate) use expert_down::ExpertDown;
pub(crate) use experts::{ExpertTile, Experts, GateUpApart, Pair, Route};
pub(crate) use logits_top_k::LogitsTopK;
pub(crate) use matmul::{Matmul, RowsOf};
pub(crate) use matmul_norm::MatmulNorm;
pub(crate) use product::Team;
pub use product::{ProductShape, Tile};
pub(crate) use quantise::Known;
pub(crate) use quantise::{Input, Quantise, Quantised};
pub(crate) use rms_norm::RmsNorm;
#[cfg(test)]
pub(crate) use router_top_k::{Groups, Scoring};
pub(crate) use router_top_k::{RouterRule, RouterTopK};
pub(crate) use stream_read::StreamRead;
pub(crate) use swiglu::Swiglu;
pub(crate) use unscaled::Unscaled;

/// The logistic function.
pub(crate) fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}
