//! Weights: matrices and vectors by canonical name, where the bytes of experts lie, and the sources both come from.
//!
//! A model asks a [`WeightSource`] for everything it has, by names that do not depend on how a release calls its tensors
//! ([`names`]). A snapshot of the Hugging Face hub ([`snapshot`]), a GGUF file ([`gguf`]), a pack ([`pack`]) and random
//! numbers (`random`) are sources. What was asked for is the model's [`Listing`]: packs are written and `inspect` counts from it, so no second
//! list of a model's tensors exists.

mod blocks;
pub mod calibration;
mod damage;
mod expert_image;
mod file_bytes;
pub(crate) mod gguf;
mod json;
mod layout;
mod listing;
mod matrix;
pub(crate) mod names;
pub mod pack;
mod part_name;
pub(crate) mod random;
mod read_mapped;
pub mod safetensors;
pub(crate) mod snapshot;
mod source;

pub(crate) use blocks::block;
pub(crate) use damage::{check_resident, zeros_from};
pub(crate) use expert_image::ExpertImages;
pub(crate) use file_bytes::{file_bytes, is_streamed};
#[cfg(test)]
pub(crate) use flashflood_formats::Dense;
pub use flashflood_formats::WeightFormat;
pub(crate) use flashflood_formats::{Affine, MOST_STREAMS, ScaleType};
pub(crate) use json::{Keys, shown};
pub use layout::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, Rewritten, SlotLayout};
pub(crate) use layout::{MatrixPlace, Slice};
pub use listing::{Listed, Listing};
#[cfg(test)]
pub(crate) use matrix::Vector;
pub(crate) use matrix::{Matrix, MatrixBlock};
pub(crate) use part_name::part_of;
pub(crate) use read_mapped::{in_memory, is_mapped, read_mapped};
pub(crate) use source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
