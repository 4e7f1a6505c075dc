//! Routed experts at work: the slots they are read into, and which are kept. Where their bytes lie [`weights`](crate::weights) say.

mod activity;
mod budget;
mod check;
mod error;
pub mod policy;
pub(crate) mod reader;
mod sets;
mod slots;
mod stats;
pub(crate) mod store;
pub mod sweep;
pub mod trace;
mod worker;

pub(crate) use activity::ExpertActivity;
#[cfg(test)]
pub(crate) use activity::ExpertState;
pub(crate) use budget::{auto_budget, plan_slots, reserve};
pub use reader::{ExpertReader, FileReader, Reads};
pub(crate) use sets::SlotSets;
pub(crate) use slots::HostSlots;
pub use store::StoreStats;
pub(crate) use store::{Acquired, ExpertStore, SlotMemory, StoreError};
pub(crate) use sweep::Sweep;
