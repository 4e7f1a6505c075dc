mod prefill;

use std::ops::Range;

use flashflood_vectors::{DeltaStep, Instructions, prefetch};
use rayon::prelude::*;

use super::{Input, Quantised, sigmoid};
use crate::compute::cpu::{CpuMemory, at_least, row};
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage, params};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{Recording, ShapeError, TensorId, VectorId, View, expect, shape_error};
use crate::compute::{Phase, Step};

/// Shape of a gated delta-net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeltaNetShape {
    /// Query and key heads.
    pub key_heads: usize,
    /// Value heads, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Elements per query and key head.
    pub key_dim: usize,
    /// Elements per value head.
    pub value_dim: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
    /// Which key head a value head has. Grouped (`false`), the value heads of a key head lie side by side; in turn
    /// (`true`), value head `h` has key head `h % key_heads`, as GGUF files of some families order them.
    pub in_turn: bool,
}

impl DeltaNetShape {
    /// Channels of the convolution: q, k and v.
    pub(crate) fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// Value heads side by side that share a key head: value head `h` has key head `h / side_by_side % key_heads`, and
    /// value head `k * side_by_side` is one of those that key head `k` has.
    fn side_by_side(&self) -> usize {
        if self.in_turn { 1 } else { self.value_heads / self.key_heads }
    }
}

/// Added to the sum (not the mean) of the squares of q and k.
const L2_EPS: f32 = 1e-6;

/// Taps of a convolution.
const MOST_TAPS: usize = 8;

/// Tokens that the processor takes together: their keys and queries, and some columns of the state, stay in the nearest cache.
const TOKENS: usize = 8;

/// Rows of the state that a thread holds in registers.
const HELD: usize = 16;

/// What mixes tokens in a linear layer: causal depthwise convolution with SiLU, the gated delta rule (decay, predict,
/// correct, read after the update), RMS norm of each head and its gate. The GPU goes token by token in decode and by
/// chunks of 32 tokens in prefill, so a token's bits depend on how its prompt is cut into steps, unless it is cut at
/// multiples of 32.
#[derive(Clone)]
pub(crate) struct DeltaNet {
    /// `[tokens, q | k | v]`, as projected
    pub qkv: View,
    /// `[tokens, value_heads * value_dim]`: the gate of the norm
    pub z: View,
    /// `[tokens, value_heads]`: β before the sigmoid
    pub b: View,
    /// `[tokens, value_heads]`: the decay's input
    pub a: View,
    /// `[channels, taps]`; the last tap multiplies the current token
    pub weight: VectorId,
    /// `[value_heads]`
    pub a_log: VectorId,
    /// `[value_heads]`
    pub dt_bias: VectorId,
    /// `[value_dim]`
    pub norm: VectorId,
    /// `[value_heads * (taps - 1), q | k | v of one head]`: the last inputs of the convolution, oldest first. Value heads
    /// that share a key head each have a copy of its inputs: what one workgroup writes no other reads.
    pub conv: View,
    /// `[value_heads * key_dim, value_dim]`
    pub state: View,
    /// `[tokens, value_heads * value_dim]`, a whole tensor
    pub out: Input,
    /// Heads, their sizes, and taps.
    pub shape: DeltaNetShape,
    /// Added to the mean of the squares of a head.
    pub eps: f32,
}

fn softplus(v: f32) -> f32 {
    v.max(0.0) + (-v.abs()).exp().ln_1p()
}

/// Where the inputs of a value head lie among the channels of all heads: first q, first k, first v.
fn places(s: &DeltaNetShape, head: usize) -> [usize; 3] {
    let key_head = head / s.side_by_side() % s.key_heads;
    let keys = s.key_heads * s.key_dim;
    [key_head * s.key_dim, keys + key_head * s.key_dim, 2 * keys + head * s.value_dim]
}

/// Columns of [`DeltaNet::conv`].
pub(crate) fn head_channels(s: &DeltaNetShape) -> usize {
    2 * s.key_dim + s.value_dim
}

/// The last inputs of the convolution of all channels, `[taps - 1, channels]`, from the contents of [`DeltaNet::conv`].
#[cfg(test)]
pub(crate) fn conv_inputs(s: &DeltaNetShape, conv: &[f32]) -> Vec<f32> {
    let (kept, width) = (s.conv_kernel - 1, head_channels(s));
    let mut all = vec![0.0; kept * s.channels()];
    for (i, row) in conv.chunks_exact(width).enumerate() {
        let (head, age) = (i / kept, i % kept);
        let all = &mut all[age * s.channels()..][..s.channels()];
        let (q, rest) = row.split_at(s.key_dim);
        let (k, v) = rest.split_at(s.key_dim);
        for (part, first) in [q, k, v].into_iter().zip(places(s, head)) {
            all[first..first + part.len()].copy_from_slice(part);
        }
    }
    all
}

/// What one value head keeps, and its outputs for all tokens.
struct Head<'a> {
    index: usize,
    conv: &'a mut [f32],
    state: &'a mut [f32],
    out: Vec<f32>,
}

impl DeltaNet {
    fn lanes(&self) -> usize {
        self.shape.value_dim.next_multiple_of(32)
    }

    /// Threads that share a column of the state, where a workgroup may have `most` threads.
    fn parts(&self, most: usize) -> usize {
        self.shape.key_dim.div_ceil(HELD).min(most / self.lanes()).max(1)
    }

    fn q_scale(&self) -> f32 {
        1.0 / (self.shape.key_dim as f32).sqrt()
    }

    /// WGSL constants of the layer's shape: taps, key_dim, value_dim and side_by_side.
    fn constants(&self) -> [(&'static str, f64); 4] {
        let DeltaNetShape { conv_kernel, key_dim, value_dim, .. } = self.shape;
        [
            ("taps", conv_kernel as f64),
            ("key_dim", key_dim as f64),
            ("value_dim", value_dim as f64),
            ("side_by_side", self.shape.side_by_side() as f64),
        ]
    }

    /// First column of q, k and v in what is mixed of a head, how many there are, and their first channel.
    fn parts_of(&self, head: usize) -> [(usize, usize, usize); 3] {
        let (s, firsts) = (&self.shape, places(&self.shape, head));
        let of = |part: usize, len| (part * s.key_dim, len, firsts[part]);
        [of(0, s.key_dim), of(1, s.key_dim), of(2, s.value_dim)]
    }

    /// The weights of a head's channels, tap by tap.
    fn taps_of(&self, head: usize, weight: &[f32]) -> Vec<f32> {
        let (taps, width) = (self.shape.conv_kernel, head_channels(&self.shape));
        let mut all = vec![0.0; taps * width];
        for (column, len, channel) in self.parts_of(head) {
            for (i, weights) in weight[channel * taps..][..len * taps].chunks_exact(taps).enumerate() {
                weights.iter().enumerate().for_each(|(tap, w)| all[tap * width + column + i] = *w);
            }
        }
        all
    }

    /// The convolution of one token: `[q | k | v]` of a head, with its weights tap by tap. `u` are the channels of all
    /// heads, row after row.
    fn convolve(&self, head: &Head, taps: &[f32], u: &[f32], t: usize, mixed: &mut [f32]) {
        let (s, kept) = (&self.shape, self.shape.conv_kernel - 1);
        for (column, len, channel) in self.parts_of(head.index) {
            let mut inputs = [&[][..]; MOST_TAPS];
            let mut weights = [&[][..]; MOST_TAPS];
            for tap in 0..s.conv_kernel {
                inputs[tap] = match (t + tap).checked_sub(kept) {
                    Some(token) => &row(u, self.qkv, token)[channel..][..len],
                    None => &head.conv[(t + tap) * self.conv.stride + column..][..len],
                };
                weights[tap] = &taps[tap * mixed.len() + column..][..len];
            }
            let (weights, inputs) = (&weights[..s.conv_kernel], &inputs[..s.conv_kernel]);
            Instructions::best().convolve(weights, inputs, &mut mixed[column..][..len]);
        }
    }

    /// Asks for what a head reads of a token: each is far from the one before, which processors do not foresee.
    fn prefetch(&self, head: &Head, x: &[f32], t: usize) {
        for (_, len, channel) in self.parts_of(head.index) {
            prefetch(bytemuck::cast_slice(&row(x, self.qkv, t)[channel..][..len]));
        }
        let gate = &row(x, self.z, t)[head.index * self.shape.value_dim..][..self.shape.value_dim];
        prefetch(bytemuck::cast_slice(gate));
    }

    fn keep_inputs(&self, head: &mut Head, u: &[f32], tokens: usize) {
        let (s, kept) = (&self.shape, self.shape.conv_kernel - 1);
        let firsts = places(s, head.index);
        // in ascending order: a row is read before it is overwritten
        for j in 0..kept {
            let (from, to) = ((tokens + j) * self.conv.stride, j * self.conv.stride);
            match (tokens + j).checked_sub(kept) {
                None => head.conv.copy_within(from..from + self.conv.stride, to),
                Some(token) => {
                    let mut at = to;
                    for (first, len) in firsts.into_iter().zip([s.key_dim, s.key_dim, s.value_dim]) {
                        head.conv[at..at + len].copy_from_slice(&row(u, self.qkv, token)[first..first + len]);
                        at += len;
                    }
                }
            }
        }
    }

    fn run_head(&self, memory: &CpuMemory, head: &mut Head, part: Range<usize>) {
        let s = &self.shape;
        let x = memory.tensor(self.qkv.tensor);
        let (weight, norm) = (memory.vector(self.weight), memory.vector(self.norm));
        let rate = -memory.vector(self.a_log)[head.index].exp();
        let bias = memory.vector(self.dt_bias)[head.index];
        let taps = self.taps_of(head.index, weight);
        let vectors = Instructions::best();
        let channels = head_channels(s);
        let mut mixed = vec![0.0; TOKENS.min(part.len()) * channels];
        for first in part.clone().step_by(TOKENS) {
            let tokens = first..part.end.min(first + TOKENS);
            for (t, mixed) in tokens.clone().zip(mixed.chunks_exact_mut(channels)) {
                if t + TOKENS < part.end {
                    self.prefetch(head, x, t + TOKENS);
                }
                self.convolve(head, &taps, x, t, mixed);
                let (q, rest) = mixed.split_at_mut(s.key_dim);
                let (k, _) = rest.split_at_mut(s.key_dim);
                let inverse_length = |x: &[f32]| 1.0 / (vectors.dot(x, x) + L2_EPS).sqrt();
                let (q_scale, k_scale) = (inverse_length(q) * self.q_scale(), inverse_length(k));
                q.iter_mut().for_each(|q| *q *= q_scale);
                k.iter_mut().for_each(|k| *k *= k_scale);
            }
            let steps = tokens.clone().zip(mixed.chunks_exact(channels)).map(|(t, mixed)| {
                let (q, rest) = mixed.split_at(s.key_dim);
                let (k, v) = rest.split_at(s.key_dim);
                let decay = (rate * softplus(row(x, self.a, t)[head.index] + bias)).exp();
                DeltaStep { k, q, v, decay, beta: sigmoid(row(x, self.b, t)[head.index]) }
            });
            let steps: Vec<DeltaStep<'_>> = steps.collect();
            let out = &mut head.out[(first - part.start) * s.value_dim..][..tokens.len() * s.value_dim];
            vectors.delta_steps(&steps, self.state.stride, head.state, out);
            for (t, out) in tokens.zip(out.chunks_exact_mut(s.value_dim)) {
                let z = &row(x, self.z, t)[head.index * s.value_dim..][..s.value_dim];
                vectors.gated_norm(out, self.eps, norm, z);
            }
        }
        self.keep_inputs(head, x, part.end);
    }
}

impl DeltaNet {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        vec![
            (Use::Read, &mut self.qkv),
            (Use::Read, &mut self.z),
            (Use::Read, &mut self.b),
            (Use::Read, &mut self.a),
            (Use::Update, &mut self.conv),
            (Use::Update, &mut self.state),
            (Use::Write, self.out.view_mut()),
        ]
    }
}

impl Kernel for DeltaNet {
    fn name(&self) -> &'static str {
        "delta_net"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let (name, s) = (self.name(), &self.shape);
        let vector = |id: VectorId| recording.vectors[id.0].1.len();
        for (what, view) in [("tensor of z", self.z), ("tensor of b", self.b), ("tensor of a", self.a)] {
            expect(name, what, self.qkv.tensor.0, view.tensor.0)?;
        }
        expect(name, "columns of qkv", s.channels(), self.qkv.width)?;
        expect(name, "columns of z", s.value_heads * s.value_dim, self.z.width)?;
        expect(name, "columns of b", s.value_heads, self.b.width)?;
        expect(name, "columns of a", s.value_heads, self.a.width)?;
        expect(name, "weight", s.channels() * s.conv_kernel, vector(self.weight))?;
        expect(name, "a_log", s.value_heads, vector(self.a_log))?;
        expect(name, "dt_bias", s.value_heads, vector(self.dt_bias))?;
        expect(name, "norm", s.value_dim, vector(self.norm))?;
        expect(name, "columns of conv", head_channels(s), self.conv.width)?;
        let conv = s.value_heads * (s.conv_kernel - 1) * self.conv.stride;
        expect(name, "conv", conv, recording.elements(self.conv.tensor))?;
        expect(name, "columns of state", s.value_dim, self.state.width)?;
        expect(name, "state", s.value_heads * s.key_dim * self.state.stride, recording.elements(self.state.tensor))?;
        expect(name, "columns of out", s.value_heads * s.value_dim, self.out.cols())?;
        expect(name, "offset of out", 0, self.out.view().offset)?;
        if self.out.packed().is_some() {
            expect(name, "columns of a head beyond groups of 32", 0, s.value_dim % 32)?;
        }
        if s.key_dim > 256 || s.value_dim > 256 {
            let found = format!("{} and {}", s.key_dim, s.value_dim);
            return Err(shape_error(name, "key_dim and value_dim", "at most 256", found));
        }
        if !(2..=MOST_TAPS).contains(&s.conv_kernel) {
            return Err(shape_error(name, "taps", "2 to 8", s.conv_kernel));
        }
        expect(name, "value heads beyond whole groups", 0, s.value_heads % s.key_heads)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out.view()]
    }

    fn state(&self) -> Vec<TensorId> {
        vec![self.conv.tensor, self.state.tensor]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        self.run_part_on_cpu(memory, step, 0..step.tokens);
    }

    fn run_part_on_cpu(&self, memory: &mut CpuMemory, _: &Step, part: Range<usize>) {
        let s = &self.shape;
        let mut conv = memory.take(self.conv.tensor);
        let mut state = memory.take(self.state.tensor);
        let view = self.out.view();
        let mut out = memory.take(view.tensor);
        let heads: Vec<Head> = conv
            .par_chunks_mut((s.conv_kernel - 1) * self.conv.stride)
            .zip(state.par_chunks_mut(s.key_dim * self.state.stride))
            .enumerate()
            .with_min_len(at_least(part.len() * s.key_dim * s.value_dim / 2))
            .map(|(index, (conv, state))| {
                let mut head = Head { index, conv, state, out: vec![0.0; part.len() * s.value_dim] };
                self.run_head(memory, &mut head, part.clone());
                head
            })
            .collect();
        let rows = out.par_chunks_mut(view.stride).skip(part.start).take(part.len()).enumerate();
        rows.with_min_len(at_least(self.out.cols())).for_each(|(t, out)| {
            let of_heads = heads.iter().map(|head| &head.out[t * s.value_dim..][..s.value_dim]);
            match self.out {
                Input::F32(_) => {
                    out.chunks_exact_mut(s.value_dim).zip(of_heads).for_each(|(out, v)| out.copy_from_slice(v));
                }
                Input::Int8(packed) => packed.pack_on_cpu(out, 0, &of_heads.flatten().copied().collect::<Vec<f32>>()),
            }
        });
        memory.put_back(view.tensor, out);
        memory.put_back(self.state.tensor, state);
        memory.put_back(self.conv.tensor, conv);
    }

    fn scratch_bytes(&self, _: usize, tokens: usize) -> usize {
        self.prefill_bytes(tokens)
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let parts = self.parts(resident.threads());
        let mut constants = self.constants().to_vec();
        constants.extend([("lanes", self.lanes() as f64), ("parts", parts as f64)]);
        constants.extend(Quantised::constants(self.out.packed(), self.lanes() * parts));
        let token_by_token = Stage {
            shader: "delta_net",
            constants,
            groups: vec![vec![
                Binding::read(Resource::Tensor(self.qkv.tensor)),
                Binding::read(Resource::Vector(self.weight)),
                Binding::read(Resource::Vector(self.a_log)),
                Binding::read(Resource::Vector(self.dt_bias)),
                Binding::read(Resource::Vector(self.norm)),
                Binding::write(Resource::Tensor(self.conv.tensor)),
                Binding::write(Resource::Tensor(self.state.tensor)),
                Binding::write(Resource::Tensor(self.out.view().tensor)),
            ]],
        };
        [vec![token_by_token], self.prefill_stages(resident)].concat()
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        if step.phase == Phase::Prefill {
            return self.dispatch_prefill(resident.scratch_bytes(), 0..step.tokens, out);
        }
        let s = &self.shape;
        let immediates = params! {
            tokens: step.tokens as u32,
            key_heads: s.key_heads as u32,
            value_heads: s.value_heads as u32,
            x_stride: self.qkv.stride as u32,
            u_offset: self.qkv.offset as u32,
            z_offset: self.z.offset as u32,
            a_offset: self.a.offset as u32,
            b_offset: self.b.offset as u32,
            out_stride: self.out.view().stride as u32,
            conv_stride: self.conv.stride as u32,
            state_stride: self.state.stride as u32,
            eps: self.eps.to_bits(),
            q_scale: self.q_scale().to_bits(),
            dim: (s.value_dim as f32).to_bits(),
        };
        out.push(Dispatch::new(0, 0, immediates, [s.value_heads as u32, 1, 1]));
    }

    fn dispatch_part(&self, resident: &dyn ResidentLayout, _: &Step, part: Range<usize>, out: &mut Vec<Dispatch>) {
        self.dispatch_prefill(resident.scratch_bytes(), part, out);
    }
}
