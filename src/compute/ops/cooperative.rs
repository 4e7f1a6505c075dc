//! Tiles of the product that matrix units make: they belong to a device, not to every one as [`super::Tile`] does.

use super::ProductShape;
use crate::compute::kernel::fold;

/// What a workgroup of `matmul_cooperative` makes. It changes the speed and nothing else: an output is added up 16 columns
/// at a time from first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeTile {
    /// Subgroups, of 32 threads, that share out the rows.
    pub row_subgroups: usize,
    /// Subgroups that share out the tokens.
    pub token_subgroups: usize,
    /// Blocks of 32 columns in workgroup memory: 1 or 2. A thread brings one of a row and one of a token at most.
    pub step_blocks: usize,
}

impl CooperativeTile {
    /// Those that the kernel is made with: for few tokens, and for many.
    pub(crate) const MATRIX: [CooperativeTile; 2] = [
        CooperativeTile { row_subgroups: 2, token_subgroups: 1, step_blocks: 1 },
        CooperativeTile { row_subgroups: 4, token_subgroups: 2, step_blocks: 2 },
    ];

    /// Which of [`MATRIX`](Self::MATRIX) is for so many tokens: the first that holds them, or the largest.
    pub(crate) fn for_tokens(tokens: usize) -> usize {
        usize::from(tokens > Self::MATRIX[0].tokens())
    }

    /// Workgroups for all rows of a matrix and so many tokens.
    pub(crate) fn grid(&self, rows: usize, tokens: usize) -> [u32; 3] {
        let (x, y) = fold(rows.div_ceil(self.rows()));
        [x, y, tokens.div_ceil(self.tokens()) as u32]
    }

    /// Rows that it makes: 32 a subgroup.
    pub fn rows(&self) -> usize {
        32 * self.row_subgroups
    }

    /// Tokens that it makes them for: 64 a subgroup.
    pub fn tokens(&self) -> usize {
        64 * self.token_subgroups
    }

    /// Threads of its workgroup.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        32 * self.row_subgroups * self.token_subgroups
    }
}

impl ProductShape {
    /// WGSL constants of the shader that matrix units run.
    pub fn cooperative_constants(&self, tile: CooperativeTile) -> Vec<(&'static str, f64)> {
        let CooperativeTile { row_subgroups, token_subgroups, step_blocks } = tile;
        self.with_scales([
            ("row_subgroups", row_subgroups),
            ("token_subgroups", token_subgroups),
            ("step_blocks", step_blocks),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `wgsl/matmul_cooperative.wgsl` asks of them, and the 48 KiB that such devices have.
    #[test]
    fn threads_bring_what_a_tile_needs() {
        for tile in CooperativeTile::MATRIX {
            assert!(tile.threads() >= tile.step_blocks * tile.rows(), "{tile:?}");
            assert!(tile.threads() >= tile.step_blocks * tile.tokens(), "{tile:?}");
            let stride = 8 * (8 * tile.step_blocks + 2);
            let edge = 1024 * tile.threads() / 32;
            assert!((tile.rows() + tile.tokens()) * stride + edge <= 48 << 10, "{tile:?}");
        }
    }
}
