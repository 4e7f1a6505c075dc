use rayon::prelude::*;

use super::silu;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, View, expect};

/// `out = silu(gate) * up`, with gate and up side by side.
pub struct SwiGlu {
    /// `[tokens, 2 * width]`
    pub gate_up: View,
    /// `[tokens, width]`, a whole tensor
    pub out: View,
}

impl Kernel for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        expect(self.name(), "columns of gate_up", 2 * self.out.width, self.gate_up.width)?;
        expect(self.name(), "offset of out", 0, self.out.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.gate_up.tensor);
        out.par_chunks_mut(self.out.stride).take(step.tokens).enumerate().for_each(|(t, out)| {
            let (gate, up) = row(x, self.gate_up, t).split_at(self.out.width);
            for ((out, gate), up) in row_mut(out, self.out).iter_mut().zip(gate).zip(up) {
                *out = silu(*gate) * up;
            }
        });
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "swiglu",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.gate_up.tensor)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let immediates = Immediates::new(&[
            self.out.width as u32,
            self.gate_up.offset as u32,
            self.gate_up.stride as u32,
            self.out.stride as u32,
        ]);
        let grid = [self.out.width.div_ceil(64) as u32, step.tokens as u32, 1];
        out.push(Dispatch::new(0, 0, immediates, grid));
    }
}
