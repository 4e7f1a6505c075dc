//! What the kernels of products have in common: shaders, teams of threads, tiles, and rows a workgroup.

use std::fmt;

use crate::compute::kernel::fold;
use crate::compute::shaders::{self, Form};
use crate::weights::WeightFormat;

/// Rows from which the most are treated alike.
const MANY_ROWS: usize = 65_536;

/// Shape of a product as far as kernels are made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// `matvec`, `expert_gate_up`, `expert_down`, or for many tokens `matmul`, `expert_matmul_gate_up`,
    /// `expert_matmul_down`; by matrix units `matmul_cooperative`, `expert_matmul_cooperative_gate_up`,
    /// `expert_matmul_cooperative_down`.
    pub kernel: &'static str,
    /// Activations.
    pub form: Form,
    /// Weights.
    pub format: WeightFormat,
    /// Columns of the weights.
    pub cols: usize,
    /// Rows of the output, rounded to a power of two.
    rows: usize,
}

/// How many threads a product is spread over. It changes the speed and nothing else: the order of additions is that of
/// the lanes, which depend on the shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) struct Team {
    /// Threads of a workgroup.
    pub threads: usize,
    /// Sums that a thread keeps.
    pub sums: usize,
}

/// What a workgroup of a product of many tokens makes: some rows for some tokens. It changes the speed and nothing else: all
/// tiles of a matrix add up an output over the same parts of the columns, each from first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Threads that share out the rows: a multiple of 8.
    pub row_threads: usize,
    /// Threads that share out the tokens: `row_sums` at least, a power of two.
    pub token_threads: usize,
    /// Rows of a thread: 1, 2, 4 or 8.
    pub row_sums: usize,
    /// Parts of the columns, each with threads of its own.
    pub column_parts: usize,
}

impl Tile {
    /// A tile of all columns.
    pub const fn new(row_threads: usize, token_threads: usize, row_sums: usize) -> Self {
        Tile { row_threads, token_threads, row_sums, column_parts: 1 }
    }

    /// Those that `matmul` is made with: for few tokens, for few tokens or rows, and for many.
    pub const MATRIX: [Tile; 3] = [Self::new(16, 4, 1), Self::new(8, 8, 4), Self::new(8, 16, 8)];
    /// Those of matrices of few rows, such as a router's. One after the other their columns take 2 us a block on an H200,
    /// whatever the tokens.
    const FEW_ROWS: [Tile; 2] =
        [Tile { column_parts: 4, ..Self::new(16, 4, 1) }, Tile { column_parts: 4, ..Self::new(8, 8, 4) }];
    /// So many are few: that of a router of 256 experts is. More have enough workgroups, and tiles that use again what they
    /// bring.
    const FEW: usize = 320;
    /// Those for the pairs of an expert, few or many. They have 64 rows: 32 hidden values, which share a scale.
    pub(crate) const EXPERT: [Tile; 4] =
        [Self::new(32, 2, 2), Self::new(32, 4, 2), Self::new(16, 8, 4), Self::new(8, 16, 8)];
    /// Workgroups of the largest of [`MATRIX`](Self::MATRIX) that keep an H200 busy: with 8 of them, a router of 256 rows
    /// and 128 tokens, a product takes 121 us.
    const ENOUGH_GROUPS: usize = 256;

    /// Those of a matrix of so many rows: which add up in the same order.
    pub(crate) fn of_matrix(form: Form, rows: usize) -> &'static [Tile] {
        if form == Form::F32 && rows <= Self::FEW { &Self::FEW_ROWS } else { &Self::MATRIX }
    }

    /// Which of those [of a matrix](Self::of_matrix) is for so many rows of it and tokens.
    pub(crate) fn choose(of_matrix: &[Tile], rows: usize, tokens: usize) -> usize {
        let groups = |tile: &Tile| rows.div_ceil(tile.rows()) * tokens.div_ceil(tile.tokens());
        if tokens <= of_matrix[0].tokens() || groups(&of_matrix[1]) < Self::ENOUGH_GROUPS / 4 {
            return 0;
        }
        let large = of_matrix.get(2).is_some_and(|large| groups(large) >= Self::ENOUGH_GROUPS);
        1 + usize::from(large)
    }

    /// Which of [`EXPERT`](Self::EXPERT) is for so many pairs: the first that holds them, or the largest.
    pub(crate) fn for_pairs(pairs: usize) -> usize {
        Self::EXPERT.iter().position(|tile| tile.tokens() >= pairs).unwrap_or(Self::EXPERT.len() - 1)
    }

    /// Workgroups for `layers` times all rows of a matrix.
    pub(crate) fn grid(&self, rows: usize, layers: usize) -> [u32; 3] {
        let (x, y) = fold(rows.div_ceil(self.rows()));
        [x, y, layers as u32]
    }

    /// Rows that it makes.
    pub fn rows(&self) -> usize {
        self.row_threads * self.row_sums
    }

    /// Tokens that it makes them for.
    pub fn tokens(&self) -> usize {
        4 * self.token_threads
    }

    /// Threads of its workgroup.
    pub fn threads(&self) -> usize {
        self.row_threads * self.token_threads * self.column_parts
    }
}

impl ProductShape {
    /// Of `kernel` for `rows` of the output and `cols` of the weights.
    pub fn new(kernel: &'static str, form: Form, format: WeightFormat, rows: usize, cols: usize) -> Self {
        let rows = rows.next_power_of_two().clamp(1024, MANY_ROWS);
        ProductShape { kernel, form, format, cols, rows }
    }

    /// The shader.
    pub fn shader(&self) -> &'static str {
        shaders::variant(self.kernel, self.form, self.format.suffix())
    }

    /// Threads that share rows. Never tuned: they decide the order of additions, which must be the same on the next day.
    ///
    /// One thread for each block of 32 columns, or for as many as it takes at a time, within 8..=32; in `expert_down`, whose
    /// columns are few, one for four blocks (H200, int8, 1024 columns: 9.9 us a call with 8, 10.7 with 32; f32: 23.2 and
    /// 38.2). `matvec_norm` has few workgroups, of 32 rows each, so that more threads share one.
    pub(crate) fn lanes(&self) -> usize {
        let (blocks, most) = match self.kernel {
            "expert_down" | "expert_down_combine" => (4, 32),
            "matvec_norm" => (self.unit_blocks(), 64),
            _ => (self.unit_blocks(), 32),
        };
        (self.cols / 32 / blocks).next_power_of_two().clamp(8, most)
    }

    /// Blocks of 32 columns that a thread of a team takes at a time.
    fn unit_blocks(&self) -> usize {
        // eight rows of four blocks are much for a thread: gate and up of NVFP4 57 % of an H200's bandwidth and not 65
        let by_four = self.takes_four() && (self.cols / 32).is_multiple_of(4) && self.kernel != "expert_gate_up";
        if by_four { 4 } else { 1 }
    }

    /// Whether a thread can take four blocks of a row that is whole fours (`wgsl/shared/four_blocks.wgsl`).
    fn takes_four(&self) -> bool {
        self.form == Form::Int8 && matches!(self.format.suffix(), "mxfp4" | "nvfp4")
    }

    /// Of `matvec_norm`, whose workgroups make the 32 rows that share a scale, on a device of workgroups of at most so many
    /// threads: 512 at most, and 256 where tables of the format take as much of the 16 KiB of workgroup memory as quantising
    /// by the others would.
    pub(crate) fn team_within(&self, most: usize) -> Team {
        let own = if self.format.codebook().is_some() { 256 } else { 512 };
        let threads = most.min(own).min(32 * self.lanes());
        // a power of two, as lanes are
        let threads = if threads.is_power_of_two() { threads } else { threads.next_power_of_two() / 2 };
        Team { threads, sums: 32 * self.lanes() / threads }
    }

    /// What is best, or close to it, on an H200 over the shapes of published models: `benches/results/README.md`.
    pub(crate) fn team(&self) -> Team {
        if self.kernel == "matvec_norm" {
            return self.team_within(usize::MAX);
        }
        let (threads, sums) = match (self.kernel, self.form) {
            // a workgroup of gate and up makes the 32 hidden values that share a scale
            ("expert_gate_up", _) => (256, 64 * self.lanes() / 256),
            ("matvec", Form::F32) if self.rows >= MANY_ROWS => (64, 8),
            ("matvec", Form::F32) => (64, 4),
            _ => (32, 4),
        };
        Team { threads, sums }
    }

    /// Teams to choose from on a device, the built-in one first.
    pub(crate) fn candidates(&self) -> Vec<Team> {
        let lanes = self.lanes();
        let mut all = vec![self.team()];
        let mut add = |threads, sums| {
            let team = Team { threads, sums };
            if threads >= lanes && !all.contains(&team) {
                all.push(team);
            }
        };
        match self.kernel {
            // 2, 4 or 8 sums make 32 hidden values; a workgroup that packs them has 256 threads at most
            "expert_gate_up" => [64, 128, 256].into_iter().for_each(|threads| {
                let sums = 64 * lanes / threads;
                if (2..=8).contains(&sums) {
                    add(threads, sums);
                }
            }),
            // one of these was best, or within 10 % of it, at every shape of the lab
            _ => [(32, 4), (32, 8), (64, 4), (64, 8), (128, 2)].into_iter().for_each(|(t, s)| add(t, s)),
        }
        all
    }

    /// Rows of the output that a workgroup makes.
    fn rows_per_group(&self, team: Team) -> usize {
        let teams = team.threads / self.lanes();
        match self.kernel {
            "expert_gate_up" => 32,
            _ => team.sums * teams,
        }
    }

    /// Workgroups (x, y) for `rows` of the output.
    pub(crate) fn row_groups(&self, team: Team, rows: usize) -> (u32, u32) {
        fold(rows.div_ceil(self.rows_per_group(team)))
    }

    /// WGSL constants of the shader of one token's product.
    pub(crate) fn constants(&self, team: Team) -> Vec<(&'static str, f64)> {
        let team = [("lanes", self.lanes()), ("threads", team.threads), ("sums", team.sums)];
        let mut constants = self.with_scales(team);
        constants.extend(self.takes_four().then_some(("unit_blocks", self.unit_blocks() as f64)));
        constants
    }

    /// WGSL constants of the shader of many tokens' product.
    pub fn tile_constants(&self, tile: Tile) -> Vec<(&'static str, f64)> {
        let Tile { row_threads, token_threads, row_sums, column_parts } = tile;
        let threads = [("row_threads", row_threads), ("token_threads", token_threads), ("row_sums", row_sums)];
        let mut constants = self.with_scales(threads);
        constants.extend((column_parts > 1).then_some(("column_parts", column_parts as f64)));
        constants
    }

    pub(super) fn with_scales(&self, constants: [(&'static str, usize); 3]) -> Vec<(&'static str, f64)> {
        let mut constants: Vec<_> = constants.map(|(name, value)| (name, value as f64)).into();
        constants.extend(self.format.constants());
        constants
    }
}

/// All that tells products apart, as a key of files.
impl fmt::Display for ProductShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.shader(), self.rows, self.cols)?;
        match self.format {
            WeightFormat::Affine(affine) => write!(f, " group {} {:?}", affine.group, affine.scales),
            WeightFormat::Scaled(scaled) => write!(f, " {scaled:?}"),
            WeightFormat::Dense(_) | WeightFormat::Block(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_change_threads_alone() {
        for kernel in ["matvec", "expert_gate_up", "expert_down"] {
            for (form, format) in [(Form::F32, WeightFormat::Bf16), (Form::Int8, WeightFormat::affine(4, 64))] {
                for (rows, cols) in [(1, 64), (512, 256), (4096, 512), (12288, 2048), (248_320, 4096)] {
                    let shape = ProductShape::new(kernel, form, format, rows, cols);
                    let all = shape.candidates();
                    assert_eq!(all[0], shape.team());
                    for (i, team) in all.iter().enumerate() {
                        assert!(!all[..i].contains(team), "{shape}: {team:?} twice");
                        assert!(team.threads <= 256 && team.threads.is_multiple_of(shape.lanes()));
                        assert!([1, 2, 4, 8].contains(&team.sums));
                        let constants = shape.constants(*team);
                        assert!(constants.contains(&("lanes", shape.lanes() as f64)));
                        if kernel == "expert_gate_up" {
                            assert_eq!(team.sums * team.threads / shape.lanes(), 64, "32 of gate and 32 of up");
                        }
                    }
                    assert_eq!(all.len() > 1, kernel != "expert_gate_up" || cols < 1024);
                }
            }
        }
    }
    /// What `wgsl/shared/tile.wgsl` asks of them, and memory of a workgroup that every device has.
    #[test]
    fn tiles_are_within_limits() {
        assert!(Tile::EXPERT.iter().all(|tile| tile.rows() == 64 && tile.row_sums > 1));
        for tile in Tile::MATRIX.into_iter().chain(Tile::FEW_ROWS).chain(Tile::EXPERT) {
            let threads = tile.threads() / tile.column_parts;
            assert!(tile.row_threads.is_multiple_of(8) && tile.token_threads.is_power_of_two());
            assert!([1, 2, 4, 8].contains(&tile.row_sums));
            // two blocks of a row or token a step, of which a thread brings two of rows at most
            assert!(tile.rows() == threads || 2 * tile.rows() <= threads);
            assert!(2 * tile.tokens() <= threads);
            assert!(tile.rows() + tile.tokens() <= 2 * threads);
            if tile.column_parts > 1 {
                // 16 columns of f32; sums of threads go where the rows were
                assert!((tile.rows() + tile.tokens()) * 64 * tile.column_parts <= 16 << 10 && tile.threads() <= 256);
                assert!(4 * tile.rows() >= threads);
                continue;
            }
            // two blocks of 32 codes with two scales each; 16 columns of f32 are less
            let bytes = 2 * (32 + 16);
            // the hidden values of a quarter of the pairs, and what quantises them
            let hidden = 33 * 4 * tile.token_threads + 8 * tile.threads();
            assert!(tile.threads() <= 256 && (tile.rows() + tile.tokens()) * bytes + hidden <= 16 << 10);
        }
    }
}
