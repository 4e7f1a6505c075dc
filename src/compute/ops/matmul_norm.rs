use super::unscaled::COLUMNS;
use super::{Matmul, ProductShape, Quantised, RmsNorm, Team, Unscaled};
use crate::compute::cpu::CpuMemory;
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, fold, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};
use crate::compute::{Phase, Step};

/// A [`Matmul`] onto the residual stream and the norm of what that then is. For a token of decode both are one kernel, which
/// takes the first half of the norm: see [`Unscaled`].
#[derive(Clone)]
pub(crate) struct MatmulNorm {
    /// It adds to its output, for all tokens.
    pub product: Matmul,
    /// Of the product's output.
    pub norm: RmsNorm,
    /// What is left for the second half.
    pub unscaled: Unscaled,
}

impl MatmulNorm {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = self.product.operands();
        all.extend(self.norm.operands());
        all.push(self.unscaled.operand(Use::Write));
        all
    }

    fn shape(&self, resident: &dyn ResidentLayout) -> (ProductShape, Team) {
        let (cols, format) = resident.matrix(self.product.matrix);
        let shape = ProductShape::new("matvec_norm", self.product.x.form(), format, self.product.out.width, cols);
        let team = shape.team_within(resident.threads());
        (shape, team)
    }
}

impl Kernel for MatmulNorm {
    fn name(&self) -> &'static str {
        "matmul_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        self.product.check(recording)?;
        self.norm.check(recording)?;
        let name = self.name();
        expect(name, "first column of what is normed", self.product.out.offset, self.norm.x.offset)?;
        expect(name, "tensor that is normed", self.product.out.tensor.0, self.norm.x.tensor.0)?;
        expect(name, "columns that are normed", self.product.out.width, self.norm.x.width)?;
        expect(name, "product that adds to its output", 1, usize::from(self.product.accumulate))?;
        self.unscaled.check(name, recording, self.norm.x.width)
    }

    fn outputs(&self) -> Vec<View> {
        [self.product.outputs(), self.norm.outputs()].concat()
    }

    fn weight_bytes(&self, recording: &Recording, step: &Step) -> u64 {
        self.product.weight_bytes(recording, step)
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        self.product.run_on_cpu(memory, step);
        match step.phase {
            Phase::Decode => self.unscaled.write_on_cpu(memory, &self.norm),
            Phase::Prefill => self.norm.run_on_cpu(memory, step),
        }
    }

    /// Stage 0 is `matvec_norm`; then come the products of many tokens, and `rms_norm`.
    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let (shape, team) = self.shape(resident);
        let mut stages = self.product.stages(resident);
        let of_part = |part| {
            let mut group = vec![
                Binding::read(Resource::Tensor(self.product.x.view().tensor)),
                Binding::read(Resource::Matrix(self.product.matrix, part)),
                Binding::write(Resource::Columns(self.product.out)),
            ];
            group.extend(self.unscaled.written(&self.norm));
            group.extend(Binding::codebook(shape.format));
            group
        };
        let mut constants = shape.constants(team);
        constants.extend(Quantised::constants(self.norm.packed, team.threads));
        let groups = (0..resident.matrix_parts(self.product.matrix).len()).map(of_part).collect();
        stages[0] = Stage { shader: shape.shader(), constants, groups };
        stages.extend(self.norm.stages(resident));
        stages
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        if step.phase == Phase::Prefill {
            self.product.dispatch(resident, step, out);
            let first = out.len();
            self.norm.dispatch(resident, step, out);
            let stage = self.product.stages_of_many(resident) + 1;
            out[first..].iter_mut().for_each(|dispatch| dispatch.stage += stage);
            return;
        }
        let (shape, _) = self.shape(resident);
        for (group, part) in resident.matrix_parts(self.product.matrix).iter().enumerate() {
            let (x, y) = fold(part.rows.div_ceil(COLUMNS));
            let immediates = params! {
                rows: part.rows as u32,
                blocks: (shape.cols / 32) as u32,
                grid_x: x,
                x_offset: (self.product.x.view().offset / 4) as u32,
                out_offset: (self.product.out.offset + part.first) as u32,
                first_column: part.first as u32,
                columns: self.norm.x.width as u32,
                normed_offset: self.norm.out.offset as u32,
                stream_0: part.streams[0],
                stream_1: part.streams[1],
                stream_2: part.streams[2],
            };
            let weight_bytes = shape.format.matrix_bytes(part.rows, shape.cols) as u64;
            out.push(Dispatch { weight_bytes, ..Dispatch::new(0, group, immediates, [x, y, 1]) });
        }
    }
}
