use rayon::prelude::*;

use super::silu;
use crate::compute::Step;
use crate::compute::cpu::CpuMemory;
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect};

/// Causal depthwise convolution with SiLU; the state keeps the last `taps - 1` inputs, oldest first.
pub struct ConvSilu {
    /// `[tokens, channels]`
    pub u: View,
    /// `[channels, taps]`
    pub weight: VectorId,
    /// `[taps - 1, channels]`
    pub state: View,
    /// `[tokens, channels]`, a whole tensor
    pub out: View,
    /// Taps; the last multiplies the current token.
    pub taps: usize,
}

impl Kernel for ConvSilu {
    fn name(&self) -> &'static str {
        "conv_silu"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "weight", self.u.width * self.taps, recording.vectors[self.weight.0].1.len())?;
        expect(name, "columns of state", self.u.width, self.state.width)?;
        expect(name, "state", self.state.stride * (self.taps - 1), recording.elements(self.state.tensor))?;
        expect(name, "columns of out", self.u.width, self.out.width)?;
        expect(name, "offset of out", 0, self.out.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let mut state = memory.take(self.state.tensor);
        let u = memory.tensor(self.u.tensor);
        let weight = memory.vector(self.weight);
        let kept = self.taps - 1;
        {
            let input = |age: usize, channel: usize| {
                if age < kept {
                    state[age * self.state.stride + channel]
                } else {
                    u[self.u.offset + (age - kept) * self.u.stride + channel]
                }
            };
            out.par_chunks_mut(self.out.stride).take(step.tokens).enumerate().for_each(|(t, out)| {
                for (channel, out) in out[..self.u.width].iter_mut().enumerate() {
                    let weight = &weight[channel * self.taps..][..self.taps];
                    let sum = (0..self.taps).map(|j| weight[j] * input(t + j, channel)).sum();
                    *out = silu(sum);
                }
            });
        }
        // in ascending order: an entry is read before it is overwritten
        for j in 0..kept {
            let age = step.tokens + j;
            for channel in 0..self.u.width {
                state[j * self.state.stride + channel] = if age < kept {
                    state[age * self.state.stride + channel]
                } else {
                    u[self.u.offset + (age - kept) * self.u.stride + channel]
                };
            }
        }
        memory.put_back(self.state.tensor, state);
        memory.put_back(self.out.tensor, out);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "conv_silu",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.u.tensor)),
                Binding::read(Resource::Vector(self.weight)),
                Binding::write(Resource::Tensor(self.state.tensor)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let immediates = Immediates::new(&[
            self.u.width as u32,
            self.taps as u32,
            step.tokens as u32,
            self.u.offset as u32,
            self.u.stride as u32,
            self.out.stride as u32,
            self.state.stride as u32,
        ]);
        out.push(Dispatch::new(0, 0, immediates, [self.u.width.div_ceil(64) as u32, 1, 1]));
    }
}
