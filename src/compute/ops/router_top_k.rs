use rayon::prelude::*;

use super::silu;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row, row_mut};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, View, expect, shape_error};

/// Chooses the experts of each token: the `top_k` largest logits, ties to the lowest index, and their weights. Where all
/// experts are in memory the GPU looks their slots up as well. Beside it the SwiGLU of the shared expert is taken, which
/// waits for the same product and no other.
pub struct RouterTopK {
    /// Layer, for slots.
    pub layer: usize,
    /// `[tokens, experts]`
    pub logits: View,
    /// `[tokens, top_k]`, a whole tensor of ids
    pub ids: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// Weights sum to 1 over the chosen experts, rather than over all.
    pub renormalise: bool,
    /// The shared expert's gate and up side by side, `[tokens, 2 * width]`, and where `silu(gate) * up` goes:
    /// `[tokens, width]`, a whole tensor.
    pub shared: Option<(View, View)>,
}

impl RouterTopK {
    /// One for each expert, as far as a workgroup goes.
    fn threads(&self, resident: &dyn ResidentLayout) -> usize {
        self.logits.width.next_multiple_of(32).min(resident.threads())
    }
}

fn swiglu(memory: &mut CpuMemory, step: &Step, gate_up: View, hidden: View) {
    let mut out = memory.take(hidden.tensor);
    let x = memory.tensor(gate_up.tensor);
    out.par_chunks_mut(hidden.stride).take(step.tokens).enumerate().for_each(|(t, out)| {
        let (gate, up) = row(x, gate_up, t).split_at(hidden.width);
        for ((out, gate), up) in row_mut(out, hidden).iter_mut().zip(gate).zip(up) {
            *out = silu(*gate) * up;
        }
    });
    memory.put_back(hidden.tensor, out);
}

impl Kernel for RouterTopK {
    fn name(&self) -> &'static str {
        "router_top_k"
    }

    fn check(&self, _: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        if self.logits.width > 1024 || self.ids.width > self.logits.width || self.ids.width > 32 {
            let found = format!("{} of {}", self.ids.width, self.logits.width);
            return Err(shape_error(name, "top_k of experts", "at most 32 of at most 1024", found));
        }
        expect(name, "columns of weights", self.ids.width, self.weights.width)?;
        if let Some((gate_up, hidden)) = self.shared {
            expect(name, "columns of gate_up", 2 * hidden.width, gate_up.width)?;
            expect(name, "offset of hidden", 0, hidden.offset)?;
        }
        expect(name, "offset of ids and weights", 0, self.ids.offset + self.weights.offset)
    }

    fn outputs(&self) -> Vec<View> {
        [self.ids, self.weights].into_iter().chain(self.shared.map(|(_, hidden)| hidden)).collect()
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut ids = memory.take(self.ids.tensor);
        let mut weights = memory.take(self.weights.tensor);
        let logits = memory.tensor(self.logits.tensor);
        let mut order: Vec<usize> = Vec::with_capacity(self.logits.width);
        for t in 0..step.tokens {
            let logits = row(logits, self.logits, t);
            order.clear();
            order.extend(0..logits.len());
            // NaN sorts last, so that it shows in the weights and not as a panic
            order.sort_by(|&a, &b| {
                let is_nan = logits[a].is_nan().cmp(&logits[b].is_nan());
                is_nan.then(logits[b].total_cmp(&logits[a])).then(a.cmp(&b))
            });
            let chosen = &order[..self.ids.width];
            let top = logits[chosen[0]];
            let over: &[usize] = if self.renormalise { chosen } else { &order };
            let sum: f32 = over.iter().map(|&e| (logits[e] - top).exp()).sum();
            for (k, &e) in chosen.iter().enumerate() {
                ids[t * self.ids.stride + k] = f32::from_bits(e as u32);
                weights[t * self.weights.stride + k] = (logits[e] - top).exp() / sum;
            }
        }
        memory.put_back(self.weights.tensor, weights);
        memory.put_back(self.ids.tensor, ids);
        if let Some((gate_up, hidden)) = self.shared {
            swiglu(memory, step, gate_up, hidden);
        }
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let (gate_up, hidden) = match self.shared {
            Some((gate_up, hidden)) => (Resource::Tensor(gate_up.tensor), Resource::Tensor(hidden.tensor)),
            // without a shared expert the kernel touches neither
            None => (Resource::Tensor(self.logits.tensor), Resource::Scratch),
        };
        vec![Stage {
            shader: "router_top_k",
            constants: vec![("threads", self.threads(resident) as f64)],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.logits.tensor)),
                Binding::read(Resource::Slots),
                Binding::read(gate_up),
                Binding::write(Resource::Tensor(self.ids.tensor)),
                Binding::write(Resource::Tensor(self.weights.tensor)),
                Binding::write(Resource::Pairs),
                Binding::write(hidden),
            ]],
        }]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let (width, gate_up_offset, gate_up_stride, hidden_stride) = match self.shared {
            Some((gate_up, hidden)) => (hidden.width, gate_up.offset, gate_up.stride, hidden.stride),
            None => (0, 0, 0, 0),
        };
        let immediates = Immediates::new(&[
            self.logits.width as u32,
            self.ids.width as u32,
            u32::from(self.renormalise),
            self.logits.offset as u32,
            self.logits.stride as u32,
            self.ids.stride as u32,
            self.weights.stride as u32,
            (self.layer * self.logits.width) as u32,
            u32::from(resident.all_resident()),
            width as u32,
            gate_up_offset as u32,
            gate_up_stride as u32,
            hidden_stride as u32,
        ]);
        let groups = 1 + width.div_ceil(self.threads(resident));
        out.push(Dispatch::new(0, 0, immediates, [groups as u32, step.tokens as u32, 1]));
    }
}
