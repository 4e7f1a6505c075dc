//! Which expert leaves when another one needs its slot: pure functions of the history of a set of slots.

/// What is known of the expert in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlotUse {
    /// The request that used it last; requests count up from 1.
    pub last_used: u64,
    /// What a policy makes of how often it was used, as of `last_used`; see [`Policy::used`].
    pub count: f64,
}

/// Decides which slot of a full set is emptied. Pure: the same history gives the same answer, so that a run can be
/// repeated.
pub trait Policy: Send + Sync {
    /// The index in `set` of the slot to empty, never one that is `pinned`; `None` when all are.
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize>;

    /// What is known of an expert once `request` uses it too. `before` is what was known, also when the expert has left
    /// its slot since, and the default for one that was never used.
    fn used(&self, before: SlotUse, request: u64) -> SlotUse {
        SlotUse { last_used: request, count: before.count + 1.0 }
    }
}

/// Empties the slot that was used least recently; of several, the first. What [`AgedLfu`] is measured against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lru;

impl Policy for Lru {
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize> {
        let candidates = set.iter().enumerate().filter(|&(slot, _)| !pinned(slot));
        candidates.min_by_key(|(_, used)| used.last_used).map(|(slot, _)| slot)
    }
}

/// Empties the slot that was used least often, where a use counts half after `half_life` requests; of several, the
/// first. The store's own policy.
///
/// It hits more often than [`Lru`] at every size between what a token needs and all experts, and as often at both ends
/// (benches/results/cache-policy-small-moe.csv), because the count outlasts the slot: an expert that left and comes back is known to come back. A half-life of few
/// requests is close to [`Lru`], an endless one never forgets a topic that has passed. The decay is applied when a
/// count changes, so that nothing is done for experts that are not asked for.
#[derive(Clone, Copy, Debug)]
pub struct AgedLfu {
    /// Requests after which a use counts half. A token makes one request for each layer.
    pub half_life: f64,
}

impl AgedLfu {
    /// The half-life of [`AgedLfu::for_layers`] in tokens: of 8, 32 and 128 the best or next to it at every size.
    pub const TOKENS: usize = 32;

    /// For a model of so many layers.
    pub(crate) fn for_layers(layers: usize) -> Self {
        AgedLfu { half_life: (Self::TOKENS * layers.max(1)) as f64 }
    }
}

impl Policy for AgedLfu {
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize> {
        // all counts decay alike, so their order is that of log2(count at last use) + last use in half-lives: no need
        // to know what time it is
        let rank = |used: &SlotUse| used.count.log2() + used.last_used as f64 / self.half_life;
        let candidates = set.iter().enumerate().filter(|&(slot, _)| !pinned(slot));
        let ranked = candidates.map(|(slot, used)| (slot, rank(used)));
        ranked.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(slot, _)| slot)
    }

    fn used(&self, before: SlotUse, request: u64) -> SlotUse {
        let age = request.saturating_sub(before.last_used) as f64;
        SlotUse { last_used: request, count: before.count * (-age / self.half_life).exp2() + 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ticks: &[u64]) -> Vec<SlotUse> {
        ticks.iter().map(|&last_used| SlotUse { last_used, count: 1.0 }).collect()
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

    fn used_at(policy: &dyn Policy, requests: &[u64]) -> SlotUse {
        requests.iter().fold(SlotUse::default(), |before, &request| policy.used(before, request))
    }

    #[test]
    fn aged_lfu_takes_the_rarest_and_forgets() {
        let lfu = AgedLfu { half_life: 10.0 };
        assert_eq!(used_at(&lfu, &[10, 20, 30]).count, 1.75);
        // used three times long ago, or once a moment ago
        let [often, once] = [used_at(&lfu, &[1, 2, 3]), used_at(&lfu, &[12])];
        assert_eq!(lfu.victim(&[often, once], &|_| false), Some(1));
        let late = used_at(&lfu, &[40]);
        assert_eq!(lfu.victim(&[often, late], &|_| false), Some(0));
        assert_eq!(lfu.victim(&[often, late], &|slot| slot == 0), Some(1));
        // a slot that never held anything leaves first
        assert_eq!(lfu.victim(&[often, SlotUse::default()], &|_| false), Some(1));
        assert_eq!(lfu.victim(&[often, late], &|_| true), None);
    }

    #[test]
    fn counts_stay_finite_however_long_a_run_is() {
        let lfu = AgedLfu { half_life: 1e6 };
        let used = lfu.used(SlotUse { last_used: 1, count: 1e9 }, u64::MAX / 2);
        assert_eq!(used.count, 1.0);
        assert_eq!(
            lfu.victim(&[used, SlotUse { last_used: u64::MAX / 2 - (1 << 40), count: 5.0 }], &|_| false),
            Some(1)
        );
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
