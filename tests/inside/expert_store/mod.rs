//! The expert store against files whose bytes tell which expert they belong to, and against disks that fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod activity;
mod faults;
mod gpu;
mod layers;
mod limit;
mod look_ahead;
mod model;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::experts::policy::{Policy, SlotUse};
use crate::experts::{ExpertStore, FileReader, HostSlots, StoreError, auto_budget, plan_slots};
use crate::inside::faulty_reader::Fault;
use crate::weights::ExpertFile;
use bytes::Bytes;
use proptest::prelude::*;

use model::{Model, Shape, slots_of, take};

#[test]
fn least_recently_used_leaves_first() {
    let model = Model::new(1, 8, Shape::Pack);
    let (mut store, _memory) = model.store(3, 2);
    assert_eq!(store.capacity(0), 3);
    assert_eq!(take(&mut store, 0, &[0, 1]).unwrap(), [false, false]);
    assert_eq!(take(&mut store, 0, &[2]).unwrap(), [false]);
    assert_eq!(take(&mut store, 0, &[0]).unwrap(), [true]);
    // 1 is the oldest now
    assert_eq!(take(&mut store, 0, &[3]).unwrap(), [false]);
    assert_eq!(store.slot_of(0, 1), None);
    assert_eq!(take(&mut store, 0, &[2, 0, 3]).unwrap(), [true, true, true]);
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.evictions), (4, 4, 1));
    assert_eq!(stats.bytes_read, 4 * model.layout.slot_bytes() as u64);
    assert!(stats.to_string().starts_with("experts: 50.0 % hit (4 of 8), "), "{stats}");
    store.reset_stats();
    assert_eq!(store.stats().hits, 0);
}

#[test]
fn a_request_never_evicts_its_own_experts() {
    let model = Model::new(1, 8, Shape::Snapshot);
    let (mut store, memory) = model.store(4, 4);
    take(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    // 0 is as old as the others, yet asked for
    let acquired = store.acquire(0, &[4, 5, 0, 6]).unwrap();
    let mut slots = slots_of(&acquired);
    store.wait(&slots).unwrap();
    for a in &acquired {
        model.assert_holds(&memory, 0, *a);
    }
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3]);
    assert!(acquired[2].hit);
}

#[test]
fn each_layer_has_its_own_slots_when_there_are_enough() {
    let model = Model::new(3, 6, Shape::Pack);
    let (mut store, _memory) = model.store(13, 4);
    assert_eq!(store.capacity(0), 4);
    take(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    for layer in [1, 2, 1, 2] {
        take(&mut store, layer, &[2, 3, 4, 5]).unwrap();
    }
    assert_eq!(take(&mut store, 0, &[0, 1, 2, 3]).unwrap(), [true; 4]);
    let (all, _memory) = model.store(3 * 6, 4);
    assert!(all.holds_all() && !store.holds_all());
}

#[test]
fn layers_share_the_slots_when_they_are_few() {
    let model = Model::new(3, 6, Shape::Pack);
    let (mut store, _memory) = model.store(5, 4);
    assert_eq!(store.capacity(2), 5);
    take(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    assert_eq!(take(&mut store, 1, &[2, 3, 4, 5]).unwrap(), [false; 4]);
    assert_eq!(store.stats().evictions, 3);
}

#[test]
fn each_miss_can_be_taken_as_it_lands() {
    let model = Model::new(1, 8, Shape::Pack);
    let stall = |index| (index == 0).then_some(Fault::Stall(Duration::from_millis(200)));
    let (mut store, memory) = model.store_with(4, 4, model.faulty(stall));
    let acquired = store.acquire(0, &[0, 1, 2, 3]).unwrap();
    let mut pending = slots_of(&acquired);
    let mut order = Vec::new();
    while !pending.is_empty() {
        for (slot, outcome) in store.wait_some(&mut pending) {
            outcome.unwrap();
            let a = *acquired.iter().find(|a| a.slot == slot).unwrap();
            model.assert_holds(&memory, 0, a);
            order.push(a.expert);
        }
    }
    assert_eq!(order.len(), 4);
    assert!(store.stats().stall_time > Duration::from_millis(100), "{}", store.stats());
}

#[test]
fn a_held_slot_stays() {
    let model = Model::new(1, 8, Shape::Pack);
    let (mut store, _memory) = model.store(2, 2);
    let acquired = store.acquire(0, &[0, 1]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    store.hold(&[acquired[0].slot]);
    take(&mut store, 0, &[2]).unwrap();
    take(&mut store, 0, &[3]).unwrap();
    assert_eq!(store.slot_of(0, 0), Some(acquired[0].slot));
    let error = store.acquire(0, &[4, 5]).unwrap_err();
    assert!(matches!(error, StoreError::AllHeld { held: 1, capacity: 2, .. }), "{error}");
    store.release(&[acquired[0].slot]);
    take(&mut store, 0, &[4, 5]).unwrap();
}

/// Prefers what was used last: the worst choice, and the one that would take what a request just asked for.
struct MostRecent;

impl Policy for MostRecent {
    fn victim(&self, set: &[SlotUse], pinned: &dyn Fn(usize) -> bool) -> Option<usize> {
        (0..set.len()).filter(|&slot| !pinned(slot)).max_by_key(|&slot| set[slot].last_used)
    }
}

/// Does not look at pins.
struct FirstSlot;

impl Policy for FirstSlot {
    fn victim(&self, _set: &[SlotUse], _pinned: &dyn Fn(usize) -> bool) -> Option<usize> {
        Some(0)
    }
}

#[test]
fn no_policy_can_evict_what_was_just_asked_for() {
    let model = Model::new(1, 8, Shape::Snapshot);
    let (store, memory) = model.store(4, 4);
    let mut store = store.with_policy(MostRecent);
    for experts in [[0, 1, 2, 3], [4, 5, 0, 6], [7, 0, 1, 2]] {
        let acquired = store.acquire(0, &experts).unwrap();
        store.wait(&slots_of(&acquired)).unwrap();
        for a in acquired {
            model.assert_holds(&memory, 0, a);
        }
    }
    let (store, _memory) = model.store(4, 4);
    let mut store = store.with_policy(FirstSlot);
    take(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    let error = store.acquire(0, &[0, 4]).unwrap_err();
    assert!(matches!(error, StoreError::AllHeld { .. }), "{error}");
    assert_eq!(take(&mut store, 0, &[0]).unwrap(), [true]);
}

#[test]
fn a_request_waits_for_slots_that_are_still_being_read() {
    let model = Model::new(2, 8, Shape::Snapshot);
    let stall = |_| Some(Fault::Stall(Duration::from_millis(5)));
    let (mut store, memory) = model.store_with(3, 3, model.faulty(stall));
    store.acquire(0, &[0, 1, 2]).unwrap();
    let acquired = store.acquire(1, &[5, 6, 7]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 1, a);
    }
}

#[test]
fn embedded_experts_are_read_as_files_are() {
    let model = Model::new(1, 4, Shape::Pack);
    let ExpertFile::Path(path) = &model.layout.files[0] else { panic!("a file") };
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let mut layout = (*model.layout).clone();
    layout.files = vec![ExpertFile::Memory { name: "embedded model", bytes: bytes.clone() }];
    let embedded = Model { layout: Arc::new(layout.clone()), folder: model.folder };
    let (mut store, memory) = embedded.store(4, 4);
    let acquired = store.acquire(0, &[3, 1]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    embedded.assert_holds(&memory, 0, acquired[0]);
    layout.files = vec![ExpertFile::Memory { name: "embedded model", bytes: bytes.slice(..bytes.len() - 1) }];
    let error = FileReader::open(&layout).unwrap_err().to_string();
    assert!(error.starts_with("embedded model: truncated: expected at least "), "{error}");
}

mod budget {
    use super::*;

    #[test]
    fn slots_follow_the_bytes() {
        let model = Model::new(3, 6, Shape::Pack);
        let layout = model.layout_of(4);
        let slot = layout.slot_bytes() as u64;
        assert_eq!(plan_slots(&layout, 5 * slot + 1).unwrap(), 5);
        // 14 slots make three sets of 4; the remainder would never be used
        assert_eq!(plan_slots(&layout, 14 * slot).unwrap(), 12);
        assert_eq!(plan_slots(&layout, u64::MAX).unwrap(), 18);
        assert_eq!(auto_budget(0, 0), 0);
    }

    #[test]
    fn less_than_a_token_needs_is_an_error_with_the_flag() {
        let model = Model::new(3, 6, Shape::Pack);
        let layout = model.layout_of(4);
        let slot = layout.slot_bytes() as u64;
        let error = plan_slots(&layout, 4 * slot - 1).unwrap_err();
        let StoreError::BudgetTooSmall { needed, given, experts: 4 } = error else { panic!("{error}") };
        assert_eq!((needed, given), (4 * slot, 4 * slot - 1));
        assert!(error.to_string().contains("--expert-cache 1MB"), "{error}");
        let memory = Arc::new(HostSlots::new(3, model.layout.slot_bytes()).unwrap());
        let error = ExpertStore::new(model.layout_of(4), memory, model.reader(), 1).err().unwrap();
        assert!(matches!(error, StoreError::BudgetTooSmall { .. }), "{error}");
    }

    #[test]
    fn slots_smaller_than_an_expert_are_an_error() {
        let model = Model::new(1, 4, Shape::Pack);
        let memory = Arc::new(HostSlots::new(4, model.layout.slot_bytes() - 1).unwrap());
        let error = ExpertStore::new(model.layout_of(4), memory, model.reader(), 1).err().unwrap();
        assert!(matches!(error, StoreError::SlotTooSmall { .. }), "{error}");
    }
}

mod requests {
    use super::*;

    #[test]
    fn impossible_ones_are_errors() {
        let model = Model::new(2, 8, Shape::Pack);
        let (mut store, _memory) = model.store(4, 2);
        let text = |error: StoreError| error.to_string();
        assert!(text(store.acquire(2, &[0]).unwrap_err()).contains("no layer 2"));
        assert!(text(store.acquire(0, &[8]).unwrap_err()).contains("no expert 8"));
        assert!(text(store.acquire(1, &[3, 3]).unwrap_err()).contains("expert 3 of layer 1 is asked for twice"));
        let error = store.acquire(0, &[0, 1, 2]).unwrap_err();
        assert!(matches!(error, StoreError::TooManyExperts { asked: 3, capacity: 2, .. }), "{error}");
        assert!(matches!(store.wait(&[1]), Err(StoreError::EmptySlot { slot: 1 })));
        assert!(matches!(store.wait(&[99]), Err(StoreError::EmptySlot { slot: 99 })));
        assert!(store.acquire(0, &[]).unwrap().is_empty());
        assert!(store.wait_some(&mut Vec::new()).is_empty());
    }
}

/// A model, a budget, and what is asked of it.
#[derive(Clone, Debug)]
struct Case {
    shape: Shape,
    layers: usize,
    experts: usize,
    top_k: usize,
    slots: usize,
    /// (layer, experts), each expert at most once.
    requests: Vec<(usize, Vec<u32>)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![Just(Shape::Pack), Just(Shape::Snapshot), Just(Shape::Dense)];
    let sizes = (shape, 1usize..4, 1usize..9, any::<prop::sample::Index>());
    sizes.prop_flat_map(|(shape, layers, experts, top_k)| {
        let top_k = 1 + top_k.index(experts);
        let ids: Vec<u32> = (0..experts as u32).collect();
        let request = (0..layers, prop::sample::subsequence(ids, 0..=top_k).prop_shuffle());
        // two more than the model has experts: those must stay unused
        (top_k..=layers * experts + 2, prop::collection::vec(request, 1..30)).prop_map(move |(slots, requests)| Case {
            shape,
            layers,
            experts,
            top_k,
            slots,
            requests,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever the budget and the requests: right bytes in distinct slots, a hit exactly when the expert was there,
    /// and whoever was evicted was used no later than whoever stayed.
    #[test]
    fn every_slot_holds_the_expert_it_was_given_to(
        Case { shape, layers, experts, top_k, slots, requests } in cases(),
    ) {
        let model = Model::new(layers, experts, shape);
        let (mut store, memory) = model.store(slots, top_k);
        let own_sets = (slots / layers).min(experts) >= top_k;
        let mut last_used: HashMap<(usize, u32), usize> = HashMap::new();
        for (time, (layer, list)) in requests.into_iter().enumerate() {
            let acquired = store.acquire(layer, &list).unwrap();
            store.wait(&slots_of(&acquired)).unwrap();
            let mut seen = slots_of(&acquired);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), list.len());
            for a in &acquired {
                model.assert_holds(&memory, layer, *a);
                prop_assert_eq!(a.hit, last_used.contains_key(&(layer, a.expert)));
                last_used.insert((layer, a.expert), time);
            }
            let (kept, gone): (Vec<_>, Vec<_>) =
                last_used.iter().map(|(k, t)| (*k, *t)).partition(|((l, e), _)| store.slot_of(*l, *e).is_some());
            for (expert, used) in &gone {
                prop_assert_ne!(*used, time);
                let rivals = kept.iter().filter(|k| k.1 != time && (!own_sets || k.0.0 == expert.0));
                for rival in rivals {
                    prop_assert!(*used <= rival.1);
                }
            }
            last_used.retain(|(l, e), _| store.slot_of(*l, *e).is_some());
            prop_assert!(last_used.len() <= slots);
        }
        prop_assert!(store.stats().misses >= last_used.len() as u64);
    }

    /// Reads that fail now and then, and requests that come before the last ones landed, change no byte.
    #[test]
    fn failures_leave_no_wrong_byte(
        Case { shape, layers, experts, top_k, slots, requests } in cases(),
        faults in prop::collection::vec(0u8..6, 1..40),
    ) {
        let model = Model::new(layers, experts, shape);
        let reader = model.faulty(move |index| match faults[index as usize % faults.len()] {
            0 if index % 2 == 0 => Some(Fault::ShortRead(1)),
            1 if index % 3 == 0 => Some(Fault::InputOutput),
            2 => Some(Fault::Stall(Duration::from_micros(200))),
            _ => None,
        });
        let (mut store, memory) = model.store_with(slots, top_k, reader);
        for (time, (layer, list)) in requests.into_iter().enumerate() {
            let acquired = store.acquire(layer, &list).unwrap();
            if time % 3 == 1 {
                continue;
            }
            let mut pending = slots_of(&acquired);
            while !pending.is_empty() {
                let landed = store.wait_some(&mut pending);
                for (slot, _) in landed.into_iter().filter(|(_, outcome)| outcome.is_ok()) {
                    let a = *acquired.iter().find(|a| a.slot == slot).unwrap();
                    model.assert_holds(&memory, layer, a);
                }
            }
        }
    }
}
