use rayon::prelude::*;

use super::sigmoid;
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{KvId, Recording, ShapeError, View, expect, shape_error};

/// Positions that one workgroup attends to. Fixed, so that results do not depend on the length of a step.
const SPLIT: usize = 512;

/// Causal attention of the step's queries over the KV cache, and the output gate.
pub struct Attention {
    /// `[tokens, heads * dim]`, normed and rotated, a whole tensor
    pub q: View,
    /// Keys and values of all positions up to the step's last.
    pub kv: KvId,
    /// Gate before the sigmoid: head `h` at column `h * stride_of_heads` of the view, and that stride.
    pub gate: Option<(View, usize)>,
    /// `[tokens, heads * dim]`, a whole tensor
    pub out: View,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub dim: usize,
}

impl Attention {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

impl Kernel for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "columns of q", self.heads * self.dim, self.q.width)?;
        expect(name, "columns of out", self.heads * self.dim, self.out.width)?;
        expect(name, "width of the KV cache", self.kv_heads * self.dim, recording.kv[self.kv.0].width)?;
        if self.dim > 256 || !self.dim.is_multiple_of(4) {
            return Err(shape_error(name, "head_dim", "a multiple of 4, at most 256", self.dim));
        }
        if let Some((gate, stride)) = self.gate
            && (self.heads - 1) * stride + self.dim > gate.width
        {
            return Err(shape_error(name, "columns of gate", (self.heads - 1) * stride + self.dim, gate.width));
        }
        expect(name, "heads beyond whole groups", 0, self.heads % self.kv_heads)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.out]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut out = memory.take(self.out.tensor);
        let q = memory.tensor(self.q.tensor);
        let kv = memory.kv(self.kv);
        let width = self.kv_heads * self.dim;
        out.par_chunks_mut(self.dim).take(step.tokens * self.heads).enumerate().for_each(|(i, out)| {
            let (t, h) = (i / self.heads, i % self.heads);
            let q = &row(q, self.q, t)[h * self.dim..][..self.dim];
            let column = h / (self.heads / self.kv_heads) * self.dim;
            let (mut top, mut total) = (f32::NEG_INFINITY, 0.0);
            out.fill(0.0);
            for position in 0..=step.position + t {
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
            if let Some((gate, stride)) = self.gate {
                let gate = &row(memory.tensor(gate.tensor), gate, t)[h * stride..][..self.dim];
                out.iter_mut().zip(gate).for_each(|(o, g)| *o *= sigmoid(*g));
            }
        });
        memory.put_back(self.out.tensor, out);
    }

    fn scratch_bytes(&self, context: usize, tokens: usize) -> usize {
        // one split more: windows of the cache end with a split that is not full
        tokens * self.heads * (context.div_ceil(SPLIT) + 1) * (self.dim + 2) * 4
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        // without a gate the kernels do not read it
        let gate = self.gate.map_or(self.q, |(gate, _)| gate);
        let groups = (0..resident.kv_windows(self.kv))
            .map(|window| {
                vec![
                    Binding::read(Resource::Tensor(self.q.tensor)),
                    Binding::read(Resource::Keys(self.kv, window)),
                    Binding::read(Resource::Values(self.kv, window)),
                    Binding::read(Resource::Tensor(gate.tensor)),
                    Binding::write(Resource::Scratch),
                    Binding::write(Resource::Tensor(self.out.tensor)),
                ]
            })
            .collect();
        let merge = vec![
            Binding::read(Resource::Scratch),
            Binding::read(Resource::Tensor(gate.tensor)),
            Binding::write(Resource::Tensor(self.out.tensor)),
        ];
        vec![
            Stage { shader: "attention", constants: vec![("split", SPLIT as f64)], groups },
            Stage { shader: "attention_merge", constants: vec![], groups: vec![merge] },
        ]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let window_rows = resident.kv_window(self.kv);
        let positions = step.position + step.tokens;
        let splits_of = |rows: usize| rows.div_ceil(SPLIT);
        let windows = positions.div_ceil(window_rows);
        // every window but the last is full
        let splits = (windows - 1) * splits_of(window_rows) + splits_of(positions - (windows - 1) * window_rows);
        let token_bytes = self.heads * splits * (self.dim + 2) * 4;
        let at_once = (resident.scratch_bytes() / token_bytes).max(1);
        let (gate_offset, gate_stride, gate_head) =
            self.gate.map_or((0, 0, 0), |(gate, head)| (gate.offset, gate.stride, head));
        for first in (0..step.tokens).step_by(at_once) {
            let tokens = at_once.min(step.tokens - first);
            for window in 0..windows {
                let start = window * window_rows;
                let rows = window_rows.min(positions - start);
                let immediates = Immediates::new(&[
                    self.heads as u32,
                    self.kv_heads as u32,
                    self.dim as u32,
                    self.q.stride as u32,
                    first as u32,
                    (step.position + first) as u32,
                    start as u32,
                    rows as u32,
                    (window * splits_of(window_rows)) as u32,
                    splits as u32,
                    self.scale().to_bits(),
                    self.out.stride as u32,
                    gate_offset as u32,
                    gate_stride as u32,
                    gate_head as u32,
                ]);
                let grid = [self.heads as u32, splits_of(rows) as u32, tokens as u32];
                out.push(Dispatch::new(0, window, immediates, grid));
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
                self.out.stride as u32,
                gate_offset as u32,
                gate_stride as u32,
                gate_head as u32,
            ]);
            let grid = [self.heads as u32, tokens as u32, 1];
            out.push(Dispatch::new(1, 0, immediates, grid));
        }
    }
}
