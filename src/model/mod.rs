//! Models: the families, their shapes, and what a token does as a recording of operations.

mod blocks;
mod embedded;
mod families;
mod open;
pub(crate) mod published;
mod recorder;
mod shape;

pub use families::shape_of_config;
pub use open::{ModelSource, SourceError, TextFiles};
pub use published::Published;
pub use recorder::RecordError;
pub use shape::{AttentionShape, FeedForward, LayerShape, Mixer, MoeShape, Shape};
