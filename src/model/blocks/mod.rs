//! Parts of layers that families share, one file each. Each reads normed activations and adds to the residual stream `x`;
//! weights are asked for by their canonical names in the layer that is being recorded. [`decoder()`] puts them together.

mod attention;
mod decoder;
mod delta_net;
mod feed_forward;
mod moe;

use attention::attention;
pub(super) use decoder::decoder;
use delta_net::delta_net;
use feed_forward::feed_forward;
use moe::moe;
