//! Routed experts: where their bytes lie on disk, the slots they are read into, and which are kept.

mod budget;
mod check;
mod error;
pub mod layout;
pub mod policy;
pub mod reader;
pub mod replay;
mod slots;
mod stats;
pub mod store;
mod sweep;
pub mod trace;
mod worker;

pub use budget::{LEAST_RESERVE, auto_budget, plan_slots, reserve, set_size};
pub use layout::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
pub use reader::{ExpertReader, FileReader, Reads};
pub use slots::{HostSlot, HostSlots};
pub use store::{Acquired, ExpertStore, SlotMemory, StoreError, StoreStats};
pub(crate) use sweep::Sweep;
