use flashflood_vectors::Instructions;
use rayon::prelude::*;

use super::{Input, Quantised};
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, at_least, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};

/// Elements, in 8 bits words, that a workgroup makes: one a thread.
const THREADS: usize = 64;

/// `out = silu(gate) * up`, row by row.
#[derive(Clone)]
pub(crate) struct Swiglu {
    /// Gate and up side by side, `[tokens, 2 * width]`
    pub gate_up: View,
    /// `[tokens, width]`, a whole tensor
    pub out: Input,
}

/// Whether gate and up fit what is made of them.
pub(super) fn check_swiglu(op: &'static str, gate_up: View, out: Input) -> Result<(), ShapeError> {
    expect(op, "columns of gate_up", 2 * out.cols(), gate_up.width)?;
    expect(op, "rows of gate_up per token", 1, gate_up.rows_per_token)?;
    expect(op, "rows of hidden per token", 1, out.view().rows_per_token)?;
    expect(op, "offset of hidden", 0, out.view().offset)?;
    match out.packed() {
        Some(_) => expect(op, "columns of hidden beyond groups of 32", 0, out.cols() % 32),
        None => Ok(()),
    }
}

/// The CPU twin of [`Swiglu`] and of what [`RouterTopK`](super::RouterTopK) does beside its choice.
pub(super) fn swiglu_on_cpu(memory: &mut CpuMemory, step: &Step, gate_up: View, hidden: Input) {
    let view = hidden.view();
    let mut out = memory.take(view.tensor);
    let x = memory.tensor(gate_up.tensor);
    let rows = out.par_chunks_mut(view.stride).take(step.tokens).enumerate();
    rows.with_min_len(at_least(hidden.cols())).for_each(|(t, out)| {
        let (gate, up) = row(x, gate_up, t).split_at(hidden.cols());
        match hidden {
            Input::F32(_) => Instructions::best().swiglu(gate, up, row_mut(out, view)),
            Input::Int8(packed) => {
                let mut gated = vec![0.0; packed.cols];
                Instructions::best().swiglu(gate, up, &mut gated);
                packed.pack_on_cpu(out, 0, &gated);
            }
        }
    });
    memory.put_back(view.tensor, out);
}

impl Swiglu {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        vec![(Use::Read, &mut self.gate_up), (Use::Write, self.out.view_mut())]
    }
}

impl Kernel for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        check_swiglu(self.name(), self.gate_up, self.out)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out.view()]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        swiglu_on_cpu(memory, step, self.gate_up, self.out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "swiglu",
            constants: Quantised::constants(self.out.packed(), THREADS),
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.gate_up.tensor)),
                Binding::write(Resource::Tensor(self.out.view().tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let width = self.out.cols();
        let immediates = params! {
            width: width as u32,
            gate_up_offset: self.gate_up.offset as u32,
            gate_up_stride: self.gate_up.stride as u32,
            hidden_stride: self.out.view().stride as u32,
        };
        let each = if self.out.packed().is_some() { 4 } else { 1 };
        let groups = width.div_ceil(each * THREADS);
        out.push(Dispatch::new(0, 0, immediates, [groups as u32, step.tokens as u32, 1]));
    }
}
