//! Routed experts: where their bytes lie on disk, the slots they are read into, and which are kept.

pub mod layout;
pub mod policy;
pub mod store;

pub use layout::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
pub use store::{ExpertStore, SlotMemory, StoreError, StoreStats};
