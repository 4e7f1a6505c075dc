//! (token, expert) pairs of a prompt by expert, on the GPU: where all experts are in memory nobody waits for the router.
//!
//! Where experts are read, the host groups them: [`crate::compute::routing`].

use super::Tile;
use crate::compute::kernel::{Binding, Dispatch, Resource, Stage, params};
use crate::compute::recording::View;

/// Slices of the tokens that are counted apart.
const SLICES: usize = 32;
/// Experts of a workgroup.
const EXPERTS: usize = 8;

/// Room for the tiles of so many pairs of so many experts, of each of [`Tile::EXPERT`]. Those of the first come first.
///
/// An expert has one tile at most that is not of the largest, and a tile more pairs than the next smaller one would hold.
pub(crate) fn rooms(pairs: usize, experts: usize) -> [usize; 4] {
    let [tiny, small, middle, _] = Tile::EXPERT.map(|tile| tile.tokens());
    [pairs.min(experts), (pairs / (tiny + 1)).min(experts), (pairs / (small + 1)).min(experts), pairs / (middle + 1)]
}

/// Bytes of the counts of a layer.
pub(super) fn scratch_bytes(experts: usize) -> usize {
    experts * SLICES * 4
}

/// The two stages: counts, then pairs and tiles.
pub(super) fn stages(ids: View) -> [Stage; 2] {
    let [tiny, small, middle, large] = Tile::EXPERT.map(|tile| tile.tokens() as f64);
    let ids = Binding::read(Resource::Tensor(ids.tensor));
    [
        Stage {
            shader: "expert_count",
            constants: Vec::new(),
            groups: vec![vec![ids, Binding::write(Resource::Scratch)]],
        },
        Stage {
            shader: "expert_group",
            constants: vec![("tiny", tiny), ("small", small), ("middle", middle), ("large", large)],
            groups: vec![vec![
                ids,
                Binding::read(Resource::Scratch),
                Binding::read(Resource::Slots),
                Binding::write(Resource::Pairs),
                Binding::write(Resource::Tiles),
            ]],
        },
    ]
}

/// Their dispatches for what `tokens` tokens chose among `experts` experts, whose slots begin at `first_slot`. They are
/// stages `stage` and the next.
pub(crate) fn dispatches(ids: View, experts: usize, first_slot: usize, tokens: usize, stage: usize) -> [Dispatch; 2] {
    let [tiny_tiles, small_tiles, middle_tiles, large_tiles] = rooms(tokens * ids.width, experts);
    let groups = experts.div_ceil(EXPERTS) as u32;
    let immediates = params! {
        experts: experts as u32,
        tokens: tokens as u32,
        top_k: ids.width as u32,
        ids_stride: (ids.stride / 4) as u32,
        first_slot: first_slot as u32,
        tiny_tiles: tiny_tiles as u32,
        small_tiles: small_tiles as u32,
        middle_tiles: middle_tiles as u32,
        large_tiles: large_tiles as u32,
        groups,
    };
    [stage, stage + 1].map(|stage| Dispatch::new(stage, 0, immediates, [groups, 1, 1]))
}
