//! Slots in GPU memory: where they lie, and memory that comes and goes with the limit.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::sync::Arc;

use crate::compute::gpu::{Adapters, GpuSlots, Landing, open};
use crate::experts::{ExpertStore, FileReader, SlotMemory, SlotSets};

use super::model::{Model, Shape, take};

const SLOT: usize = 1 << 16;

#[test]
fn every_slot_has_a_place_of_its_own() {
    let gpu = pollster::block_on(open(Adapters::Any)).unwrap();
    for landing in [Landing::Shared, Landing::Staged, Landing::Copied] {
        for (slots, set, binding) in [(24, 8, 1 << 30), (24, 24, 1 << 30), (21, 7, 3 * SLOT), (5, 5, SLOT), (4, 1, 1)] {
            let sets = SlotSets::of_lengths(vec![set; slots / set]);
            let memory = GpuSlots::new(&gpu, sets, SLOT, 2, binding as u64, Some(landing)).unwrap();
            let places: HashSet<_> = (0..slots).map(|slot| memory.place(slot)).collect();
            assert_eq!(places.len(), slots, "{landing:?}, {slots} slots in sets of {set}");
            assert!(places.iter().all(|(slab, _)| *slab < memory.slabs()));
            let within = places.iter().all(|(_, place)| (place + 1) * SLOT <= binding.max(SLOT));
            assert!(within, "{landing:?}: a slab is larger than a binding of {binding}");
            assert_eq!(memory.allocated(), (slots * SLOT) as u64);
        }
    }
}

#[test]
fn a_lower_limit_gives_slabs_back_and_a_higher_one_takes_them() {
    let model = Model::new(2, 8, Shape::Pack);
    let gpu = pollster::block_on(open(Adapters::Any)).unwrap();
    let sets = SlotSets::of_lengths([8, 8]);
    let memory = Arc::new(GpuSlots::new(&gpu, sets, SLOT, 2, 1 << 30, Some(Landing::Shared)).unwrap());
    let reader = Arc::new(FileReader::open(&model.layout).unwrap());
    let mut store = ExpertStore::new(model.layout_of(2), memory.clone(), reader, 2).unwrap();
    let token = |store: &mut ExpertStore| {
        for (layer, experts) in [0, 1].iter().flat_map(|&layer| [[0, 1], [2, 3], [4, 5], [6, 7]].map(|e| (layer, e))) {
            take(store, layer, &experts).unwrap();
        }
        memory.allocated() as usize / SLOT
    };
    assert!(store.gives_back() && memory.granule() == 2);
    assert_eq!((token(&mut store), store.filled()), (16, 16));
    store.set_limit(11);
    // whole slabs: 4 of 8 slots for each layer
    assert_eq!(store.limit(), 8);
    assert_eq!((token(&mut store), store.filled()), (8, 8));
    store.set_limit(0);
    assert_eq!((token(&mut store), store.filled()), (4, 4));
    store.set_limit(usize::MAX);
    assert_eq!((token(&mut store), store.filled()), (16, 16));
}
