//! Parts of layers that families share, one file each. Each reads normed activations and adds to the residual stream `x`;
//! weights are asked for by their canonical names in the layer that is being recorded.

mod attention;
mod delta_net;
mod feed_forward;
mod moe;

pub(super) use attention::attention;
pub(super) use delta_net::delta_net;
pub(super) use feed_forward::feed_forward;
pub(super) use moe::moe;
