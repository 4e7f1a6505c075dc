use rayon::prelude::*;

use super::sigmoid;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{Recording, ShapeError, VectorId, View, expect, shape_error};
use crate::model::config::LinearConfig;

/// Added to the sum (not the mean) of the squares of q and k.
const L2_EPS: f32 = 1e-6;

/// The gated delta rule, token by token: decay, predict, correct, read after the update.
pub struct DeltaNet {
    /// `[tokens, q | k | v]` after convolution and SiLU, a whole tensor
    pub qkv: View,
    /// `[tokens, value_heads]`: the decay's input
    pub a: View,
    /// `[tokens, value_heads]`: β before the sigmoid
    pub b: View,
    /// `[value_heads]`
    pub a_log: VectorId,
    /// `[value_heads]`
    pub dt_bias: VectorId,
    /// `[value_heads * key_dim, value_dim]`
    pub state: View,
    /// `[tokens, value_heads * value_dim]`, a whole tensor
    pub out: View,
    /// Heads and their sizes.
    pub shape: LinearConfig,
}

fn softplus(v: f32) -> f32 {
    v.max(0.0) + (-v.abs()).exp().ln_1p()
}

impl Kernel for DeltaNet {
    fn name(&self) -> &'static str {
        "delta_net"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let (name, s) = (self.name(), &self.shape);
        expect(name, "columns of qkv", s.channels(), self.qkv.width)?;
        expect(name, "offset of qkv and out", 0, self.qkv.offset + self.out.offset)?;
        expect(name, "columns of a", s.value_heads, self.a.width)?;
        expect(name, "columns of b", s.value_heads, self.b.width)?;
        expect(name, "a_log", s.value_heads, recording.vectors[self.a_log.0].1.len())?;
        expect(name, "dt_bias", s.value_heads, recording.vectors[self.dt_bias.0].1.len())?;
        expect(name, "columns of state", s.value_dim, self.state.width)?;
        expect(name, "state", s.value_heads * s.key_dim * self.state.stride, recording.elements(self.state.tensor))?;
        expect(name, "columns of out", s.value_heads * s.value_dim, self.out.width)?;
        if s.key_dim > 256 {
            return Err(shape_error(name, "key_dim", "at most 256", s.key_dim));
        }
        expect(name, "value heads beyond whole groups", 0, s.value_heads % s.key_heads)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let s = self.shape;
        let mut state = memory.take(self.state.tensor);
        let mut out = memory.take(self.out.tensor);
        let qkv = memory.tensor(self.qkv.tensor);
        let (a, b) = (memory.tensor(self.a.tensor), memory.tensor(self.b.tensor));
        let (a_log, dt_bias) = (memory.vector(self.a_log), memory.vector(self.dt_bias));
        let keys = s.key_heads * s.key_dim;
        let stride = self.state.stride;
        let per_head: Vec<Vec<f32>> = state
            .par_chunks_mut(s.key_dim * stride)
            .enumerate()
            .map(|(head, state)| {
                let key_head = head / (s.value_heads / s.key_heads);
                let mut outputs = vec![0.0; step.tokens * s.value_dim];
                let mut delta = vec![0.0; s.value_dim];
                for (t, out) in outputs.chunks_exact_mut(s.value_dim).enumerate() {
                    let x = row(qkv, self.qkv, t);
                    let q = &x[key_head * s.key_dim..][..s.key_dim];
                    let k = &x[keys + key_head * s.key_dim..][..s.key_dim];
                    let v = &x[2 * keys + head * s.value_dim..][..s.value_dim];
                    let length = |x: &[f32]| (x.iter().map(|v| v * v).sum::<f32>() + L2_EPS).sqrt();
                    let q_scale = 1.0 / length(q) / (s.key_dim as f32).sqrt();
                    let k_scale = 1.0 / length(k);
                    let decay = (-a_log[head].exp() * softplus(row(a, self.a, t)[head] + dt_bias[head])).exp();
                    let beta = sigmoid(row(b, self.b, t)[head]);
                    delta.fill(0.0);
                    for (state, k) in state.chunks_exact_mut(stride).zip(k) {
                        for (s, d) in state.iter_mut().zip(&mut delta) {
                            *s *= decay;
                            *d += k * k_scale * *s;
                        }
                    }
                    for (d, v) in delta.iter_mut().zip(v) {
                        *d = beta * (v - *d);
                    }
                    for ((state, k), q) in state.chunks_exact_mut(stride).zip(k).zip(q) {
                        for ((s, d), out) in state.iter_mut().zip(&delta).zip(out.iter_mut()) {
                            *s += k * k_scale * d;
                            *out += q * q_scale * *s;
                        }
                    }
                }
                outputs
            })
            .collect();
        for (head, outputs) in per_head.iter().enumerate() {
            for (t, values) in outputs.chunks_exact(s.value_dim).enumerate() {
                out[t * self.out.stride + head * s.value_dim..][..s.value_dim].copy_from_slice(values);
            }
        }
        memory.put_back(self.out.tensor, out);
        memory.put_back(self.state.tensor, state);
    }

    fn stages(&self, _: &dyn ResidentLayout) -> Vec<Stage> {
        vec![Stage {
            shader: "delta_net",
            constants: vec![],
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.qkv.tensor)),
                Binding::read(Resource::Tensor(self.a.tensor)),
                Binding::read(Resource::Tensor(self.b.tensor)),
                Binding::read(Resource::Vector(self.a_log)),
                Binding::read(Resource::Vector(self.dt_bias)),
                Binding::write(Resource::Tensor(self.state.tensor)),
                Binding::write(Resource::Tensor(self.out.tensor)),
            ]],
        }]
    }

    fn dispatch(&self, _: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let s = &self.shape;
        let immediates = Immediates::new(&[
            step.tokens as u32,
            s.key_heads as u32,
            s.value_heads as u32,
            s.key_dim as u32,
            s.value_dim as u32,
            self.qkv.stride as u32,
            self.a.offset as u32,
            self.a.stride as u32,
            self.b.offset as u32,
            self.b.stride as u32,
            self.out.stride as u32,
            self.state.stride as u32,
        ]);
        out.push(Dispatch::new(0, 0, immediates, [s.value_heads as u32, s.value_dim.div_ceil(32) as u32, 1]));
    }
}
