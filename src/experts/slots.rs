//! Memory that experts are read into: the trait that every device implements, and the one in host memory.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use flashflood_backends::AlignedBuffer;

use super::error::StoreError;

/// Memory that experts are read into and that a device computes from.
pub(crate) trait SlotMemory: Send + Sync {
    /// Slots, all of `slot_bytes`.
    fn slots(&self) -> usize;
    /// Bytes of one slot.
    fn slot_bytes(&self) -> usize;
    /// Gives the bytes of `slot` to `read`; when it returns `Ok`, the device sees them. `read` gets at least
    /// [`slot_bytes`](Self::slot_bytes) and may write all it gets; memory that starts at a page and has room to the end
    /// of one is read into without a copy. Called from several threads at once, never twice at once for one slot.
    fn fill(&self, slot: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// Gives the memory of a slot back to the system, if it can be; [`SlotMemory::fill`] takes it again. Not called
    /// while the slot is filled or computed from.
    fn release(&self, _slot: usize) {}

    /// No slot is filled any more: whoever waits in [`SlotMemory::fill`] for memory gives up.
    fn close(&self) {}

    /// Whether [`SlotMemory::release`] gives anything back.
    fn gives_back(&self) -> bool {
        false
    }

    /// Slots of a set that [`SlotMemory::release`] gives back together, counted from the set's first: 1 where each goes
    /// by itself.
    fn granule(&self) -> usize {
        1
    }
}

/// Slots in host memory, for the CPU. A slot takes memory when it is first filled, so that a large budget
/// costs nothing before it is used; it is whole pages, so that reads past the page cache go straight in.
#[derive(Debug)]
pub(crate) struct HostSlots {
    slots: Vec<RwLock<AlignedBuffer>>,
    slot_bytes: usize,
}

/// The bytes of one slot; the slot cannot be filled while this is held. Derefs to `slot_bytes` bytes, or to none when
/// the slot was never filled.
#[derive(Debug)]
pub(crate) struct HostSlot<'a> {
    bytes: RwLockReadGuard<'a, AlignedBuffer>,
    slot_bytes: usize,
}

impl HostSlots {
    /// `slots` slots of `slot_bytes` bytes each.
    pub(crate) fn new(slots: usize, slot_bytes: usize) -> Result<Self, StoreError> {
        let mut all = Vec::new();
        all.try_reserve_exact(slots).map_err(|_| {
            flashflood_backends::forget_refused();
            StoreError::OutOfMemory { slot: 0, bytes: slot_bytes }
        })?;
        all.resize_with(slots, || RwLock::new(AlignedBuffer::empty()));
        Ok(HostSlots { slots: all, slot_bytes })
    }

    /// The bytes of a slot that was acquired and waited for. Panics on a slot that does not exist.
    pub(crate) fn read(&self, slot: usize) -> HostSlot<'_> {
        // a panic in a read leaves half a record, which the store never hands out
        let bytes = self.slots[slot].read().unwrap_or_else(PoisonError::into_inner);
        HostSlot { bytes, slot_bytes: self.slot_bytes }
    }
}

impl Deref for HostSlot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.slot_bytes.min(self.bytes.len())]
    }
}

impl SlotMemory for HostSlots {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn fill(&self, slot: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut bytes = self.slots[slot].write().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            let no_memory = StoreError::OutOfMemory { slot, bytes: self.slot_bytes };
            *bytes = AlignedBuffer::new(self.slot_bytes).ok_or(no_memory)?;
        }
        read(&mut bytes)
    }

    fn release(&self, slot: usize) {
        *self.slots[slot].write().unwrap_or_else(PoisonError::into_inner) = AlignedBuffer::empty();
    }

    fn gives_back(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use flashflood_backends::PAGE;

    #[test]
    fn a_slot_keeps_what_was_read_into_it() {
        let slots = HostSlots::new(2, 21).unwrap();
        assert!(slots.read(1).is_empty());
        let mut read = |bytes: &mut [u8]| {
            assert_eq!(bytes.len(), PAGE);
            bytes.fill(7);
            Ok(())
        };
        slots.fill(1, &mut read).unwrap();
        assert_eq!(&*slots.read(1), [7; 21]);
        assert_eq!(slots.read(1).as_ptr().align_offset(PAGE), 0);
        assert!(slots.read(0).is_empty());
        slots.release(1);
        assert!(slots.read(1).is_empty());
        slots.fill(1, &mut read).unwrap();
        assert_eq!(&*slots.read(1), [7; 21]);
    }

    #[test]
    fn no_memory_is_an_error() {
        let slots = HostSlots::new(1, isize::MAX as usize - 64).unwrap();
        let error = slots.fill(0, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, StoreError::OutOfMemory { slot: 0, .. }), "{error}");
    }
}
