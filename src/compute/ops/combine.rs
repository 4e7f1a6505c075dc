use rayon::prelude::*;

use super::sigmoid;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, at_least, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, View, expect};

/// Vectors of 4 elements that a workgroup adds up: one a thread.
const THREADS: usize = 64;

/// Adds the weighted routed experts and the shared expert to the residual stream.
#[derive(Clone)]
pub(crate) struct Combine {
    /// `[tokens, width]`: the residual stream, a whole tensor
    pub x: View,
    /// `[tokens * top_k, width]`, a whole tensor with `top_k` rows per token
    pub routed: View,
    /// `[tokens, top_k]`, its tensor's first columns
    pub weights: View,
    /// The shared expert's output `[tokens, width]` (a whole tensor) and its gate `[tokens, 1]` before the sigmoid; without
    /// a gate it is added as it is.
    pub shared: Option<(View, Option<View>)>,
}

impl Combine {
    /// Whether the operands fit together; `op` is whose they are.
    pub(super) fn check_operands(&self, op: &'static str) -> Result<(), ShapeError> {
        expect(op, "columns of x beyond whole vectors of 4", 0, self.x.width % 4)?;
        expect(op, "columns of routed", self.x.width, self.routed.width)?;
        expect(op, "rows of routed per token", self.weights.width, self.routed.rows_per_token)?;
        let mut offsets = self.x.offset + self.routed.offset + self.weights.offset;
        if let Some((out, gate)) = self.shared {
            expect(op, "columns of shared", self.x.width, out.width)?;
            if let Some(gate) = gate {
                expect(op, "columns of the shared gate", 1, gate.width)?;
            }
            offsets += out.offset;
        }
        expect(op, "offset of x, routed, weights and shared", 0, offsets)
    }

    /// Adds to the row of token `t`.
    pub(super) fn add_to_row(&self, memory: &CpuMemory, t: usize, x: &mut [f32]) {
        let routed = memory.tensor(self.routed.tensor);
        let weights = row(memory.tensor(self.weights.tensor), self.weights, t);
        let mut sum = vec![0.0; self.x.width];
        for (k, w) in weights.iter().enumerate() {
            let expert = &routed[(t * weights.len() + k) * self.routed.stride..][..self.x.width];
            sum.iter_mut().zip(expert).for_each(|(sum, v)| *sum += w * v);
        }
        if let Some((out, gate)) = self.shared {
            let share = gate.map_or(1.0, |gate| sigmoid(row(memory.tensor(gate.tensor), gate, t)[0]));
            let shared = row(memory.tensor(out.tensor), out, t);
            sum.iter_mut().zip(shared).for_each(|(sum, v)| *sum += share * v);
        }
        x.iter_mut().zip(&sum).for_each(|(x, v)| *x += v);
    }

    /// Routed experts, their weights, the shared expert and its gate.
    pub(super) fn read_bindings(&self) -> [Binding; 4] {
        // what is not there is not read
        let (shared, gate) = self.shared.unwrap_or((self.routed, None));
        [self.routed, self.weights, shared, gate.unwrap_or(self.weights)]
            .map(|view| Binding::read(Resource::Tensor(view.tensor)))
    }

    /// Parameters of the shared expert: its stride in vectors of 4, 0 without one; offset and stride of its gate, 0 without.
    pub(super) fn shared_words(&self) -> (u32, u32, u32) {
        let Some((shared, gate)) = self.shared else { return (0, 0, 0) };
        let (gate_offset, gate_stride) = gate.map_or((0, 0), |gate| (gate.offset, gate.stride));
        ((shared.stride / 4) as u32, gate_offset as u32, gate_stride as u32)
    }
}

impl Combine {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let mut all = vec![(Use::Update, &mut self.x), (Use::Read, &mut self.routed), (Use::Read, &mut self.weights)];
        if let Some((out, gate)) = &mut self.shared {
            all.push((Use::Read, out));
            all.extend(gate.iter_mut().map(|gate| (Use::Read, gate)));
        }
        all
    }
}

impl Kernel for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        self.check_operands(self.name())
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.x]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut x = memory.take(self.x.tensor);
        let rows = x.par_chunks_mut(self.x.stride).take(step.tokens).enumerate();
        rows.with_min_len(at_least(self.x.width)).for_each(|(t, x)| self.add_to_row(memory, t, row_mut(x, self.x)));
        memory.put_back(self.x.tensor, x);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        let x = Binding::write(Resource::Tensor(self.x.tensor));
        vec![Stage {
            shader: "combine",
            constants: vec![("top_k", self.weights.width as f64)],
            groups: vec![[&self.read_bindings()[..], &[x]].concat()],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let groups = (self.x.width / 4).div_ceil(THREADS);
        let (shared_stride, gate_offset, gate_stride) = self.shared_words();
        let immediates = params! {
            width: (self.x.width / 4) as u32,
            x_stride: (self.x.stride / 4) as u32,
            routed_stride: (self.routed.stride / 4) as u32,
            weights_stride: self.weights.stride as u32,
            shared_stride,
            gate_offset,
            gate_stride,
        };
        out.push(Dispatch::new(0, 0, immediates, [groups as u32, step.tokens as u32, 1]));
    }
}
