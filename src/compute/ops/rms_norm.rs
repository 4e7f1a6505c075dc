use flashflood_vectors::Instructions;
use rayon::prelude::*;

use super::Quantised;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, at_least, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};

/// `out = x / sqrt(mean(x²) + eps) * weight`, row by row.
#[derive(Clone)]
pub(crate) struct RmsNorm {
    /// `[tokens, width]`
    pub x: View,
    /// `[width]`
    pub weight: VectorId,
    /// `[tokens, width]`
    pub out: View,
    /// The same in 8 bits, for products that want it.
    pub packed: Option<Quantised>,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Threads for a row of `width` elements, each of which takes four at a time.
pub(super) fn row_threads(width: usize, resident: &dyn ResidentLayout) -> usize {
    (width / 4).next_multiple_of(32).min(resident.threads())
}

/// Whether a norm of `width` columns can be packed as `packed` says.
pub(super) fn check_packed(op: &'static str, width: usize, packed: Option<Quantised>) -> Result<(), ShapeError> {
    let Some(packed) = packed else { return Ok(()) };
    expect(op, "columns beyond groups of 32", 0, width % 32)?;
    expect(op, "columns in 8 bits", width, packed.cols)
}

/// One row of the CPU twin.
pub(super) fn norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = Instructions::best().dot(x, x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

impl RmsNorm {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = vec![(Use::Read, &mut self.x), (Use::Write, &mut self.out)];
        all.extend(self.packed.iter_mut().map(|packed| (Use::Write, &mut packed.words)));
        all
    }
}

impl Kernel for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        expect(self.name(), "weight", self.x.width, recording.vectors[self.weight.0].1.len())?;
        expect(self.name(), "columns of out", self.x.width, self.out.width)?;
        check_packed(self.name(), self.x.width, self.packed)?;
        let beyond = self.x.width % 4 + self.x.offset % 4 + self.out.offset % 4;
        expect(self.name(), "columns beyond whole vectors of 4", 0, beyond)
    }

    fn outputs(&self) -> Vec<View> {
        std::iter::once(self.out).chain(self.packed.map(|p| p.words)).collect()
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let x = memory.tensor(self.x.tensor);
        let weight = memory.vector(self.weight);
        let rows = out.par_chunks_mut(self.out.stride).take(step.tokens).enumerate();
        rows.with_min_len(at_least(self.x.width)).for_each(|(t, out)| {
            let x = row(x, self.x, t);
            norm_row(x, weight, self.eps, row_mut(out, self.out));
        });
        if let Some(packed) = self.packed {
            let mut words = memory.take(packed.words.tensor);
            packed.pack_rows_on_cpu(&mut words, &out, self.out, 0..step.tokens);
            memory.put_back(packed.words.tensor, words);
        }
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let threads = row_threads(self.x.width, resident);
        let mut constants = vec![("threads", threads as f64)];
        constants.extend(Quantised::constants(self.packed, threads));
        vec![Stage {
            shader: "rms_norm",
            constants,
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.x.tensor)),
                Binding::read(Resource::Vector(self.weight)),
                Binding::write(Resource::Tensor(self.out.tensor)),
                Binding::write(self.packed.map_or(Resource::Scratch, |p| Resource::Tensor(p.words.tensor))),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let immediates = params! {
            width: (self.x.width / 4) as u32,
            x_offset: (self.x.offset / 4) as u32,
            x_stride: (self.x.stride / 4) as u32,
            out_offset: (self.out.offset / 4) as u32,
            out_stride: (self.out.stride / 4) as u32,
            eps: self.eps.to_bits(),
            packed_stride: self.packed.map_or(0, |p| p.words.stride) as u32,
        };
        out.push(Dispatch::new(0, 0, immediates, [step.tokens as u32, 1, 1]));
    }
}
