//! Keeps the machine from running out of memory while a model runs: an expert cache whose size was left to us gives
//! slots back when others need memory, and takes them again when they no longer do.

use std::time::{Duration, Instant};

use super::MemoryPlan;
use crate::experts::{ExpertStore, reserve};

/// Time between two looks at what is free: asking takes a fraction of a millisecond, and systems start to swap or to
/// end programs within seconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// How many slots may be filled, from what is free.
///
/// The plan leaves a reserve. Pressure is when less than half of it is left: then the cache shrinks at once by all
/// that is missing, because there is a cliff behind it. It grows in small steps, and only out of what is free above
/// the whole reserve. Between the two nothing changes, so that the cache does not follow every page that comes and goes.
#[derive(Clone, Copy, Debug)]
struct Pressure {
    reserve: u64,
    slot_bytes: u64,
    /// Slots of the plan.
    most: usize,
    /// Slots to grow by at a time.
    step: usize,
}

impl Pressure {
    /// The new limit when `filled` of at most `limit` slots take memory and `available` bytes are free.
    fn limit(&self, limit: usize, filled: usize, available: u64) -> usize {
        let slots = |bytes: u64| usize::try_from(bytes / self.slot_bytes.max(1)).unwrap_or(usize::MAX);
        let low = self.reserve / 2;
        if available < low {
            let missing = slots((low - available).saturating_add(self.slot_bytes.saturating_sub(1)));
            // on the host, slots that were never filled give nothing back
            return filled.saturating_sub(missing).min(limit);
        }
        if available > self.reserve {
            let affordable = filled.saturating_add(slots(available - self.reserve));
            return limit.saturating_add(self.step).min(affordable).min(self.most).max(limit);
        }
        limit
    }
}

/// Looks at what is free every now and then.
pub(super) struct PressureWatch {
    pressure: Pressure,
    looked: Instant,
}

impl PressureWatch {
    /// Watches for a store whose memory can be given back; there is nothing to do for another.
    pub(super) fn new(store: &ExpertStore, plan: &MemoryPlan) -> Option<Self> {
        if !store.gives_back() {
            return None;
        }
        let most = store.limit();
        // at least one slot for each layer, or sharing out would lose it
        let layers = plan.all_slots.div_ceil(store.capacity(0).max(1));
        let step = (most / 32).max(layers).max(store.limit_step());
        let pressure = Pressure { reserve: reserve(plan.available), slot_bytes: plan.slot_bytes, most, step };
        Some(PressureWatch { pressure, looked: Instant::now() })
    }

    /// Between two steps: sets the limit of `store` when it is time to look.
    pub(super) fn check(&mut self, store: &mut ExpertStore) {
        if self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let available = flashflood_backends::memory::available_memory();
        let before = store.limit();
        store.set_limit(self.pressure.limit(before, store.filled(), available));
        if store.limit() != before {
            tracing::info!("{available} bytes are free: {} expert slots instead of {before}", store.limit());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    /// 1000 slots of 10 MB; 2 GB are left free.
    const PRESSURE: Pressure = Pressure { reserve: 2000 * MB, slot_bytes: 10 * MB, most: 1000, step: 32 };

    #[test]
    fn shrinks_at_once_by_what_is_missing() {
        assert_eq!(PRESSURE.limit(1000, 1000, 700 * MB), 970);
        assert_eq!(PRESSURE.limit(1000, 1000, 695 * MB), 969);
        assert_eq!(PRESSURE.limit(1000, 1000, 0), 900);
        assert_eq!(PRESSURE.limit(1000, 50, 0), 0);
    }

    #[test]
    fn only_filled_slots_give_memory_back() {
        assert_eq!(PRESSURE.limit(1000, 400, 900 * MB), 390);
        // some are over the limit still, because their layers were not asked for since
        assert_eq!(PRESSURE.limit(300, 400, 900 * MB), 300);
    }

    #[test]
    fn stays_between_half_the_reserve_and_the_reserve() {
        for available in [1000, 1500, 2000] {
            assert_eq!(PRESSURE.limit(700, 700, available * MB), 700);
        }
    }

    #[test]
    fn grows_back_slowly_and_within_what_is_free() {
        assert_eq!(PRESSURE.limit(700, 700, 9000 * MB), 732);
        assert_eq!(PRESSURE.limit(700, 700, 2100 * MB), 710);
        assert_eq!(PRESSURE.limit(990, 990, 9000 * MB), 1000);
        assert_eq!(PRESSURE.limit(1000, 10, 2010 * MB), 1000);
    }

    proptest! {
        #[test]
        fn settles_and_never_swings(limit in 0usize..1000, free in 0u64..12_000) {
            // a machine where nothing else changes: what the cache gives back is free, what it takes is not
            let total = free * MB + limit as u64 * PRESSURE.slot_bytes;
            let mut now = limit;
            let mut turns = 0;
            let mut direction = std::cmp::Ordering::Equal;
            for _ in 0..100 {
                let next = PRESSURE.limit(now, now, total.saturating_sub(now as u64 * PRESSURE.slot_bytes));
                if next != now {
                    turns += usize::from(next.cmp(&now) != direction);
                    direction = next.cmp(&now);
                }
                now = next;
            }
            prop_assert!(turns <= 1);
            let free = total.saturating_sub(now as u64 * PRESSURE.slot_bytes);
            prop_assert!(now == 0 || free >= PRESSURE.reserve / 2);
            prop_assert!(now == PRESSURE.most || free < PRESSURE.reserve + PRESSURE.slot_bytes);
            prop_assert_eq!(PRESSURE.limit(now, now, free), now);
        }
    }
}
