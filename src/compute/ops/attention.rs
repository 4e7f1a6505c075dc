use rayon::prelude::*;

use super::{Input, Quantised, sigmoid};
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{KvId, Recording, ShapeError, VectorId, View, expect, shape_error};
use crate::compute::{Phase, Step};

/// Positions that one workgroup attends to. Fixed, so that results do not depend on the length of a step.
const SPLIT: usize = 512;

/// RMS norm and rotation of queries and keys, the write of keys and values into the KV cache, causal attention of the
/// step's queries over it, and the output gate.
pub struct Attention {
    /// `[tokens, q | k | v]`, a whole tensor; with a gate the elements of a query head are followed by those of its gate,
    /// before the sigmoid
    pub qkv: View,
    /// `[dim]`
    pub q_norm: VectorId,
    /// `[dim]`
    pub k_norm: VectorId,
    /// Keys and values of all positions.
    pub kv: KvId,
    /// `[tokens, heads * dim]`, a whole tensor
    pub out: Input,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub dim: usize,
    /// Rotated elements per head.
    pub rotary_dim: usize,
    /// Whether there is an output gate.
    pub gate: bool,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl Attention {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Elements from one query head to the next.
    fn q_head(&self) -> usize {
        if self.gate { 2 * self.dim } else { self.dim }
    }

    fn k_offset(&self) -> usize {
        self.heads * self.q_head()
    }

    fn v_offset(&self) -> usize {
        self.k_offset() + self.kv_heads * self.dim
    }

    fn norm_and_rotate(&self, x: &[f32], weight: &[f32], rope: &[f32], out: &mut [f32]) {
        let mean = x.iter().map(|v| v * v).sum::<f32>() / self.dim as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
        let m = self.rotary_dim / 2;
        let (cos, sin) = rope.split_at(m);
        for i in 0..m {
            let (a, b) = (out[i], out[i + m]);
            out[i] = a * cos[i] - b * sin[i];
            out[i + m] = b * cos[i] + a * sin[i];
        }
    }

    fn keep_keys_and_values(&self, memory: &mut CpuMemory, step: &Step) {
        let mut kv = memory.take_kv(self.kv);
        let (x, k_norm) = (memory.tensor(self.qkv.tensor), memory.vector(self.k_norm));
        let width = self.kv_heads * self.dim;
        for t in 0..step.tokens {
            let x = row(x, self.qkv, t);
            let at = (step.position + t) * width;
            for h in 0..self.kv_heads {
                let out = &mut kv.keys[at + h * self.dim..][..self.dim];
                let k = &x[self.k_offset() + h * self.dim..][..self.dim];
                self.norm_and_rotate(k, k_norm, memory.rope(t, self.rotary_dim), out);
            }
            kv.values[at..at + width].copy_from_slice(&x[self.v_offset()..][..width]);
        }
        memory.put_back_kv(self.kv, kv);
    }

    /// One query head of token `t` of the step, at `position`.
    fn attend(&self, memory: &CpuMemory, t: usize, h: usize, position: usize, out: &mut [f32]) {
        let (kv, width) = (memory.kv(self.kv), self.kv_heads * self.dim);
        let x = &row(memory.tensor(self.qkv.tensor), self.qkv, t)[h * self.q_head()..];
        let mut q = vec![0.0; self.dim];
        let rope = memory.rope(t, self.rotary_dim);
        self.norm_and_rotate(&x[..self.dim], memory.vector(self.q_norm), rope, &mut q);
        let column = h / (self.heads / self.kv_heads) * self.dim;
        let (mut top, mut total) = (f32::NEG_INFINITY, 0.0);
        out.fill(0.0);
        for position in 0..=position {
            let k = &kv.keys[position * width + column..][..self.dim];
            let v = &kv.values[position * width + column..][..self.dim];
            let score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * self.scale();
            if score > top {
                let shrink = (top - score).exp();
                out.iter_mut().for_each(|o| *o *= shrink);
                total *= shrink;
                top = score;
            }
            let w = (score - top).exp();
            total += w;
            out.iter_mut().zip(v).for_each(|(o, v)| *o += w * v);
        }
        out.iter_mut().for_each(|o| *o /= total);
        if self.gate {
            out.iter_mut().zip(&x[self.dim..]).for_each(|(o, g)| *o *= sigmoid(*g));
        }
    }

    /// The step's keys and values into the cache: a dispatch for each window that the step reaches.
    fn dispatch_keys(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let window_rows = resident.kv_window(self.kv);
        let mut token = 0;
        while token < step.tokens {
            let position = step.position + token;
            let (window, first_row) = (position / window_rows, position % window_rows);
            let tokens = (window_rows - first_row).min(step.tokens - token);
            let immediates = Immediates::new(&[
                self.qkv.stride as u32,
                self.k_offset() as u32,
                self.v_offset() as u32,
                token as u32,
                first_row as u32,
                self.rotary_dim as u32,
                (self.kv_heads * self.dim) as u32,
                self.eps.to_bits(),
            ]);
            out.push(Dispatch::new(0, window, immediates, [self.kv_heads as u32, tokens as u32, 1]));
            token += tokens;
        }
    }
}

impl Kernel for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "columns of q, k and v", self.v_offset() + self.kv_heads * self.dim, self.qkv.width)?;
        expect(name, "columns of out", self.heads * self.dim, self.out.cols())?;
        expect(name, "q_norm", self.dim, recording.vectors[self.q_norm.0].1.len())?;
        expect(name, "k_norm", self.dim, recording.vectors[self.k_norm.0].1.len())?;
        expect(name, "width of the KV cache", self.kv_heads * self.dim, recording.kv[self.kv.0].width)?;
        expect(name, "offset of qkv and out", 0, self.qkv.offset + self.out.view().offset)?;
        if self.out.packed().is_some() {
            expect(name, "columns of a head beyond groups of 32", 0, self.dim % 32)?;
        }
        if self.dim > 256 || !self.dim.is_multiple_of(4) {
            return Err(shape_error(name, "head_dim", "a multiple of 4, at most 256", self.dim));
        }
        if self.rotary_dim > self.dim || !self.rotary_dim.is_multiple_of(2) {
            return Err(shape_error(name, "rotated elements", "an even number, at most head_dim", self.rotary_dim));
        }
        expect(name, "heads beyond whole groups", 0, self.heads % self.kv_heads)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out.view()]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        self.keep_keys_and_values(memory, step);
        let width = self.heads * self.dim;
        let mut rows = vec![0.0; step.tokens * width];
        rows.par_chunks_mut(self.dim).enumerate().for_each(|(i, out)| {
            let (t, h) = (i / self.heads, i % self.heads);
            self.attend(memory, t, h, step.position + t, out);
        });
        let view = self.out.view();
        let mut out = memory.take(view.tensor);
        for (t, values) in rows.chunks_exact(width).enumerate() {
            match self.out {
                Input::F32(_) => out[t * view.stride..][..width].copy_from_slice(values),
                Input::Int8(packed) => packed.pack_on_cpu(&mut out, t, values),
            }
        }
        memory.put_back(view.tensor, out);
    }

    fn scratch_bytes(&self, context: usize, tokens: usize) -> usize {
        // one split more: windows of the cache end with a split that is not full
        tokens * self.heads * (context.div_ceil(SPLIT) + 1) * (self.dim + 2) * 4
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let qkv = Binding::read(Resource::Tensor(self.qkv.tensor));
        let [q_norm, k_norm] = [self.q_norm, self.k_norm].map(|norm| Binding::read(Resource::Vector(norm)));
        let rope = Binding::read(Resource::Rope);
        let out = Binding::write(Resource::Tensor(self.out.view().tensor));
        let windows = 0..resident.kv_windows(self.kv);
        let cache = |w| [Resource::Keys(self.kv, w), Resource::Values(self.kv, w)].map(Binding::write);
        let keys = windows.clone().map(|w| [&[qkv, k_norm, rope][..], &cache(w)].concat()).collect();
        let scratch = Binding::write(Resource::Scratch);
        let splits = windows.map(|w| [&[qkv, q_norm, k_norm, rope][..], &cache(w), &[scratch, out]].concat()).collect();
        let head = [("dim", self.dim), ("half_rotary", self.rotary_dim / 2)];
        let heads = [("split", SPLIT), ("heads", self.heads), ("kv_heads", self.kv_heads), ("q_head", self.q_head())];
        let constants = |all: &[(&'static str, usize)]| -> Vec<_> {
            all.iter().map(|&(name, value)| (name, value as f64)).collect()
        };
        let packed = |threads| Quantised::constants(self.out.packed(), threads);
        let merge = vec![Binding::read(Resource::Scratch), qkv, out];
        vec![
            Stage { shader: "kv_norm_rope", constants: constants(&head), groups: keys },
            Stage {
                shader: "attention",
                constants: [constants(&[&head[..], &heads].concat()), packed(128)].concat(),
                groups: splits,
            },
            Stage { shader: "attention_merge", constants: packed(64), groups: vec![merge] },
        ]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        // a single token's key is made by those who need it
        let single = step.phase == Phase::Decode;
        if !single {
            self.dispatch_keys(resident, step, out);
        }
        let window_rows = resident.kv_window(self.kv);
        let positions = step.position + step.tokens;
        let splits_of = |rows: usize| rows.div_ceil(SPLIT);
        let windows = positions.div_ceil(window_rows);
        // every window but the last is full
        let splits = (windows - 1) * splits_of(window_rows) + splits_of(positions - (windows - 1) * window_rows);
        let token_bytes = self.heads * splits * (self.dim + 2) * 4;
        let at_once = (resident.scratch_bytes() / token_bytes).max(1);
        for first in (0..step.tokens).step_by(at_once) {
            let tokens = at_once.min(step.tokens - first);
            for window in 0..windows {
                let start = window * window_rows;
                let rows = window_rows.min(positions - start);
                let immediates = Immediates::new(&[
                    self.qkv.stride as u32,
                    first as u32,
                    (step.position + first) as u32,
                    start as u32,
                    rows as u32,
                    (window * splits_of(window_rows)) as u32,
                    splits as u32,
                    self.out.view().stride as u32,
                    self.rotary_dim as u32,
                    u32::from(single),
                    self.scale().to_bits(),
                    self.eps.to_bits(),
                ]);
                let grid = [self.heads as u32, splits_of(rows) as u32, tokens as u32];
                out.push(Dispatch::new(1, window, immediates, grid));
            }
            // a single split is its own result
            if splits == 1 {
                continue;
            }
            let immediates = Immediates::new(&[
                self.heads as u32,
                self.dim as u32,
                splits as u32,
                first as u32,
                self.out.view().stride as u32,
                self.dim as u32,
                self.qkv.stride as u32,
                if self.gate { self.q_head() as u32 } else { 0 },
            ]);
            let grid = [self.heads as u32, tokens as u32, 1];
            out.push(Dispatch::new(2, 0, immediates, grid));
        }
    }
}
