use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, View, expect, shape_error};

/// Chooses the experts of each token: the `top_k` largest logits, ties to the lowest index, and their weights.
pub struct RouterTopK {
    /// `[tokens, experts]`
    pub logits: View,
    /// `[tokens, top_k]`, a whole tensor of ids
    pub ids: View,
    /// `[tokens, top_k]`, a whole tensor
    pub weights: View,
    /// Weights sum to 1 over the chosen experts, rather than over all.
    pub renormalise: bool,
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
        expect(name, "offset of ids and weights", 0, self.ids.offset + self.weights.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.ids, self.weights]
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
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "router_top_k",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.logits.tensor)),
                Binding::write(Resource::Tensor(self.ids.tensor)),
                Binding::write(Resource::Tensor(self.weights.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let immediates = Immediates::new(&[
            self.logits.width as u32,
            self.ids.width as u32,
            u32::from(self.renormalise),
            self.logits.offset as u32,
            self.logits.stride as u32,
            self.ids.stride as u32,
            self.weights.stride as u32,
        ]);
        out.push(Dispatch::new(0, 0, immediates, [step.tokens as u32, 1, 1]));
    }
}
