//! A model's experts in a folder: every byte tells which expert it belongs to.

use std::sync::Arc;

use crate::experts::policy::Lru;
use crate::experts::{Acquired, ExpertReader, ExpertStore, FileReader, HostSlots, StoreError};
use crate::inside::faulty_reader::{Fault, FaultyReader};
use crate::weights::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout, WeightFormat};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const HIDDEN: usize = 64;
pub(crate) const INTERMEDIATE: usize = 32;

/// Experts on disk as a pack holds them (one record), or as a snapshot does (nine slices).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Pack,
    Snapshot,
    Dense,
}

/// A model's experts in a folder of their own.
pub(crate) struct Model {
    pub(crate) layout: Arc<ExpertLayout>,
    pub(crate) folder: TempDir,
}

/// A byte that tells layer, expert and offset apart. Below 0x40, so that no pair of them is a NaN.
pub(crate) fn byte_of(layer: usize, expert: usize, at: usize) -> u8 {
    (layer * 31 + expert * 7 + at * 13 + at / 61) as u8 & 0x3f
}

pub(crate) fn record(slot: &SlotLayout, layer: usize, expert: usize) -> Vec<u8> {
    (0..slot.bytes).map(|at| byte_of(layer, expert, at)).collect()
}

/// The slices of a snapshot: (offset in the slot, bytes). Gate and up are tensors of their own there.
pub(crate) fn snapshot_slices(slot: &SlotLayout) -> Vec<(usize, usize)> {
    let of = MatrixPlace::sections;
    let halves = of(&slot.gate_up).flat_map(|(at, len)| [(at, len / 2), (at + len / 2, len / 2)]);
    halves.chain(of(&slot.down)).filter(|s| s.1 > 0).collect()
}

impl Model {
    pub(crate) fn new(layers: usize, experts: usize, shape: Shape) -> Model {
        Model::of_layers(&vec![(experts, 1, INTERMEDIATE); layers], shape)
    }

    /// Layers of so many experts, as many of a token, and of such a width.
    pub(crate) fn of_layers(layers: &[(usize, usize, usize)], shape: Shape) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let (mut files, mut all) = (Vec::new(), Vec::new());
        for (layer, &(experts, top_k, intermediate)) in layers.iter().enumerate() {
            let format = if shape == Shape::Dense { WeightFormat::Bf16 } else { WeightFormat::affine(4, 32) };
            let slot = SlotLayout::new(HIDDEN, intermediate, format, format);
            let records: Vec<Vec<u8>> = (0..experts).map(|expert| record(&slot, layer, expert)).collect();
            let slices = if shape == Shape::Pack { vec![(0, slot.bytes)] } else { snapshot_slices(&slot) };
            let parts = slices.iter().enumerate().map(|(index, &(at, len))| {
                let file = files.len() as u32;
                let path = folder.path().join(format!("layer-{layer}-part-{index}.bin"));
                let lead = 24;
                let mut bytes = vec![0xee; lead];
                // odd parts lie backwards, as tensors of single experts may
                let backwards = index % 2 == 1;
                let mut order: Vec<usize> = (0..experts).collect();
                if backwards {
                    order.reverse();
                }
                let mut places = vec![(file, 0); experts];
                for expert in order {
                    places[expert].1 = bytes.len() as u64;
                    bytes.extend_from_slice(&records[expert][at..at + len]);
                }
                std::fs::write(&path, bytes).unwrap();
                files.push(ExpertFile::Path(path));
                let strided = Place::Strided { file, base: lead as u64, stride: len as u64 };
                Part { place: if backwards { Place::Listed(places) } else { strided }, len, at }
            });
            let parts = parts.collect();
            let checksums = (shape == Shape::Pack).then(|| records.iter().map(|r| xxh3_64(r)).collect());
            all.push(LayerExperts { experts, top_k, slot, parts, rewritten: Vec::new(), checksums });
        }
        Model { layout: Arc::new(ExpertLayout { files, layers: all }), folder }
    }

    /// The layout where a token uses `top_k` experts of each layer.
    pub(crate) fn layout_of(&self, top_k: usize) -> Arc<ExpertLayout> {
        let mut layout = (*self.layout).clone();
        layout.layers.iter_mut().for_each(|layer| layer.top_k = top_k);
        Arc::new(layout)
    }

    pub(crate) fn reader(&self) -> Arc<dyn ExpertReader> {
        Arc::new(FileReader::open(&self.layout).unwrap())
    }

    pub(crate) fn store(&self, slots: usize, top_k: usize) -> (ExpertStore, Arc<HostSlots>) {
        self.store_with(slots, top_k, self.reader())
    }

    pub(crate) fn store_with(
        &self,
        slots: usize,
        top_k: usize,
        reader: Arc<dyn ExpertReader>,
    ) -> (ExpertStore, Arc<HostSlots>) {
        let memory = Arc::new(HostSlots::new(slots, self.layout.slot_bytes()).unwrap());
        let store = ExpertStore::new(self.layout_of(top_k), memory.clone(), reader, 3).unwrap();
        // the oldest leaves: what leaves is then easy to see in a test
        (store.with_policy(Lru), memory)
    }

    pub(crate) fn faulty(&self, fault: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static) -> Arc<FaultyReader> {
        Arc::new(FaultyReader::new(self.reader(), fault))
    }

    /// Whether a slot holds exactly what the files say of an expert; the gaps between sections do not count.
    pub(crate) fn assert_holds(&self, memory: &HostSlots, layer: usize, acquired: Acquired) {
        let bytes = memory.read(acquired.slot);
        for (_, _, len, at) in self.layout.slices(layer, acquired.expert as usize) {
            let expected: Vec<u8> = (at..at + len).map(|at| byte_of(layer, acquired.expert as usize, at)).collect();
            assert!(bytes[at..at + len] == expected, "layer {layer}, expert {}", acquired.expert);
        }
    }
}

pub(crate) fn slots_of(acquired: &[Acquired]) -> Vec<usize> {
    acquired.iter().map(|a| a.slot).collect()
}

/// Acquires, waits, and tells which were hits.
pub(crate) fn take(store: &mut ExpertStore, layer: usize, experts: &[u32]) -> Result<Vec<bool>, StoreError> {
    let acquired = store.acquire(layer, experts)?;
    assert!(acquired.iter().map(|a| a.expert).eq(experts.iter().copied()));
    store.wait(&slots_of(&acquired))?;
    Ok(acquired.iter().map(|a| a.hit).collect())
}
