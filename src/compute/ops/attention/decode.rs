//! Attention of one token: by `wgsl/attention.wgsl`, or deep in a context by the tiles of a prompt on matrix units.

use flashflood_formats::CacheFormat;

use super::prefill::Tiles;
use super::{Attention, stage};
use crate::compute::Step;
use crate::compute::kernel::{Dispatch, ResidentLayout, params};

/// Positions that one workgroup attends to.
pub(super) const SPLIT: usize = 512;
/// The same in the tiles of a prompt: from so many positions on, so many. One workgroup is slow to begin and to end, and many
/// have more to join: on an H200 256 and 512 positions give 347 and 335 tokens/s at 8,192 (35B shape), 322 and 331 at 32,768;
/// 512 and 1,024 256 and 264 at 131,072.
pub(super) const TILE_SPLITS: [(usize, usize); 3] = [(0, 256), (1 << 14, 512), (1 << 16, 1024)];

/// Splits of a context's tiles wherever in it a token is, with one that is not full.
pub(super) fn most_tile_splits(context: usize) -> usize {
    let ends = TILE_SPLITS.iter().skip(1).map(|(from, _)| *from).chain([usize::MAX]);
    TILE_SPLITS.iter().zip(ends).map(|((_, split), end)| context.min(end).div_ceil(*split) + 1).max().unwrap_or(0)
}

/// Threads of a workgroup: every device has so many.
pub(super) const THREADS: usize = 256;
/// Threads that join the splits of a head: every device has so many.
pub(super) const MERGE_THREADS: usize = 256;

impl Attention {
    /// Positions of f16 from which on tiles on matrix units are faster: they fill only as many rows as queries share a KV head,
    /// but read a key once, where `attention` reads it once for each of those (H200, 35B shape: 335 tokens/s with either at
    /// 6,200, then 330 and 344 at 8,192, 325 and 341 at 12,300).
    pub(crate) const DEEP: usize = 6_144;

    /// Queries of a KV head from which on that pays: with 8 of them it was measured, one alone reads keys once as it is.
    const DEEP_QUERIES: usize = 4;

    /// From which position on tiles make the attention of a token, if they do.
    pub(super) fn deep_from(&self, resident: &dyn ResidentLayout) -> Option<usize> {
        let fits = self.fits_matrix_units() && self.queries_per_key() >= Self::DEEP_QUERIES;
        // codes are made halves on the way: in 8 and 4 bits 322 and 314 tokens/s at 8,192, with tiles 315 and 305
        let halves = self.formats == [CacheFormat::F16; 2];
        let deep = resident.deep_attention().map(|deep| if halves { deep } else { 2 * deep });
        // without matrix units only where a test asks for it
        deep.filter(|_| fits || !resident.cooperative_attention())
    }

    pub(super) fn dispatch_decode(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let seen = self.seen(step, 0, 1);
        if self.deep_from(resident).is_some_and(|deep| seen.len() >= deep) {
            self.dispatch_keys(resident, step, out);
            let at = TILE_SPLITS.iter().rposition(|(from, _)| seen.len() >= *from).unwrap_or(0);
            let (split, tiles) = (TILE_SPLITS[at].1, stage::TILE_OF_TOKEN + at);
            let of_token = Tiles { split, tiles, merge: stage::MERGE_OF_TOKEN };
            return self.dispatch_tiles(resident, step, 0, 1, of_token, out);
        }
        let splits = self.split_count(resident, SPLIT, seen.clone());
        for of_window in self.splits(resident, SPLIT, seen) {
            let immediates = params! {
                position: step.position as u32,
                window_start: of_window.start as u32,
                window_rows: of_window.rows as u32,
                first_split: of_window.before as u32,
                splits: splits as u32,
                scale: self.scale().to_bits(),
                eps: self.eps.to_bits(),
                first_seen: of_window.first_seen as u32,
                q_norm: Self::offset_of(resident, self.q_norm),
                k_norm: Self::offset_of(resident, self.k_norm),
                bias: Self::offset_of(resident, self.bias),
                sinks: Self::offset_of(resident, self.sinks),
            };
            let grid = [self.heads as u32, of_window.splits as u32, 1];
            // each split has a place of its own
            let beside = of_window.before > 0;
            out.push(Dispatch { beside, ..Dispatch::new(stage::TOKEN, of_window.window, immediates, grid) });
        }
        // a single split is its own result
        if splits > 1 {
            out.push(self.merge(resident, stage::MERGE_OF_TOKEN, 0, splits, 0, 1));
        }
    }
}
