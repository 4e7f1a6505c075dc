//! Which expert leaves when another one needs its slot: pure functions of the history of a set of slots.

/// What is known of the expert in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotUse {
    /// The request that used it last; requests count up from 1.
    pub last_used: u64,
    /// How many requests used it since it was read.
    pub uses: u32,
}

/// Decides which slot of a full set is emptied. Pure: the same history gives the same answer, so that a run can be
/// repeated.
pub trait Policy: Send + Sync {
    /// The index in `set` of the slot to empty, never one that is `pinned`; `None` when all are.
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// Empties the slot that was used least recently; of several, the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lru;

impl Policy for Lru {
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize> {
        let candidates = set.iter().enumerate().filter(|&(slot, _)| !pinned(slot));
        candidates.min_by_key(|(_, used)| used.last_used).map(|(slot, _)| slot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ticks: &[u64]) -> Vec<SlotUse> {
        ticks.iter().map(|&last_used| SlotUse { last_used, uses: 1 }).collect()
    }

    #[test]
    fn lru_takes_the_oldest_that_is_not_pinned() {
        let set = set(&[5, 2, 9, 2]);
        assert_eq!(Lru.victim(&set, &|_| false), Some(1));
        assert_eq!(Lru.victim(&set, &|slot| slot == 1), Some(3));
        assert_eq!(Lru.victim(&set, &|slot| slot == 1 || slot == 3), Some(0));
        assert_eq!(Lru.victim(&set, &|_| true), None);
        assert_eq!(Lru.victim(&[], &|_| false), None);
    }

    proptest! {
        #[test]
        fn lru_never_takes_a_pinned_or_a_newer_slot(
            slots in prop::collection::vec((0u64..20, any::<bool>()), 0..40),
        ) {
            let uses = set(&slots.iter().map(|s| s.0).collect::<Vec<_>>());
            match Lru.victim(&uses, &|slot| slots[slot].1) {
                None => prop_assert!(slots.iter().all(|s| s.1)),
                Some(victim) => {
                    prop_assert!(!slots[victim].1);
                    prop_assert!(slots.iter().all(|s| s.1 || slots[victim].0 <= s.0));
                }
            }
        }
    }
}
