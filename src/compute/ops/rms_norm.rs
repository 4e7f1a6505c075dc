use rayon::prelude::*;

use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};

/// `out = x / sqrt(mean(x²) + eps) * weight`, row by row.
pub struct RmsNorm {
    /// `[tokens, width]`
    pub x: View,
    /// `[width]`
    pub weight: VectorId,
    /// `[tokens, width]`
    pub out: View,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Threads for a row of `width` elements, each of which takes four at a time.
pub(super) fn row_threads(width: usize, resident: &dyn ResidentLayout) -> usize {
    (width / 4).next_multiple_of(32).min(resident.threads())
}

/// One row of the CPU twin.
pub(super) fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

impl Kernel for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        expect(self.name(), "weight", self.x.width, recording.vectors[self.weight.0].1.len())?;
        expect(self.name(), "columns of out", self.x.width, self.out.width)?;
        let beyond = self.x.width % 4 + self.x.offset % 4 + self.out.offset % 4;
        expect(self.name(), "columns beyond whole vectors of 4", 0, beyond)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        let weight = memory.vector(self.weight);
        out.par_chunks_mut(self.out.stride).take(step.tokens).enumerate().for_each(|(t, out)| {
            let x = row(x, self.x, t);
            norm_row(x, weight, self.eps, row_mut(out, self.out));
        });
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "rms_norm",
            constants: vec![("threads", row_threads(self.x.width, resident) as f64)],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.x.tensor)),
                Binding::read(Resource::Vector(self.weight)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let immediates = Immediates::new(&[
            (self.x.width / 4) as u32,
            (self.x.offset / 4) as u32,
            (self.x.stride / 4) as u32,
            (self.out.offset / 4) as u32,
            (self.out.stride / 4) as u32,
            self.eps.to_bits(),
        ]);
        out.push(Dispatch::new(0, 0, immediates, [step.tokens as u32, 1, 1]));
    }
}
