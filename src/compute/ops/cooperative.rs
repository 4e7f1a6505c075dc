//! Tiles of the product that matrix units make: they belong to a device, not to every one as [`super::Tile`] does.

use super::ProductShape;
use crate::compute::kernel::fold;

/// What a workgroup of a product by matrix units makes. It changes the speed and nothing else: an output is added up 16
/// columns at a time from first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeTile {
    /// Subgroups, of 32 threads, that share out the rows.
    pub row_subgroups: usize,
    /// Subgroups that share out the tokens.
    pub token_subgroups: usize,
    /// Times 16 tokens of a subgroup: 1, 2 or 4.
    pub token_tiles: usize,
}

impl CooperativeTile {
    const fn new(row_subgroups: usize, token_subgroups: usize, token_tiles: usize) -> Self {
        CooperativeTile { row_subgroups, token_subgroups, token_tiles }
    }

    /// Those that `matmul_cooperative` is made with: for very few tokens, for few of them or of rows, and for many.
    pub(crate) const MATRIX: [CooperativeTile; 3] = [Self::new(2, 1, 1), Self::new(2, 1, 4), Self::new(4, 2, 4)];
    /// Workgroups of the largest tile that keep an H200 as busy as more of smaller ones. A smaller tile needs more of them:
    /// 2048 x 2048 and 128 tokens take 39 us with 64 x 16, 46 to 62 with 64 x 64, 58 to 73 with 128 x 128.
    const ENOUGH_GROUPS: usize = 64;
    /// Those for the pairs of an expert, few or many: of as many as those of [`Tile::EXPERT`](super::Tile::EXPERT), or
    /// more, as a unit has 16.
    pub(crate) const EXPERT: [CooperativeTile; 4] =
        [Self::new(4, 1, 1), Self::new(4, 1, 1), Self::new(4, 1, 2), Self::new(4, 1, 4)];

    /// Which of [`MATRIX`](Self::MATRIX) is for so many rows and tokens.
    pub(crate) fn choose(rows: usize, tokens: usize) -> usize {
        let groups = |tile: CooperativeTile| rows.div_ceil(tile.rows()) * tokens.div_ceil(tile.tokens());
        let [_, middle, large] = Self::MATRIX.map(groups);
        match tokens <= Self::MATRIX[0].tokens() {
            false if large >= Self::ENOUGH_GROUPS => 2,
            false if middle >= 2 * Self::ENOUGH_GROUPS => 1,
            _ => 0,
        }
    }

    /// Workgroups for all rows of a matrix and so many tokens.
    pub(crate) fn grid(&self, rows: usize, tokens: usize) -> [u32; 3] {
        self.grid_of(rows, tokens.div_ceil(self.tokens()))
    }

    /// Workgroups for `layers` times all rows of a matrix.
    pub(crate) fn grid_of(&self, rows: usize, layers: usize) -> [u32; 3] {
        let (x, y) = fold(rows.div_ceil(self.rows()));
        [x, y, layers as u32]
    }

    /// Rows that it makes: 32 a subgroup.
    pub fn rows(&self) -> usize {
        32 * self.row_subgroups
    }

    /// Tokens that it makes them for.
    pub fn tokens(&self) -> usize {
        16 * self.token_tiles * self.token_subgroups
    }

    /// Threads of its workgroup.
    pub(crate) fn threads(&self) -> usize {
        32 * self.row_subgroups * self.token_subgroups
    }
}

impl ProductShape {
    /// WGSL constants of the shader that matrix units run.
    pub fn cooperative_constants(&self, tile: CooperativeTile) -> Vec<(&'static str, f64)> {
        let CooperativeTile { row_subgroups, token_subgroups, token_tiles } = tile;
        self.with_scales([
            ("row_subgroups", row_subgroups),
            ("token_subgroups", token_subgroups),
            ("token_tiles", token_tiles),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::ops::Tile;

    /// What `wgsl/shared/tile_cooperative.wgsl` asks of them, and the 48 KiB that such devices have.
    #[test]
    fn threads_bring_what_a_tile_needs() {
        for tile in CooperativeTile::MATRIX {
            let edge = 1024 * tile.threads() / 32;
            assert!(halves(tile) + edge <= 48 << 10, "{tile:?}");
        }
        for (tile, plain) in CooperativeTile::EXPERT.into_iter().zip(Tile::EXPERT) {
            let sums = 4 * tile.tokens().min(32) * (tile.rows() + 8);
            let quantised = 8 * tile.threads();
            assert!(halves(tile) + sums + quantised <= 48 << 10, "{tile:?}");
            assert_eq!(tile.tokens(), plain.tokens().max(16), "tiles are cut before it is known who makes them");
            assert_eq!(tile.token_subgroups, 1);
        }
    }

    fn halves(tile: CooperativeTile) -> usize {
        assert!(tile.threads() >= tile.rows() && tile.threads() >= tile.tokens(), "two blocks a thread: {tile:?}");
        (tile.rows() + tile.tokens()) * 8 * 18
    }

    #[test]
    fn tiles_follow_the_work() {
        let chosen = |rows, tokens| CooperativeTile::choose(rows, tokens);
        assert_eq!([chosen(4096, 9), chosen(2048, 128), chosen(12_288, 128), chosen(4096, 512)], [0, 0, 2, 2]);
        assert_eq!([chosen(1024, 512), chosen(256, 2048), chosen(512, 128)], [1, 1, 0]);
    }
}
