//! Tiles of the product that matrix units make: they belong to a device, not to every one as [`super::Tile`] does.

use super::ProductShape;
use crate::compute::kernel::fold;
use crate::compute::shaders::Form;

/// What a workgroup of a product by matrix units makes. It changes the speed and nothing else: an output is added up `unit`
/// columns at a time, in one order for all tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeTile {
    /// Rows, tokens and columns that a unit takes: 16 with activations in 8 bits, 8 with those in f32.
    pub unit: usize,
    /// Subgroups, of 32 threads, that share out the rows.
    pub row_subgroups: usize,
    /// Subgroups that share out the tokens.
    pub token_subgroups: usize,
    /// Times `unit` tokens of a subgroup: 1, 2 or 4.
    pub token_tiles: usize,
    /// That a workgroup makes one after the other, of the pairs of an expert.
    pub parts: usize,
}

impl CooperativeTile {
    const fn new(unit: usize, row_subgroups: usize, token_subgroups: usize, token_tiles: usize) -> Self {
        CooperativeTile { unit, row_subgroups, token_subgroups, token_tiles, parts: 1 }
    }

    /// Those that `matmul_cooperative` is made with: for very few tokens, for few of them or of rows, and for many.
    const MATRIX_BY_16: [CooperativeTile; 3] = [Self::new(16, 2, 1, 1), Self::new(16, 2, 1, 4), Self::new(16, 4, 2, 4)];
    /// Likewise, of Apple's units. The largest is what llama.cpp's kernel makes there, 64 rows for 32 tokens by 128 threads; in
    /// its 15 KB of the 32 KB of workgroup memory a second workgroup has room beside it.
    const MATRIX_BY_8: [CooperativeTile; 3] = [Self::new(8, 4, 1, 1), Self::new(8, 4, 1, 2), Self::new(8, 4, 1, 4)];
    /// Workgroups of the largest tile that keep an H200 as busy as more of smaller ones. A smaller tile needs more of them:
    /// 2048 x 2048 and 128 tokens take 39 us with 64 x 16, 46 to 62 with 64 x 64, 58 to 73 with 128 x 128.
    const ENOUGH_GROUPS: usize = 64;
    /// Those for the pairs of an expert, few or many: of as many as those of [`Tile::EXPERT`](super::Tile::EXPERT), or
    /// more, as a unit has 16.
    const EXPERT_BY_16: [CooperativeTile; 4] =
        [Self::new(16, 4, 1, 1), Self::new(16, 4, 1, 1), Self::new(16, 4, 1, 2), Self::new(16, 4, 1, 4)];
    /// 64 pairs are made 32 at a time, as if for two: weights are unpacked twice, as llama.cpp's kernel does for every 32. Sums
    /// of 64 in a subgroup would take 32 registers of each thread instead of 16.
    const EXPERT_BY_8: [CooperativeTile; 4] = [
        Self::new(8, 4, 1, 1),
        Self::new(8, 4, 1, 2),
        Self::new(8, 4, 1, 4),
        CooperativeTile { parts: 2, ..Self::new(8, 4, 1, 4) },
    ];

    /// Those of `matmul_cooperative`.
    pub(crate) const fn matrix(form: Form) -> [CooperativeTile; 3] {
        match form {
            Form::Int8 => Self::MATRIX_BY_16,
            Form::F32 => Self::MATRIX_BY_8,
        }
    }

    /// Those for the pairs of an expert.
    pub(crate) const fn expert(form: Form) -> [CooperativeTile; 4] {
        match form {
            Form::Int8 => Self::EXPERT_BY_16,
            Form::F32 => Self::EXPERT_BY_8,
        }
    }

    /// Which of [`matrix`](Self::matrix) is for so many rows and tokens.
    pub(crate) fn choose(form: Form, rows: usize, tokens: usize) -> usize {
        let all = Self::matrix(form);
        if form == Form::F32 {
            return all.iter().position(|tile| tile.tokens() >= tokens).unwrap_or(all.len() - 1);
        }
        let groups = |tile: CooperativeTile| rows.div_ceil(tile.rows()) * tokens.div_ceil(tile.tokens());
        let [_, middle, large] = all.map(groups);
        match tokens <= all[0].tokens() {
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

    /// Rows that it makes: two units a subgroup.
    pub fn rows(&self) -> usize {
        2 * self.unit * self.row_subgroups
    }

    /// Tokens that it makes them for.
    pub fn tokens(&self) -> usize {
        self.unit * self.token_tiles * self.token_subgroups * self.parts
    }

    /// Threads of its workgroup.
    pub(crate) fn threads(&self) -> usize {
        32 * self.row_subgroups * self.token_subgroups
    }
}

impl ProductShape {
    /// WGSL constants of the shader that matrix units run.
    pub fn cooperative_constants(&self, tile: CooperativeTile) -> Vec<(&'static str, f64)> {
        let CooperativeTile { row_subgroups, token_subgroups, token_tiles, parts, .. } = tile;
        let mut constants = self.with_scales([
            ("row_subgroups", row_subgroups),
            ("token_subgroups", token_subgroups),
            ("token_tiles", token_tiles),
        ]);
        // of experts alone
        constants.extend((parts > 1).then_some(("tile_parts", parts as f64)));
        constants
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::ops::Tile;

    /// What `wgsl/shared/tile_cooperative.wgsl` asks of them, and the 48 KiB that devices with units of 16 have, the 32 of those
    /// with units of 8.
    #[test]
    fn threads_bring_what_a_tile_needs() {
        for (form, memory) in [(Form::Int8, 48 << 10), (Form::F32, 32 << 10)] {
            for tile in CooperativeTile::matrix(form) {
                let edge = 4 * tile.unit * tile.unit * tile.threads() / 32;
                assert!(halves(tile) + edge <= memory, "{tile:?}");
                assert_eq!(tile.parts, 1);
            }
            for (tile, plain) in CooperativeTile::expert(form).into_iter().zip(Tile::EXPERT) {
                let sums = 4 * (tile.tokens() / tile.parts).min(2 * tile.unit) * (tile.rows() + 8);
                let quantised = 8 * tile.threads();
                assert!(halves(tile) + sums + quantised <= memory, "{tile:?}");
                let tokens = plain.tokens().max(tile.unit);
                assert_eq!(tile.tokens(), tokens, "tiles are cut before it is known who makes them");
                assert_eq!((tile.token_subgroups, tile.rows() % 64), (1, 0), "32 of gate and 32 of up");
            }
        }
    }

    fn halves(tile: CooperativeTile) -> usize {
        let tokens = tile.tokens() / tile.parts;
        assert!(tile.threads() >= tile.rows() && tile.threads() >= tokens, "two blocks a thread: {tile:?}");
        let zeros = if tile.unit == 8 { 256 } else { 0 };
        (tile.rows() + tokens) * 8 * 18 + zeros
    }

    #[test]
    fn tiles_follow_the_work() {
        let chosen = |rows, tokens| CooperativeTile::choose(Form::Int8, rows, tokens);
        assert_eq!([chosen(4096, 9), chosen(2048, 128), chosen(12_288, 128), chosen(4096, 512)], [0, 0, 2, 2]);
        assert_eq!([chosen(1024, 512), chosen(256, 2048), chosen(512, 128)], [1, 1, 0]);
        let chosen = [1, 8, 9, 16, 17, 500].map(|tokens| CooperativeTile::choose(Form::F32, 4096, tokens));
        assert_eq!(chosen, [0, 0, 1, 1, 2, 2]);
    }
}
