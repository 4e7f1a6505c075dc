use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, row};
use crate::compute::kernel::{Binding, Dispatch, Immediates, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::recording::{KvId, Recording, ShapeError, VectorId, View, expect};

/// RMS norm and rotation of queries and keys, and the write of keys and values into the KV cache.
pub struct QkNormRope {
    /// `[tokens, q and gate | k | v]`, a whole tensor
    pub qkv: View,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub dim: usize,
    /// Rotated elements per head.
    pub rotary_dim: usize,
    /// Elements from one query head to the next: twice `dim` when the gate lies between.
    pub q_head: usize,
    /// `[dim]`
    pub q_norm: VectorId,
    /// `[dim]`
    pub k_norm: VectorId,
    /// `[tokens, heads * dim]`, a whole tensor
    pub q: View,
    /// Where keys and values go.
    pub kv: KvId,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl QkNormRope {
    fn k_offset(&self) -> usize {
        self.heads * self.q_head
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
}

impl Kernel for QkNormRope {
    fn name(&self) -> &'static str {
        "qk_norm_rope"
    }

    fn check(&self, recording: &Recording) -> Result<(), ShapeError> {
        let name = self.name();
        expect(name, "columns of q, k and v", self.v_offset() + self.kv_heads * self.dim, self.qkv.width)?;
        expect(name, "columns of q", self.heads * self.dim, self.q.width)?;
        expect(name, "q_norm", self.dim, recording.vectors[self.q_norm.0].1.len())?;
        expect(name, "k_norm", self.dim, recording.vectors[self.k_norm.0].1.len())?;
        expect(name, "width of the KV cache", self.kv_heads * self.dim, recording.kv[self.kv.0].width)?;
        expect(name, "offset of q, k and v", 0, self.qkv.offset + self.q.offset)
    }

    fn outputs(&self) -> Vec<View> {
        vec![self.q]
    }

    fn run_on_cpu(&self, memory: &mut CpuMemory, step: &Step) {
        let mut q = memory.take(self.q.tensor);
        let mut kv = memory.take_kv(self.kv);
        let x = memory.tensor(self.qkv.tensor);
        let (q_norm, k_norm) = (memory.vector(self.q_norm), memory.vector(self.k_norm));
        let width = self.kv_heads * self.dim;
        for t in 0..step.tokens {
            let x = row(x, self.qkv, t);
            let rope = memory.rope(t, self.rotary_dim);
            for h in 0..self.heads {
                let out = &mut q[t * self.q.stride + h * self.dim..][..self.dim];
                self.norm_and_rotate(&x[h * self.q_head..][..self.dim], q_norm, rope, out);
            }
            let at = (step.position + t) * width;
            for h in 0..self.kv_heads {
                let out = &mut kv.keys[at + h * self.dim..][..self.dim];
                self.norm_and_rotate(&x[self.k_offset() + h * self.dim..][..self.dim], k_norm, rope, out);
            }
            kv.values[at..at + width].copy_from_slice(&x[self.v_offset()..][..width]);
        }
        memory.put_back_kv(self.kv, kv);
        memory.put_back(self.q.tensor, q);
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let groups = (0..resident.kv_windows(self.kv))
            .map(|window| {
                vec![
                    Binding::read(Resource::Tensor(self.qkv.tensor)),
                    Binding::read(Resource::Vector(self.q_norm)),
                    Binding::read(Resource::Vector(self.k_norm)),
                    Binding::read(Resource::Rope),
                    Binding::write(Resource::Tensor(self.q.tensor)),
                    Binding::write(Resource::Keys(self.kv, window)),
                    Binding::write(Resource::Values(self.kv, window)),
                ]
            })
            .collect();
        vec![Stage { shader: "qk_norm_rope", constants: vec![], groups }]
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let window_rows = resident.kv_window(self.kv);
        let mut token = 0;
        // a step may reach from one window of the cache into the next
        while token < step.tokens {
            let position = step.position + token;
            let (window, first_row) = (position / window_rows, position % window_rows);
            let tokens = (window_rows - first_row).min(step.tokens - token);
            let immediates = Immediates::new(&[
                self.heads as u32,
                self.kv_heads as u32,
                self.dim as u32,
                (self.rotary_dim / 2) as u32,
                0,
                self.q_head as u32,
                self.k_offset() as u32,
                self.v_offset() as u32,
                self.qkv.stride as u32,
                self.q.stride as u32,
                token as u32,
                first_row as u32,
                self.eps.to_bits(),
                self.rotary_dim as u32,
            ]);
            let heads = self.heads + 2 * self.kv_heads;
            out.push(Dispatch::new(0, window, immediates, [heads as u32, tokens as u32, 1]));
            token += tokens;
        }
    }
}
