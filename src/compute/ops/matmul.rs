use super::{CooperativeTile, Input, ProductShape, Tile, Unscaled};
use crate::compute::cpu::{CpuMemory, by_token, matrix_product};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{MatrixId, Recording, Rows, ShapeError, View, expect, shape_error};
use crate::compute::{Phase, Step};

/// Product of a weight matrix with activations. The kernel of one token is `matvec`, that of many `matmul`.
///
/// On devices whose matrix units are known every product of a prompt with activations in their form is theirs
/// (`matmul_cooperative`), but exact ones, however few its tokens: otherwise the bits of a token would depend on how a prompt
/// is cut.
#[derive(Clone)]
pub(crate) struct Matmul {
    /// `[tokens, cols]`
    pub x: Input,
    /// `[rows, cols]`
    pub matrix: MatrixId,
    /// `[tokens, rows]`
    pub out: View,
    /// Adds to what `out` holds.
    pub accumulate: bool,
    /// `x` is never rounded, neither to 8 bits nor for matrix units, whatever is asked for.
    pub exact: bool,
    /// For which tokens.
    pub rows: RowsOf,
    /// In decode `x` is yet to be scaled.
    pub unscaled: Option<Unscaled>,
}

/// The tokens that a product is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOf {
    /// All of the step.
    Tokens,
    /// Those that get logits; the first of them is row 0 of the output.
    Logits,
}

impl RowsOf {
    fn of(self, step: &Step) -> (usize, usize) {
        match self {
            RowsOf::Tokens => (0, step.tokens),
            RowsOf::Logits => step.logit_rows(),
        }
    }
}

impl Matmul {
    fn shape(&self, kernel: &'static str, resident: &dyn ResidentLayout) -> ProductShape {
        let (cols, format) = resident.matrix(self.matrix);
        ProductShape::new(kernel, self.x.form(), format, self.out.width, cols)
    }
}

impl Matmul {
    /// Whether matrix units make it in prompts.
    fn is_cooperative(&self, resident: &dyn ResidentLayout) -> bool {
        resident.cooperative() == Some(self.x.form()) && !self.exact
    }

    /// The tiles of many tokens, without matrix units.
    fn tiles(&self) -> &'static [Tile] {
        Tile::of_matrix(self.x.form(), self.out.width)
    }

    /// Its stages of many tokens: those behind the first.
    pub(super) fn stages_of_many(&self, resident: &dyn ResidentLayout) -> usize {
        match self.is_cooperative(resident) {
            true => CooperativeTile::matrix(self.x.form()).len(),
            false => self.tiles().len(),
        }
    }

    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let written = if self.accumulate { Use::Update } else { Use::Write };
        let mut all = vec![(Use::Read, self.x.view_mut()), (written, &mut self.out)];
        all.extend(self.unscaled.iter_mut().map(|unscaled| unscaled.operand(Use::Read)));
        all
    }
}

impl Kernel for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let m = &recording.matrices[self.matrix.0];
        let what = |what: &str| format!("{what} of {}", m.name);
        expect(self.name(), &what("columns"), self.x.cols(), m.cols)?;
        expect(self.name(), &what("rows"), self.out.width, m.rows)?;
        self.x.check(self.name(), m.format.interleave())?;
        let multiple = m.format.column_multiple();
        if !m.cols.is_multiple_of(multiple) {
            return Err(shape_error(self.name(), &what("columns"), format!("a multiple of {multiple}"), m.cols));
        }
        self.unscaled.map_or(Ok(()), |unscaled| unscaled.check(self.name(), recording, m.cols))?;
        match recording.spec(self.out.tensor).rows {
            Rows::PerToken(_) | Rows::PerLogits => Ok(()),
            Rows::Fixed(n) => Err(shape_error(self.name(), "rows of out", "one per token", n)),
        }
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn weight_bytes(&self, recording: &Recording, step: &Step) -> u64 {
        if self.rows.of(step).1 == 0 {
            return 0;
        }
        let matrix = &recording.matrices[self.matrix.0];
        matrix.format.matrix_bytes(matrix.rows, matrix.cols) as u64
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let (first, tokens) = self.rows.of(step);
        if tokens == 0 {
            return;
        }
        let mut out = memory.take(self.out.tensor);
        let matrix = memory.matrix(self.matrix);
        let products = self.x.on_cpu(memory, first..first + tokens, |x| matrix_product(matrix, x));
        let View { stride, offset, .. } = self.out;
        let scale = Unscaled::scale_on_cpu(self.unscaled, memory, step);
        match self.accumulate {
            true => by_token(&products, tokens, &mut out, stride, |out, v| *out += v * scale, offset),
            false => by_token(&products, tokens, &mut out, stride, |out, v| *out = v * scale, offset),
        }
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let codebook = Binding::codebook(resident.matrix(self.matrix).1);
        let groups: Vec<Vec<Binding>> = (0..resident.matrix_parts(self.matrix).len())
            .map(|part| {
                let x = Binding::read(Resource::Tensor(self.x.view().tensor));
                let weights = Binding::read(Resource::Matrix(self.matrix, part));
                let out = Binding::write(Resource::Columns(self.out));
                [x, weights, out].into_iter().chain(codebook).collect()
            })
            .collect();
        let one = self.shape("matvec", resident);
        let mut constants = one.constants(resident.team(&one));
        constants.extend(Unscaled::constants(self.unscaled));
        let squares = Unscaled::binding(self.unscaled, Resource::Tensor(self.x.view().tensor));
        let of_one = groups.iter().map(|group| [&group[..3], &[squares], &group[3..]].concat()).collect();
        let mut stages = vec![Stage { shader: one.shader(), constants, groups: of_one }];
        if self.is_cooperative(resident) {
            let many = self.shape("matmul_cooperative", resident);
            stages.extend(CooperativeTile::matrix(many.form).map(|tile| {
                let constants = many.cooperative_constants(tile);
                Stage { shader: many.shader(), constants, groups: groups.clone() }
            }));
            return stages;
        }
        let many = self.shape("matmul", resident);
        stages.extend(self.tiles().iter().map(|&tile| {
            let constants = many.tile_constants(tile);
            Stage { shader: many.shader(), constants, groups: groups.clone() }
        }));
        stages
    }

    fn products(&self, resident: &dyn ResidentLayout) -> Vec<ProductShape> {
        vec![self.shape("matvec", resident)]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (first, tokens) = self.rows.of(step);
        if tokens == 0 {
            return;
        }
        let shape = self.shape("matvec", resident);
        let (team, x_view) = (resident.team(&shape), self.x.view());
        let cooperative = self.is_cooperative(resident);
        for (group, part) in resident.matrix_parts(self.matrix).iter().enumerate() {
            let (stage, grid) = match step.phase {
                Phase::Decode => {
                    let (x, y) = shape.row_groups(team, part.rows);
                    (0, [x, y, 1])
                }
                Phase::Prefill if cooperative => {
                    let tile = CooperativeTile::choose(shape.form, part.rows, tokens);
                    (1 + tile, CooperativeTile::matrix(shape.form)[tile].grid(part.rows, tokens))
                }
                Phase::Prefill => {
                    let tiles = self.tiles();
                    let tile = Tile::choose(tiles, part.rows, tokens);
                    (1 + tile, tiles[tile].grid(part.rows, tokens.div_ceil(tiles[tile].tokens())))
                }
            };
            let immediates = params! {
                rows: part.rows as u32,
                blocks: (shape.cols / 32) as u32,
                grid_x: grid[0],
                x_offset: (x_view.offset / 4) as u32,
                x_stride: (x_view.stride / 4) as u32,
                out_offset: (self.out.offset + part.first) as u32,
                out_stride: self.out.stride as u32,
                accumulate: u32::from(self.accumulate),
                first_token: first as u32,
                tokens: tokens as u32,
                stream_0: part.streams[0],
                stream_1: part.streams[1],
                stream_2: part.streams[2],
            };
            let weight_bytes = shape.format.matrix_bytes(part.rows, shape.cols) as u64;
            out.push(Dispatch { weight_bytes, ..Dispatch::new(stage, group, immediates, grid) });
        }
    }
}
