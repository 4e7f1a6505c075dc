mod prefill;

use rayon::prelude::*;

use super::{Input, Quantised, sigmoid};
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{KvId, Recording, ShapeError, VectorId, View, expect, shape_error};
use crate::compute::{Phase, Step};

/// Positions that one workgroup attends to in decode.
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

    /// Elements that a query leaves for a split: the largest score, the sum of the exponentials, two of padding, and the
    /// output before it is divided.
    fn partial(&self) -> usize {
        self.dim + 4
    }

    /// WGSL constants of the layer's shape.
    fn constants(&self, names: &[&'static str]) -> Vec<(&'static str, f64)> {
        let value = |name: &str| match name {
            "dim" => self.dim,
            "half_rotary" => self.rotary_dim / 2,
            "heads" => self.heads,
            "kv_heads" => self.kv_heads,
            _ => self.q_head(),
        };
        names.iter().map(|&name| (name, value(name) as f64)).collect()
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

    /// Splits of `split` positions each in so many positions of a cache: windows begin with a split.
    fn splits(&self, resident: &dyn ResidentLayout, split: usize, positions: usize) -> usize {
        let window_rows = resident.kv_window(self.kv);
        // every window but the last is full
        let full = (positions - 1) / window_rows;
        full * window_rows.div_ceil(split) + (positions - full * window_rows).div_ceil(split)
    }

    /// The splits of `tokens` tokens joined, which begin at element `partials` of the scratch.
    fn dispatch_merge(&self, partials: usize, splits: usize, first_token: usize, tokens: usize) -> Dispatch {
        let immediates = Immediates::new(&[
            self.heads as u32,
            self.dim as u32,
            splits as u32,
            first_token as u32,
            self.out.view().stride as u32,
            self.dim as u32,
            self.qkv.stride as u32,
            if self.gate { self.q_head() as u32 } else { 0 },
            partials as u32,
        ]);
        Dispatch::new(2, 0, immediates, [self.heads as u32, tokens as u32, 1])
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
        let splits = context.div_ceil(SPLIT) + 1;
        // splits of prefill are longer
        self.prefill_bytes(splits, tokens).max(self.heads * splits * self.partial() * 4)
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let qkv = Binding::read(Resource::Tensor(self.qkv.tensor));
        let [q_norm, k_norm] = [self.q_norm, self.k_norm].map(|norm| Binding::read(Resource::Vector(norm)));
        let rope = Binding::read(Resource::Rope);
        let out = Binding::write(Resource::Tensor(self.out.view().tensor));
        let windows = 0..resident.kv_windows(self.kv);
        let cache = |w| [Resource::Keys(self.kv, w), Resource::Values(self.kv, w)];
        let written = |w| cache(w).map(Binding::write);
        let scratch = Binding::write(Resource::Scratch);
        let keys = windows.clone().map(|w| [&[qkv, k_norm, rope][..], &written(w)].concat()).collect();
        let splits = windows
            .clone()
            .map(|w| [&[qkv, q_norm, k_norm, rope][..], &written(w), &[scratch, out]].concat())
            .collect();
        let runs = windows.map(|w| [&cache(w).map(Binding::read)[..], &[scratch]].concat()).collect();
        let packed = |threads| Quantised::constants(self.out.packed(), threads);
        let merge = vec![Binding::read(Resource::Scratch), qkv, out];
        vec![
            Stage { shader: "kv_norm_rope", constants: self.constants(&["dim", "half_rotary"]), groups: keys },
            Stage {
                shader: "attention",
                constants: [
                    self.constants(&["dim", "half_rotary", "heads", "kv_heads", "q_head"]),
                    vec![("split", SPLIT as f64)],
                    packed(128),
                ]
                .concat(),
                groups: splits,
            },
            Stage { shader: "attention_merge", constants: packed(64), groups: vec![merge] },
            Stage {
                shader: "query_norm_rope",
                constants: self.constants(&["dim", "half_rotary", "heads", "kv_heads", "q_head"]),
                groups: vec![vec![qkv, q_norm, rope, scratch]],
            },
            Stage {
                shader: "attention_prefill",
                constants: [self.constants(&["dim", "heads", "kv_heads"]), vec![("split", prefill::SPLIT as f64)]]
                    .concat(),
                groups: runs,
            },
        ]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        if step.phase == Phase::Prefill {
            return self.dispatch_prefill(resident, step, out);
        }
        let window_rows = resident.kv_window(self.kv);
        let positions = step.position + 1;
        let splits = self.splits(resident, SPLIT, positions);
        for window in 0..positions.div_ceil(window_rows) {
            let start = window * window_rows;
            let rows = window_rows.min(positions - start);
            let immediates = Immediates::new(&[
                step.position as u32,
                start as u32,
                rows as u32,
                (window * window_rows.div_ceil(SPLIT)) as u32,
                splits as u32,
                self.scale().to_bits(),
                self.eps.to_bits(),
            ]);
            out.push(Dispatch::new(1, window, immediates, [self.heads as u32, rows.div_ceil(SPLIT) as u32, 1]));
        }
        // a single split is its own result
        if splits > 1 {
            out.push(self.dispatch_merge(0, splits, 0, 1));
        }
    }
}
