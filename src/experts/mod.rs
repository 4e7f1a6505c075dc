//! Routed experts at work: the slots they are read into, and which are kept. Where their bytes lie [`weights`](crate::weights) say.

mod budget;
mod check;
mod error;
pub mod policy;
pub mod reader;
pub mod replay;
mod sets;
mod slots;
mod stats;
pub mod store;
mod sweep;
pub mod trace;
mod worker;

pub use budget::{LEAST_RESERVE, auto_budget, plan_slots, reserve};
pub use reader::{ExpertReader, FileReader, Reads};
pub use sets::SlotSets;
pub use slots::{HostSlot, HostSlots};
pub use store::{Acquired, ExpertStore, SlotMemory, StoreError, StoreStats};
pub(crate) use sweep::Sweep;
