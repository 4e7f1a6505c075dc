//! Pairs of a prompt by expert, and their tiles: what the device makes where all experts are in memory, against what the host
//! makes where they are read.

use super::CheckError;
use super::compare::Apart;
use super::report::KernelRow;
use crate::compute::Step;
use crate::compute::gpu::GpuExecutor;
use crate::compute::ops::{ExpertTile, Pair, RouterTopK, Tile, expert_groups};
use crate::compute::routing::{group_by_expert, tiles};

/// The kernels.
pub(super) const KERNELS: [&str; 2] = ["expert_count", "expert_group"];

/// A row for each kernel: of the choices `ids`, `[tokens, top_k]`, that the tensor of operation `index` holds.
pub(super) fn compare(
    gpu: &mut GpuExecutor,
    (index, op): (usize, &RouterTopK),
    step: Step,
    ids: &[u32],
) -> Result<[KernelRow; 2], CheckError> {
    let (experts, top_k) = (op.logits.width, op.ids.width);
    // any place in any of three slabs, another one for each expert
    let slots: Vec<[u32; 2]> = (0..experts as u32).rev().map(|slot| [slot, slot % 3]).collect();
    let mut expected: Vec<Pair> = Vec::new();
    for group in group_by_expert(op.layer, ids, top_k, experts)? {
        let [slot, slab] = slots[group.expert as usize];
        expected.extend(group.pairs.iter().map(|&pair| Pair { slot, slab, ..pair }));
    }
    let (pairs, found) = gpu.group_by_expert(index, op, &step, &slots)?;
    let agrees = pairs == expected && same_tiles(tiles(&expected, 0), &found, expert_groups::rooms(ids.len(), experts));
    let apart = if agrees { Apart::default() } else { Apart { share: f32::INFINITY, most: f32::INFINITY } };
    Ok(KERNELS.map(|kernel| KernelRow::new(kernel, step, format!("{top_k} of {experts}"), apart, "pairs and tiles")))
}

/// Whether the rooms hold these tiles, each where those of its kind are, and nothing else.
fn same_tiles(mut expected: Vec<ExpertTile>, found: &[ExpertTile], rooms: [usize; 4]) -> bool {
    let kinds = rooms.into_iter().enumerate().flat_map(|(kind, room)| std::iter::repeat_n(kind, room));
    let there: Vec<(usize, ExpertTile)> = kinds.zip(found.iter().copied()).filter(|(_, tile)| tile.pairs > 0).collect();
    let are_in_place = there.iter().all(|(kind, tile)| *kind == Tile::for_pairs(tile.pairs as usize));
    let mut found: Vec<ExpertTile> = there.into_iter().map(|(_, tile)| tile).collect();
    found.sort_by_key(|tile| tile.first_pair);
    expected.sort_by_key(|tile| tile.first_pair);
    are_in_place && found == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_compared() {
        let tile = |first_pair, pairs| ExpertTile { first_pair, pairs, slot: 1, slab: 0 };
        let (none, rooms) = (tile(0, 0), [1, 1, 1, 1]);
        let expected = || vec![tile(9, 64), tile(73, 2), tile(0, 9)];
        assert!(same_tiles(expected(), &[tile(73, 2), tile(0, 9), none, tile(9, 64)], rooms));
        assert!(!same_tiles(expected(), &[none, tile(0, 9), none, tile(9, 64)], rooms), "one is missing");
        assert!(!same_tiles(expected(), &[none, tile(0, 9), tile(73, 2), tile(9, 64)], rooms), "one is elsewhere");
        assert!(!same_tiles(expected(), &[tile(73, 2), tile(0, 9), tile(80, 20), tile(9, 64)], rooms), "one too many");
    }
}
