use rayon::prelude::*;

use super::rms_norm::{norm_row, row_threads};
use super::sigmoid;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};

/// Adds the weighted routed experts and the gated shared expert to the residual stream, and norms it for what comes next.
pub struct CombineNorm {
    /// `[tokens, width]`: the residual stream, a whole tensor
    pub x: View,
    /// `[tokens * top_k, width]`, a whole tensor with `top_k` rows per token
    pub routed: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// The shared expert's output `[tokens, width]` (a whole tensor) and its gate `[tokens, 1]` before the sigmoid.
    pub shared: Option<(View, View)>,
    /// `[width]`: weight of the norm
    pub norm: VectorId,
    /// `[tokens, width]`: the norm of what `x` then is, a whole tensor
    pub out: View,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl Kernel for CombineNorm {
    fn name(&self) -> &'static str {
        "combine_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "columns of x beyond whole vectors of 4", 0, self.x.width % 4)?;
        expect(name, "columns of routed", self.x.width, self.routed.width)?;
        expect(name, "rows of routed per token", self.weights.width, self.routed.rows_per_token)?;
        expect(name, "norm", self.x.width, recording.vectors[self.norm.0].1.len())?;
        expect(name, "columns of out", self.x.width, self.out.width)?;
        let mut offsets = self.x.offset + self.routed.offset + self.weights.offset + self.out.offset;
        if let Some((out, gate)) = self.shared {
            expect(name, "columns of shared", self.x.width, out.width)?;
            expect(name, "columns of the shared gate", 1, gate.width)?;
            offsets += out.offset;
        }
        expect(name, "offset of x, routed, weights, shared and out", 0, offsets)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.x, self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut x = memory.take(self.x.tensor);
        let mut out = memory.take(self.out.tensor);
        let routed = memory.tensor(self.routed.tensor);
        let (weights, norm) = (memory.tensor(self.weights.tensor), memory.vector(self.norm));
        let top_k = self.weights.width;
        let rows = x.par_chunks_mut(self.x.stride).zip(out.par_chunks_mut(self.out.stride));
        rows.take(step.tokens).enumerate().for_each(|(t, (x, out))| {
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
            let x = row_mut(x, self.x);
            x.iter_mut().zip(&sum).for_each(|(x, v)| *x += v);
            norm_row(x, norm, self.eps, row_mut(out, self.out));
        });
        memory.put_back(self.out.tensor, out);
        memory.put_back(self.x.tensor, x);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        // without a shared expert the kernel does not read these two
        let (shared, gate) = self.shared.map_or((self.routed, self.routed), |s| s);
        vec![Stage {
            shader: "combine_norm",
            constants: vec![
                ("threads", row_threads(self.x.width, resident) as f64),
                ("top_k", self.weights.width as f64),
            ],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.routed.tensor)),
                Binding::read(Resource::Tensor(self.weights.tensor)),
                Binding::read(Resource::Tensor(shared.tensor)),
                Binding::read(Resource::Tensor(gate.tensor)),
                Binding::read(Resource::Vector(self.norm)),
                Binding::write(Resource::Tensor(self.x.tensor)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (shared_stride, gate_offset, gate_stride) =
            self.shared.map_or((0, 0, 0), |(out, gate)| (out.stride, gate.offset, gate.stride));
        let immediates = Immediates::new(&[
            (self.x.width / 4) as u32,
            (self.x.stride / 4) as u32,
            (self.routed.stride / 4) as u32,
            self.weights.stride as u32,
            (shared_stride / 4) as u32,
            gate_offset as u32,
            gate_stride as u32,
            (self.out.stride / 4) as u32,
            self.eps.to_bits(),
        ]);
        out.push(Dispatch::new(0, 0, immediates, [step.tokens as u32, 1, 1]));
    }
}
