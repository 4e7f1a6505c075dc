//! Weights: matrices and vectors by canonical name, where the bytes of experts lie, and the sources both come from.
//!
//! A model asks a [`WeightSource`] for everything it has, by names that do not depend on how a release calls its tensors
//! ([`names`]). A snapshot of the Hugging Face hub ([`snapshot`]), a pack ([`pack`]) and random numbers (`random`) are
//! sources. What was asked for is the model's [`Listing`]: packs are written and `inspect` counts from it, so no second
//! list of a model's tensors exists.

pub mod formats;
mod json;
mod layout;
mod listing;
mod matrix;
pub mod names;
pub mod pack;
pub(crate) mod random;
pub mod safetensors;
pub mod snapshot;
mod source;

pub use formats::{Affine, Dense, MOST_STREAMS, ScaleType, WeightFormat};
pub(crate) use json::{Keys, shown};
pub use layout::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
pub use listing::{Listed, Listing};
pub use matrix::{Matrix, MatrixBlock, Vector};
pub use source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
