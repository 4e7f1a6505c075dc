use rayon::prelude::*;

use super::silu;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};

/// `out = x / sqrt(mean(x²) + eps) * weight * silu(gate)`, head by head: norm first, then the gate.
pub struct GatedRmsNorm {
    /// `[tokens, heads * dim]`, a whole tensor
    pub x: View,
    /// `[tokens, heads * dim]`
    pub gate: View,
    /// `[dim]`
    pub weight: VectorId,
    /// `[tokens, heads * dim]`, a whole tensor
    pub out: View,
    /// Elements per head.
    pub dim: usize,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl Kernel for GatedRmsNorm {
    fn name(&self) -> &'static str {
        "gated_rms_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "weight", self.dim, recording.vectors[self.weight.0].1.len())?;
        expect(name, "columns of gate", self.x.width, self.gate.width)?;
        expect(name, "columns of out", self.x.width, self.out.width)?;
        expect(name, "columns of x beyond whole heads", 0, self.x.width % self.dim)?;
        expect(name, "offset of x and out", 0, self.x.offset + self.out.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        let gate = memory.tensor(self.gate.tensor);
        let weight = memory.vector(self.weight);
        out.par_chunks_mut(self.out.stride).take(step.tokens).enumerate().for_each(|(t, out)| {
            let (x, gate) = (row(x, self.x, t), row(gate, self.gate, t));
            for ((out, x), gate) in
                out.chunks_exact_mut(self.dim).zip(x.chunks_exact(self.dim)).zip(gate.chunks_exact(self.dim))
            {
                let mean = x.iter().map(|v| v * v).sum::<f32>() / self.dim as f32;
                let scale = 1.0 / (mean + self.eps).sqrt();
                for i in 0..self.dim {
                    out[i] = x[i] * scale * weight[i] * silu(gate[i]);
                }
            }
        });
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "gated_rms_norm",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.x.tensor)),
                Binding::read(Resource::Tensor(self.gate.tensor)),
                Binding::read(Resource::Vector(self.weight)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let heads = (self.x.width / self.dim) as u32;
        let immediates = Immediates::new(&[
            self.dim as u32,
            heads,
            self.x.stride as u32,
            self.gate.offset as u32,
            self.gate.stride as u32,
            self.out.stride as u32,
            self.eps.to_bits(),
        ]);
        out.push(Dispatch::new(0, 0, immediates, [heads, step.tokens as u32, 1]));
    }
}
