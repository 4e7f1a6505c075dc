//! What a trace would have cost with another cache: the requests of a run against a policy and a number of slots,
//! without a model, a disk or a clock.
//!
//! The replay asks for experts as the executors do: each step asks each layer for the experts of all its tokens, in
//! the order and the windows of a sweep. With the same slots its counters are those of
//! `ExpertStore`, which a test holds it to.

use std::collections::HashMap;

use flashflood::experts::policy::{Policy, SlotUse};
use flashflood::experts::sweep::Sweep;
use flashflood::experts::trace::Trace;

/// What a replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Experts asked for that were in a slot.
    pub hits: u64,
    /// Experts asked for that would have been read.
    pub misses: u64,
}

impl Replayed {
    /// Hits among all experts asked for, 0 to 1; 0 when none was.
    pub(crate) fn hit_rate(&self) -> f64 {
        let asked = self.hits + self.misses;
        if asked == 0 { 0.0 } else { self.hits as f64 / asked as f64 }
    }
}

/// The experts of one layer that a step needs.
struct Needed {
    layer: usize,
    /// In the order of the file.
    experts: Vec<u32>,
}

fn needed(trace: &Trace) -> impl DoubleEndedIterator<Item = Needed> {
    let of_step = |step: &Vec<Vec<u32>>| {
        let layers = step.iter().enumerate().map(|(layer, ids)| {
            let mut experts = ids.clone();
            experts.sort_unstable();
            experts.dedup();
            Needed { layer, experts }
        });
        layers.collect::<Vec<_>>()
    };
    trace.steps.iter().flat_map(of_step)
}

/// Replays `trace` with `slots` slots for each layer, raised to what a token needs.
pub(crate) fn replay(trace: &Trace, policy: &dyn Policy, slots: usize) -> Replayed {
    let mut layers = vec![LayerSlots::default(); trace.shape.layers.len()];
    let mut found = Replayed::default();
    let mut request = 0;
    for Needed { layer, experts } in needed(trace) {
        let slots = slots.max(trace.shape.layers[layer].top_k);
        let layer = &mut layers[layer];
        let count = experts.len() as u64;
        let sweep = Sweep::new(experts, slots, |expert| layer.experts.contains(expert));
        // of the window before, which is still being computed
        let mut pinned = 0;
        let mut hits = 0;
        for window in sweep.windows() {
            request += 1;
            hits += layer.take(window, policy, slots, request, request - pinned);
            pinned = u64::from(sweep.overlaps());
        }
        found.hits += hits;
        found.misses += count - hits;
    }
    found
}

/// The slots of a layer that have been filled.
#[derive(Clone, Default)]
struct LayerSlots {
    experts: Vec<u32>,
    uses: Vec<SlotUse>,
    /// What was known of experts when they left.
    past: HashMap<u32, SlotUse>,
}

impl LayerSlots {
    /// Takes the experts of a request; how many were there. What requests from `pinned` on used stays.
    fn take(&mut self, wanted: &[u32], policy: &dyn Policy, slots: usize, request: u64, pinned: u64) -> u64 {
        let mut missing = Vec::new();
        for &expert in wanted {
            match self.experts.iter().position(|&e| e == expert) {
                Some(slot) => self.uses[slot] = policy.used(self.uses[slot], request),
                None => missing.push(expert),
            }
        }
        for &expert in &missing {
            let used = policy.used(self.past.get(&expert).copied().unwrap_or_default(), request);
            if self.experts.len() < slots {
                self.experts.push(expert);
                self.uses.push(used);
                continue;
            }
            let asked = |slot: usize| self.uses[slot].last_used >= pinned;
            let slot = policy.victim(&self.uses, &asked).expect("a request never asks for more than the slots hold");
            let left = std::mem::replace(&mut self.experts[slot], expert);
            self.past.insert(left, std::mem::replace(&mut self.uses[slot], used));
        }
        (wanted.len() - missing.len()) as u64
    }
}

/// The best that any policy could do, by looking ahead: the expert whose next use is farthest away leaves (Belady).
pub(crate) fn optimum(trace: &Trace, slots: usize) -> Replayed {
    let requests: Vec<Needed> = needed(trace).collect();
    // when each expert of a request is asked for again
    let mut next_uses = vec![Vec::new(); requests.len()];
    let mut next: HashMap<(usize, u32), usize> = HashMap::new();
    for (at, request) in requests.iter().enumerate().rev() {
        let uses = request.experts.iter().map(|&e| next.insert((request.layer, e), at).unwrap_or(usize::MAX));
        next_uses[at] = uses.collect();
    }
    // per layer: the experts there and when each is asked for again
    let mut layers: Vec<HashMap<u32, usize>> = vec![HashMap::new(); trace.shape.layers.len()];
    let mut found = Replayed::default();
    for (request, uses) in requests.iter().zip(next_uses) {
        let slots = slots.max(trace.shape.layers[request.layer].top_k);
        let there = &mut layers[request.layer];
        let hits = request.experts.iter().filter(|e| there.contains_key(e)).count();
        let missing = request.experts.len() - hits;
        found.hits += hits as u64;
        found.misses += missing as u64;
        there.extend(request.experts.iter().copied().zip(uses));
        while there.len() > slots {
            // what the step needs leaves last: only when it needs more than the slots hold
            let others = there.iter().map(|(e, next)| (!request.experts.contains(e), *next, *e));
            if let Some((_, _, farthest)) = others.max() {
                there.remove(&farthest);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use flashflood::experts::policy::{AgedLfu, Lru};
    use flashflood::experts::trace::TraceShape;

    /// One layer, one token a step.
    fn trace(experts: usize, top_k: usize, tokens: &[Vec<u32>]) -> Trace {
        let shape = TraceShape::even(1, experts, top_k, 1);
        Trace { shape, steps: tokens.iter().map(|ids| vec![ids.clone()]).collect() }
    }

    fn singles(ids: &[u32]) -> Trace {
        trace(16, 1, &ids.iter().map(|&id| vec![id]).collect::<Vec<_>>())
    }

    #[test]
    fn a_loop_that_does_not_fit_defeats_lru_but_not_foresight() {
        let trace = singles(&[0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(replay(&trace, &Lru, 2), Replayed { hits: 0, misses: 9 });
        assert_eq!(replay(&trace, &Lru, 3), Replayed { hits: 6, misses: 3 });
        assert_eq!(optimum(&trace, 2), Replayed { hits: 3, misses: 6 });
        assert_eq!(optimum(&trace, 3), replay(&trace, &Lru, 3));
    }

    #[test]
    fn counting_uses_keeps_what_comes_back() {
        let trace = singles(&[0, 0, 0, 1, 2, 0, 3, 4, 0, 5, 6, 0]);
        let lfu = AgedLfu { half_life: 100.0 };
        assert_eq!(replay(&trace, &lfu, 2).hits, 5);
        assert_eq!(replay(&trace, &Lru, 2).hits, 2);
    }

    #[test]
    fn a_prompt_asks_for_each_expert_once() {
        let shape = TraceShape::even(1, 8, 2, 1);
        let trace = Trace { shape, steps: vec![vec![vec![5, 1, 1, 5, 5, 2]], vec![vec![5, 2]]] };
        assert_eq!(replay(&trace, &Lru, 3), Replayed { hits: 2, misses: 3 });
        // one at a time, of two slots: 1, 2, then 5 in the place of 1
        assert_eq!(replay(&trace, &Lru, 2), Replayed { hits: 2, misses: 3 });
        assert_eq!(replay(&trace, &Lru, 0), replay(&trace, &Lru, 2));
    }

    /// The fewest misses over all choices of what leaves: for traces of a few tokens.
    fn fewest_misses(trace: &Trace, slots: usize) -> u64 {
        let requests = needed(trace);
        // sets of experts as bits, with the misses so far
        let mut reached = HashMap::from([(0u32, 0u64)]);
        for request in requests {
            let wanted = request.experts.iter().fold(0u32, |bits, e| bits | 1 << e);
            let mut after = HashMap::new();
            for (there, misses) in reached {
                let misses = misses + u64::from((wanted & !there).count_ones());
                let whole = there | wanted;
                let mut kept = whole;
                loop {
                    if kept & wanted == wanted && kept.count_ones() as usize <= slots {
                        let best = after.entry(kept).or_insert(misses);
                        *best = misses.min(*best);
                    }
                    if kept == 0 {
                        break;
                    }
                    kept = (kept - 1) & whole;
                }
            }
            reached = after;
        }
        reached.into_values().min().unwrap_or(0)
    }

    fn tokens(experts: u32, top_k: usize, most: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
        let ids = prop::sample::subsequence((0..experts).collect::<Vec<_>>(), top_k);
        prop::collection::vec(ids, 0..most)
    }

    proptest! {
        #[test]
        fn foresight_is_never_worse(tokens in tokens(12, 3, 80), slots in 3usize..13, half_life in 0.5f64..50.0) {
            let trace = trace(12, 3, &tokens);
            let best = optimum(&trace, slots);
            for policy in [&Lru as &dyn Policy, &AgedLfu { half_life }] {
                let found = replay(&trace, policy, slots);
                prop_assert_eq!(found.hits + found.misses, best.hits + best.misses);
                prop_assert!(found.hits <= best.hits);
            }
            prop_assert!(optimum(&trace, slots + 1).hits >= best.hits);
        }

        #[test]
        fn foresight_is_the_optimum(tokens in tokens(6, 2, 9), slots in 2usize..6) {
            let trace = trace(6, 2, &tokens);
            prop_assert_eq!(optimum(&trace, slots).misses, fewest_misses(&trace, slots));
        }

        /// With several experts in a request it does not hold: those of one request are equally old, and which of
        /// them leaves depends on their slots.
        #[test]
        fn what_few_slots_of_lru_hold_more_slots_hold_too(ids in prop::collection::vec(0u32..12, 1..120), slots in 1usize..12) {
            let mut few = LayerSlots::default();
            let mut more = LayerSlots::default();
            for (&id, tick) in ids.iter().zip(1..) {
                let in_few = few.take(&[id], &Lru, slots, tick, tick);
                let in_more = more.take(&[id], &Lru, slots + 1, tick, tick);
                prop_assert!(in_few <= in_more);
                prop_assert!(few.experts.iter().all(|e| more.experts.contains(e)));
            }
        }

        #[test]
        fn slots_for_all_read_each_once(tokens in tokens(8, 2, 40)) {
            let trace = trace(8, 2, &tokens);
            let mut all: Vec<u32> = tokens.concat();
            all.sort_unstable();
            all.dedup();
            for found in [replay(&trace, &Lru, 8), replay(&trace, &AgedLfu { half_life: 9.0 }, 8), optimum(&trace, 8)] {
                prop_assert_eq!(found.misses, all.len() as u64);
            }
        }
    }
}
