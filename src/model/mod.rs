//! The model family: configuration, weights by name, and the forward pass as a recording.

pub mod bind;
pub mod config;
mod embedded;
pub mod forward;
mod json;
mod names;
pub mod quantization;
pub mod source;
pub mod synth;
pub mod weights;

pub use config::{Config, ConfigError, LayerKind, LinearConfig, ModelType};
pub use forward::{Forward, LayerState};
pub use source::{ModelSource, SourceError, TextFiles};
pub use weights::{Matrix, MatrixBlock, ModelWeights};
