//! Keeps the machine from running out of memory while a model runs: an expert cache whose size was left to us gives
//! slots back when others need memory, and takes them again when they no longer do.

use flashflood_backends::conditions::{Conditions, MemoryPressure};

use super::MemoryPlan;
use crate::experts::{ExpertStore, reserve};

/// How many slots may be filled, from what is free and what the system asks for.
///
/// The plan leaves a reserve. Pressure is when less than half of it is left: then the cache shrinks at once by all
/// that is missing, because there is a cliff behind it. It grows in small steps, and only out of what is free above
/// the whole reserve. Between the two nothing changes, so that the cache does not follow every page that comes and goes.
///
/// A system that warns sees what the count of free bytes does not show: pages that are compressed, programs that stall.
/// Then the cache shrinks step by step to half of the plan at every look; when programs are about to be ended, by an
/// eighth of what is filled each time, without an end but what a token needs. It does not grow before the warning ends.
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
    /// The new limit when `filled` of at most `limit` slots take memory.
    fn limit(&self, limit: usize, filled: usize, now: &Conditions) -> usize {
        let by_bytes = self.limit_by_bytes(limit, filled, now.available);
        match now.memory {
            MemoryPressure::Normal => by_bytes,
            MemoryPressure::Warning => by_bytes.min(filled.saturating_sub(self.step).max(self.most / 2)).min(limit),
            MemoryPressure::Critical => by_bytes.min(filled - (filled / 8).max(self.step).min(filled)).min(limit),
        }
    }

    /// The new limit as far as `available` bytes that are free decide it.
    fn limit_by_bytes(&self, limit: usize, filled: usize, available: u64) -> usize {
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

/// Sets the limit of a store.
pub(super) struct PressureWatch {
    pressure: Pressure,
}

impl PressureWatch {
    /// Watches for a store whose memory can be given back; there is nothing to do for another.
    pub(super) fn new(store: &ExpertStore, plan: &MemoryPlan) -> Option<Self> {
        if !store.gives_back() {
            return None;
        }
        let most = store.limit();
        // at least one slot for each layer, or sharing out would lose it
        let least = (0..store.layout().layers.len()).map(|layer| store.capacity(layer)).min();
        let layers = plan.all_slots.div_ceil(least.unwrap_or(0).max(1));
        let step = (most / 32).max(layers).max(store.limit_step());
        let pressure = Pressure { reserve: reserve(plan.available), slot_bytes: plan.slot_bytes, most, step };
        Some(PressureWatch { pressure })
    }

    /// Between two steps: sets the limit of `store` to what the machine can spare.
    pub(super) fn check(&self, store: &mut ExpertStore, now: &Conditions) {
        let before = store.limit();
        store.set_limit(self.pressure.limit(before, store.filled(), now));
        if store.limit() != before {
            let (Conditions { available, memory, .. }, after) = (now, store.limit());
            tracing::info!("{available} bytes are free, pressure {memory:?}: {after} expert slots instead of {before}");
        }
    }
}

#[cfg(test)]
mod tests {
    use flashflood_backends::conditions::ThermalState;
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    /// 1000 slots of 10 MB; 2 GB are left free.
    const PRESSURE: Pressure = Pressure { reserve: 2000 * MB, slot_bytes: 10 * MB, most: 1000, step: 32 };

    /// The limit where the system says nothing of its own.
    fn limit(limit: usize, filled: usize, available: u64) -> usize {
        under(MemoryPressure::Normal, limit, filled, available)
    }

    fn under(memory: MemoryPressure, limit: usize, filled: usize, available: u64) -> usize {
        PRESSURE.limit(limit, filled, &Conditions { available, memory, thermal: ThermalState::Nominal })
    }

    #[test]
    fn shrinks_at_once_by_what_is_missing() {
        assert_eq!(limit(1000, 1000, 700 * MB), 970);
        assert_eq!(limit(1000, 1000, 695 * MB), 969);
        assert_eq!(limit(1000, 1000, 0), 900);
        assert_eq!(limit(1000, 50, 0), 0);
    }

    #[test]
    fn only_filled_slots_give_memory_back() {
        assert_eq!(limit(1000, 400, 900 * MB), 390);
        // some are over the limit still, because their layers were not asked for since
        assert_eq!(limit(300, 400, 900 * MB), 300);
    }

    #[test]
    fn stays_between_half_the_reserve_and_the_reserve() {
        for available in [1000, 1500, 2000] {
            assert_eq!(limit(700, 700, available * MB), 700);
        }
    }

    #[test]
    fn grows_back_slowly_and_within_what_is_free() {
        assert_eq!(limit(700, 700, 9000 * MB), 732);
        assert_eq!(limit(700, 700, 2100 * MB), 710);
        assert_eq!(limit(990, 990, 9000 * MB), 1000);
        assert_eq!(limit(1000, 10, 2010 * MB), 1000);
    }

    #[test]
    fn a_warning_halves_the_cache_step_by_step() {
        let warned = |filled| under(MemoryPressure::Warning, 1000, filled, 9000 * MB);
        assert_eq!(warned(1000), 968);
        assert_eq!(warned(520), 500);
        assert_eq!(warned(400), 500);
        // nothing grows, and what is missing still goes at once
        assert_eq!(under(MemoryPressure::Warning, 300, 300, 9000 * MB), 300);
        assert_eq!(under(MemoryPressure::Warning, 1000, 1000, 0), 900);
    }

    #[test]
    fn before_programs_are_ended_everything_goes() {
        let mut filled = 1000;
        let mut looks = 0;
        while filled > 0 {
            let next = under(MemoryPressure::Critical, filled, filled, 9000 * MB);
            assert!(next < filled);
            (filled, looks) = (next, looks + 1);
        }
        assert!(looks < 25, "{looks} looks");
        assert_eq!(under(MemoryPressure::Critical, 1000, 10, 9000 * MB), 0);
    }

    proptest! {
        #[test]
        fn never_grows_under_pressure(most in 0usize..1000, filled in 0usize..1200, free in 0u64..12_000) {
            for memory in [MemoryPressure::Warning, MemoryPressure::Critical] {
                prop_assert!(under(memory, most, filled, free * MB) <= most);
            }
        }

        #[test]
        fn settles_and_never_swings(start in 0usize..1000, free in 0u64..12_000) {
            // a machine where nothing else changes: what the cache gives back is free, what it takes is not
            let total = free * MB + start as u64 * PRESSURE.slot_bytes;
            let mut now = start;
            let mut turns = 0;
            let mut direction = std::cmp::Ordering::Equal;
            for _ in 0..100 {
                let next = limit(now, now, total.saturating_sub(now as u64 * PRESSURE.slot_bytes));
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
            prop_assert_eq!(limit(now, now, free), now);
        }
    }
}
