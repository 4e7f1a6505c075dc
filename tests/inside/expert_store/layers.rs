//! Layers of one model that differ: in their experts, in how many of them a token uses, and in how large they are.

use std::sync::Arc;

use crate::experts::{ExpertStore, HostSlots, StoreError, plan_slots};
use proptest::prelude::*;

use super::model::{Model, Shape, slots_of};

/// (experts, of a token, width)
const LAYERS: [(usize, usize, usize); 3] = [(12, 3, 64), (4, 2, 32), (2, 1, 96)];

fn store(model: &Model, slots: usize) -> (ExpertStore, Arc<HostSlots>) {
    let memory = Arc::new(HostSlots::new(slots, model.layout.slot_bytes()).unwrap());
    (ExpertStore::new(model.layout.clone(), memory.clone(), model.reader(), 2).unwrap(), memory)
}

#[test]
fn each_has_slots_for_a_token_and_its_share_of_the_rest() {
    let model = Model::of_layers(&LAYERS, Shape::Pack);
    let slot = model.layout.slot_bytes() as u64;
    assert_eq!([5, 12, 100].map(|slots| plan_slots(&model.layout, slots * slot).unwrap()), [5, 12, 18]);
    let capacities = |slots| {
        let (store, _) = store(&model, slots);
        ([0, 1, 2].map(|layer| store.capacity(layer)), store.holds_all())
    };
    // one set that all layers share
    assert_eq!(capacities(5), ([5, 4, 2], false));
    assert_eq!(capacities(6), ([3, 2, 1], false));
    assert_eq!(capacities(12), ([7, 3, 2], false));
    assert_eq!(capacities(18), ([12, 4, 2], true));
    let (mut store, _memory) = store(&model, 18);
    store.set_limit(9);
    assert_eq!((store.limit(), [0, 1, 2].map(|layer| store.capacity(layer))), (9, [6, 2, 1]));
    store.set_limit(0);
    assert_eq!((store.limit(), [0, 1, 2].map(|layer| store.capacity(layer))), (6, [3, 2, 1]));
    store.set_limit(usize::MAX);
    assert!(store.holds_all());
}

#[test]
fn what_a_layer_does_not_have_is_an_error() {
    let model = Model::of_layers(&LAYERS, Shape::Snapshot);
    let (mut store, _memory) = store(&model, 18);
    let error = store.acquire(1, &[4]).unwrap_err();
    assert!(matches!(error, StoreError::NoSuchExpert { layer: 1, expert: 4, experts: 4 }), "{error}");
    assert!(matches!(store.acquire(3, &[0]), Err(StoreError::NoSuchLayer { layer: 3, layers: 3 })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_slot_holds_the_expert_it_was_given_to(
        slots in 3usize..20,
        shape in prop::sample::select(vec![Shape::Pack, Shape::Snapshot, Shape::Dense]),
        requests in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<bool>()), 1..40),
    ) {
        let model = Model::of_layers(&LAYERS, shape);
        let (mut store, memory) = store(&model, slots);
        for (layer, first, ahead) in requests {
            let (experts, top_k, _) = LAYERS[layer];
            let first = first.index(experts);
            let wanted: Vec<u32> = (first..first + top_k).map(|expert| (expert % experts) as u32).collect();
            let acquired = store.acquire(layer, &wanted).unwrap();
            if ahead {
                store.prefetch((layer + 1) % 3, &[0]).unwrap();
            }
            store.wait(&slots_of(&acquired)).unwrap();
            for a in acquired {
                model.assert_holds(&memory, layer, a);
            }
        }
    }
}
