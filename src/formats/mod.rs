//! Bytes on disk: safetensors (Hugging Face and MLX), the pack format, and the quantiser that makes packs.

pub mod pack;
pub mod quantise;
pub mod safetensors;
mod weight_format;

pub use weight_format::{ScaleType, WeightFormat};
