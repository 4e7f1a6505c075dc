//! Bytes on disk: safetensors (Hugging Face and MLX), the pack format, and the quantiser that makes packs.

pub mod safetensors;
pub mod pack;
pub mod quantise;
mod weight_format;

pub use weight_format::{ScaleType, WeightFormat};
