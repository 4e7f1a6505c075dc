//! Models: the families, their shapes, and what a token does as a recording of operations.

mod blocks;
mod families;
mod gguf;
mod gguf_head;
mod gguf_text;
mod links;
mod open;
pub(crate) mod published;
mod python_json;
pub(crate) mod quantisations;
mod recorder;
mod rope_scaling;
mod shape;
mod text_files;
mod yarn;

pub use families::shape_of_config;
pub use gguf::gguf_of;
pub use gguf_head::{GgufFound, GgufHead};
pub use links::dangling_in;
pub(crate) use open::SourceError;
pub use open::{ModelSource, verify_numbers};
pub use published::Published;
pub use rope_scaling::RopeScaling;

pub(crate) use shape::{AttentionShape, MoeShape};
pub use shape::{FeedForward, Mixer, Shape};
pub(crate) use text_files::TextFiles;
pub use text_files::read_config;
pub use yarn::Yarn;

pub use crate::weights::gguf::RandomGguf;

/// The `tokenizer.json` of the small model in this program.
#[cfg(any(test, fuzzing))]
pub(crate) fn embedded_tokenizer() -> &'static str {
    flashflood_small_moe::TOKENIZER
}
