//! From the router's choice to work for each expert.

use super::ops::{ExpertTile, Pair, Tile};
use super::step::ExecuteError;
use crate::experts::{ExpertStore, StoreError};

/// One expert of a layer with the (token, expert) pairs that chose it.
pub(crate) struct ExpertPairs {
    /// Expert.
    pub(crate) expert: u32,
    /// In order of tokens; slots are not set yet.
    pub(crate) pairs: Vec<Pair>,
}

/// Groups `ids` `[tokens, top_k]` by expert, in the order of the file.
pub(crate) fn group_by_expert(
    layer: usize,
    ids: &[u32],
    top_k: usize,
    experts: usize,
) -> Result<Vec<ExpertPairs>, ExecuteError> {
    let mut order: Vec<(u32, u32)> = ids.iter().enumerate().map(|(row, &id)| (id, row as u32)).collect();
    if let Some(&(found, _)) = order.iter().find(|(id, _)| *id as usize >= experts) {
        return Err(ExecuteError::Router { layer, found, experts });
    }
    order.sort_unstable();
    let mut groups: Vec<ExpertPairs> = Vec::new();
    for (expert, row) in order {
        let pair = Pair { token: row / top_k as u32, row, slot: 0, slab: 0 };
        match groups.last_mut() {
            Some(last) if last.expert == expert => last.pairs.push(pair),
            _ => groups.push(ExpertPairs { expert, pairs: vec![pair] }),
        }
    }
    Ok(groups)
}

/// Cuts `pairs`, those of a slot together and `first_pair` the first in the buffer, into tiles: those of a slab and of a
/// kind (see [`ExpertTile::kind`]) follow one another.
///
/// A rest is for the smallest tile that holds it.
pub(crate) fn tiles(pairs: &[Pair], first_pair: usize) -> Vec<ExpertTile> {
    let mut all = Vec::new();
    let mut at = first_pair;
    for of_slot in pairs.chunk_by(|a, b| (a.slab, a.slot) == (b.slab, b.slot)) {
        let end = at + of_slot.len();
        while at < end {
            let left = end - at;
            let count = left.min(Tile::EXPERT[Tile::for_pairs(left)].tokens());
            let Pair { slot, slab, .. } = of_slot[0];
            all.push(ExpertTile { first_pair: at as u32, pairs: count as u32, slot, slab });
            at += count;
        }
    }
    all.sort_by_key(|tile| (tile.slab, tile.kind()));
    all
}

/// Starts to read the first `most` experts of `layer` that `guess` names, and empties it. A guess that is none of the
/// layer's experts is left to the layer itself, whose error it is to report.
pub(crate) fn read_ahead(
    store: &mut ExpertStore,
    layer: usize,
    guess: &mut Vec<u32>,
    most: usize,
) -> Result<(), StoreError> {
    let experts = store.layout().layers.get(layer).map_or(0, |layer| layer.experts);
    let guessed: Vec<u32> = guess.drain(..).filter(|id| (*id as usize) < experts).take(most).collect();
    // the last layer has no next one, and no guess
    if guessed.is_empty() { Ok(()) } else { store.prefetch(layer, &guessed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_in_one_tile() {
        let (mut pairs, mut experts) = (Vec::new(), 0);
        for slab in 0..2 {
            for (slot, count) in [1, 8, 9, 16, 17, 32, 33, 64, 65, 80, 96, 97, 200].into_iter().enumerate() {
                pairs.extend((0..count).map(|row| Pair { token: row, row, slot: slot as u32, slab }));
                experts += 1;
            }
        }
        let first_pair = 7;
        let tiles = tiles(&pairs, first_pair);
        // few more than there are full ones
        assert!(tiles.len() <= pairs.len() / Tile::EXPERT[0].tokens() + experts);
        let mut seen = vec![0; pairs.len()];
        for tile in &tiles {
            assert!(tile.pairs >= 1 && tile.pairs as usize <= Tile::EXPERT[tile.kind()].tokens());
            let at = tile.first_pair as usize - first_pair;
            for (pair, seen) in pairs[at..at + tile.pairs as usize].iter().zip(&mut seen[at..]) {
                assert_eq!((pair.slot, pair.slab), (tile.slot, tile.slab));
                *seen += 1;
            }
        }
        assert!(seen.iter().all(|n| *n == 1));
        let runs = tiles.chunk_by(|a, b| (a.slab, a.kind()) == (b.slab, b.kind())).count();
        assert_eq!(runs, 8, "two slabs, four kinds");
        let sizes: Vec<u32> = tiles.iter().filter(|t| t.slab == 0 && t.slot == 9).map(|t| t.pairs).collect();
        assert_eq!(sizes, [16, 64], "80 pairs");
    }
}
