//! The expert store: slots under a hard byte budget, filled by positioned reads on worker threads.

/// Memory that experts are read into and that an executor computes from.
pub trait SlotMemory: Send + Sync {
    /// Slots, all of `slot_bytes`.
    fn slots(&self) -> usize;
    /// Bytes of one slot.
    fn slot_bytes(&self) -> usize;
    /// Gives the bytes of `slot` to `read`; when it returns `Ok`, the executor sees them.
    fn fill(&self, slot: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError>;
}

/// What can go wrong with experts.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {}

/// Counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {}

/// The expert store.
pub struct ExpertStore {}
