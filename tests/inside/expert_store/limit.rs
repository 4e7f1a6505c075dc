//! A limit that falls and rises, and the counters of a replay.

use crate::experts::policy::{AgedLfu, Lru};
use crate::experts::trace::{Trace, TraceShape};
use crate::inside::replay::replay;
use proptest::prelude::*;

use super::model::{Model, Shape, slots_of, take};

#[test]
fn a_lower_limit_takes_effect_when_the_layer_is_asked_for() {
    let model = Model::new(2, 8, Shape::Pack);
    let (mut store, memory) = model.store(16, 2);
    for layer in [0, 1] {
        for experts in [[0, 1], [2, 3], [4, 5], [6, 7], [0, 3]] {
            take(&mut store, layer, &experts).unwrap();
        }
    }
    assert!(store.holds_all());
    assert_eq!((store.limit(), store.filled()), (16, 16));
    store.set_limit(7);
    assert!(!store.holds_all());
    assert_eq!((store.limit(), store.capacity(0), store.filled()), (6, 3, 16));
    let released: Vec<usize> = [1, 2, 4, 5, 7].map(|expert| store.slot_of(0, expert).unwrap()).into();
    // a hit is enough; 6 is pinned by it, 0 and 3 were used last
    assert_eq!(take(&mut store, 0, &[6]).unwrap(), [true]);
    assert_eq!(store.filled(), 3 + 8);
    assert!(released.iter().all(|&slot| memory.read(slot).is_empty()), "memory went back");
    assert!([0, 3, 6].iter().all(|&expert| store.slot_of(0, expert).is_some()));
    // a miss replaces, and memory stays as it is
    assert_eq!(take(&mut store, 0, &[1, 0]).unwrap(), [false, true]);
    assert_eq!(store.filled(), 3 + 8);
    assert_eq!(take(&mut store, 1, &[4, 5]).unwrap(), [true, true]);
    assert_eq!(store.filled(), 3 + 3);
    store.set_limit(usize::MAX);
    assert_eq!(store.limit(), 16);
    let acquired = store.acquire(0, &[2, 4, 5, 7]).unwrap();
    store.wait(&slots_of(&acquired)).unwrap();
    for a in acquired {
        model.assert_holds(&memory, 0, a);
    }
    assert_eq!(store.filled(), 7 + 3);
}

/// Slots of a layer that are no whole number of slabs.
#[test]
fn a_limit_that_does_not_change_changes_nothing() {
    use crate::compute::gpu::{Adapters, GpuSlots, Landing, open};
    let model = Model::new(2, 8, Shape::Pack);
    let gpu = pollster::block_on(open(Adapters::Any)).unwrap();
    let sets = crate::experts::SlotSets::of_lengths([7, 7]);
    let memory = std::sync::Arc::new(GpuSlots::new(&gpu, sets, 1 << 16, 2, 1 << 30, Some(Landing::Shared)).unwrap());
    let reader = std::sync::Arc::new(crate::experts::FileReader::open(&model.layout).unwrap());
    let mut store = crate::experts::ExpertStore::new(model.layout_of(2), memory, reader, 2).unwrap();
    for _ in 0..2 {
        assert_eq!(store.limit(), 14);
        store.set_limit(store.limit());
    }
}

#[test]
fn a_limit_never_falls_below_a_token() {
    let model = Model::new(2, 8, Shape::Pack);
    let (mut store, _memory) = model.store(16, 3);
    store.set_limit(0);
    assert_eq!((store.limit(), store.capacity(1)), (6, 3));
    take(&mut store, 1, &[0, 1, 2]).unwrap();
    take(&mut store, 1, &[3, 4, 5]).unwrap();
    assert_eq!(store.filled(), 3);
    // one set that the layers share
    let (mut shared, _memory) = model.store(5, 3);
    shared.set_limit(1);
    assert_eq!(shared.limit(), 3);
    take(&mut shared, 0, &[0, 1, 2]).unwrap();
    take(&mut shared, 1, &[0, 1]).unwrap();
    assert_eq!(shared.filled(), 3);
}

#[test]
fn held_slots_may_exceed_the_limit_until_they_are_released() {
    let model = Model::new(1, 8, Shape::Pack);
    let (mut store, _memory) = model.store(8, 2);
    let held: Vec<usize> = [[0, 1], [2, 3]].iter().flat_map(|e| slots_of(&store.acquire(0, e).unwrap())).collect();
    store.wait(&held).unwrap();
    store.hold(&held);
    store.set_limit(2);
    assert_eq!(take(&mut store, 0, &[4, 5]).unwrap(), [false, false]);
    assert_eq!(store.filled(), 6);
    store.release(&held);
    assert_eq!(take(&mut store, 0, &[5]).unwrap(), [true]);
    assert_eq!(store.filled(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the limits, experts are the right ones and the limit holds after every request.
    #[test]
    fn limits_never_give_wrong_bytes(
        requests in prop::collection::vec((0usize..2, prop::sample::subsequence((0u32..8).collect::<Vec<_>>(), 2), 0usize..20), 1..40),
    ) {
        let model = Model::new(2, 8, Shape::Pack);
        let (mut store, memory) = model.store(16, 2);
        for (layer, experts, limit) in requests {
            store.set_limit(limit);
            let acquired = store.acquire(layer, &experts).unwrap();
            store.wait(&slots_of(&acquired)).unwrap();
            for a in &acquired {
                model.assert_holds(&memory, layer, *a);
            }
            let filled = (0..8).filter(|&e| store.slot_of(layer, e).is_some()).count();
            prop_assert!(filled <= store.limit() / 2);
        }
    }

    /// A replay counts what the store counts.
    #[test]
    fn a_replay_has_the_counters_of_the_store(
        tokens in prop::collection::vec(prop::sample::subsequence((0u32..8).collect::<Vec<_>>(), 4), 1..40),
        slots in 2usize..9,
        half_life in 1.0f64..20.0,
    ) {
        let model = Model::new(2, 8, Shape::Pack);
        let shape = TraceShape::even(2, 8, 2, model.layout.slot_bytes());
        let steps = tokens.iter().map(|ids| vec![ids[..2].to_vec(), ids[2..].to_vec()]).collect();
        let trace = Trace { shape, steps };
        let lfu = AgedLfu { half_life };
        let (with_lru, _memory) = model.store(2 * slots, 2);
        let (with_lfu, _memory) = model.store(2 * slots, 2);
        for (mut store, found) in
            [(with_lru, replay(&trace, &Lru, slots)), (with_lfu.with_policy(lfu), replay(&trace, &lfu, slots))]
        {
            for ids in &tokens {
                take(&mut store, 0, &ids[..2]).unwrap();
                take(&mut store, 1, &ids[2..]).unwrap();
            }
            prop_assert_eq!((found.hits, found.misses), (store.stats().hits, store.stats().misses));
        }
    }
}
