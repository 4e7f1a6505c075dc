//! The model family: configuration, weights by name, and the forward pass as a recording.

pub mod config;
pub mod forward;
pub mod source;
pub mod weights;

pub use config::{Config, LayerKind, ModelType};
pub use source::ModelSource;
pub use weights::{Matrix, MatrixBlock, ModelWeights};
