use rayon::prelude::*;

use super::sigmoid;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, View, expect};

/// Adds the weighted routed experts and the gated shared expert to the residual stream.
pub struct Combine {
    /// `[tokens, width]`: the residual stream, a whole tensor
    pub x: View,
    /// `[tokens * top_k, width]`, a whole tensor with `top_k` rows per token
    pub routed: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// The shared expert's output `[tokens, width]` (a whole tensor) and its gate `[tokens, 1]` before the sigmoid.
    pub shared: Option<(View, View)>,
}

impl Kernel for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "columns of routed", self.x.width, self.routed.width)?;
        expect(name, "rows of routed per token", self.weights.width, self.routed.rows_per_token)?;
        if let Some((out, gate)) = self.shared {
            expect(name, "columns of shared", self.x.width, out.width)?;
            expect(name, "columns of the shared gate", 1, gate.width)?;
        }
        expect(name, "offset of x, routed and weights", 0, self.x.offset + self.routed.offset + self.weights.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.x]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut x = memory.take(self.x.tensor);
        let routed = memory.tensor(self.routed.tensor);
        let weights = memory.tensor(self.weights.tensor);
        let top_k = self.weights.width;
        x.par_chunks_mut(self.x.stride).take(step.tokens).enumerate().for_each(|(t, x)| {
            let mut sum = vec![0.0; self.x.width];
            for (k, w) in row(weights, self.weights, t).iter().enumerate() {
                let expert = &routed[(t * top_k + k) * self.routed.stride..][..self.x.width];
                sum.iter_mut().zip(expert).for_each(|(sum, v)| *sum += w * v);
            }
            if let Some((out, gate)) = self.shared {
                let g = sigmoid(row(memory.tensor(gate.tensor), gate, t)[0]);
                let shared = row(memory.tensor(out.tensor), out, t);
                sum.iter_mut().zip(shared).for_each(|(sum, v)| *sum += g * v);
            }
            row_mut(x, self.x).iter_mut().zip(&sum).for_each(|(x, v)| *x += v);
        });
        memory.put_back(self.x.tensor, x);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        // without a shared expert the kernel does not read these two
        let (shared, gate) = self.shared.map_or((self.routed, self.routed), |s| s);
        vec![Stage {
            shader: "combine",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.routed.tensor)),
                Binding::read(Resource::Tensor(self.weights.tensor)),
                Binding::read(Resource::Tensor(shared.tensor)),
                Binding::read(Resource::Tensor(gate.tensor)),
                Binding::write(Resource::Tensor(self.x.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (shared_stride, gate_offset, gate_stride) =
            self.shared.map_or((0, 0, 0), |(out, gate)| (out.stride, gate.offset, gate.stride));
        let immediates = Immediates::new(&[
            self.x.width as u32,
            self.weights.width as u32,
            self.x.stride as u32,
            self.routed.stride as u32,
            self.weights.stride as u32,
            shared_stride as u32,
            gate_offset as u32,
            gate_stride as u32,
        ]);
        let grid = [self.x.width.div_ceil(64) as u32, step.tokens as u32, 1];
        out.push(Dispatch::new(0, 0, immediates, grid));
    }
}
