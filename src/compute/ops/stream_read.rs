use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};

/// Words that one workgroup reads.
const RUN: usize = 8192;

/// Reads memory and nothing else: how fast a device can, for profiles. The exclusive or of every 8,192 words.
#[derive(Clone)]
pub(crate) struct StreamRead {
    /// `[tokens, width]`, a whole tensor
    pub x: View,
    /// `[tokens, width / 8192]`, rounded up, a whole tensor of words
    pub out: View,
}

impl StreamRead {
    /// Columns of `out` for `width` columns of `x`.
    pub(crate) fn columns(width: usize) -> usize {
        width.div_ceil(RUN)
    }
}

impl StreamRead {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        vec![(Use::Read, &mut self.x), (Use::Write, &mut self.out)]
    }
}

impl Kernel for StreamRead {
    fn name(&self) -> &'static str {
        "stream_read"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        expect(self.name(), "columns of x beyond whole vectors of 4", 0, self.x.width % 4)?;
        expect(self.name(), "columns of out", Self::columns(self.x.width), self.out.width)?;
        expect(self.name(), "offset of x and out", 0, self.x.offset + self.out.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        for (t, out) in out.chunks_mut(self.out.stride).take(step.tokens).enumerate() {
            let runs = row(x, self.x, t).chunks(RUN);
            for (out, run) in row_mut(out, self.out).iter_mut().zip(runs) {
                *out = f32::from_bits(run.iter().fold(0, |all, v| all ^ v.to_bits()));
            }
        }
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "stream_read",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.x.tensor)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (width, stride) = ((self.x.width / 4) as u32, (self.x.stride / 4) as u32);
        let immediates = params! { width, x_stride: stride, out_stride: self.out.stride as u32 };
        let grid = [self.out.width as u32, step.tokens as u32, 1];
        let bytes = (step.tokens * self.x.width * 4) as u64;
        out.push(Dispatch { weight_bytes: bytes, ..Dispatch::new(0, 0, immediates, grid) });
    }
}
