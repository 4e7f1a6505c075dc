//! The gated delta rule over a prompt, by chunks of tokens. Within a chunk all tokens are computed together: what a token
//! is corrected by depends on the tokens before it through a small triangular system, and on what came before the chunk
//! through the state. Five stages, see `wgsl/delta_net_*.wgsl`:
//!
//! - `inputs`: convolution, unit lengths, decay and β of all tokens
//! - `solve`: what ties the tokens of a chunk to each other, for all chunks
//! - `chunks`: the state, chunk after chunk, for blocks of its columns
//! - `norm`: the gated norm of all tokens
//! - `keep`: the convolution's last inputs, once a step
//!
//! Chunks are counted from the first token of the step, or of the part of it that follows a mark. A prompt that is cut into steps at multiples of [`CHUNK`] gives the
//! same bits however it is cut; another cut adds up in another order, and agrees within rounding.

use std::ops::Range;

use super::{DeltaNet, DeltaNetShape};
use crate::compute::kernel::{Binding, Dispatch, ResidentLayout, Resource, Stage, params};
use crate::compute::ops::Quantised;

/// Tokens that are computed together.
const CHUNK: usize = 32;

impl DeltaNet {
    /// Columns of the state that a workgroup has: with all rows of them they fill at most half of 16 KiB.
    pub(super) fn columns(&self) -> usize {
        if self.shape.key_dim > 128 { 8 } else { 16 }
    }

    /// Columns of a row of values in the scratch: whole blocks of [`DeltaNet::columns`].
    pub(super) fn value_columns(&self) -> usize {
        self.shape.value_dim.next_multiple_of(self.columns())
    }

    /// Scratch of a run of `tokens` tokens, in bytes: see `wgsl/shared/delta_net_scratch.wgsl`.
    pub(super) fn prefill_bytes(&self, tokens: usize) -> usize {
        let s = &self.shape;
        let vec4s = 3 * s.key_heads * s.key_dim.div_ceil(4) + s.value_heads * (self.value_columns() / 4 + 17);
        tokens.next_multiple_of(CHUNK) * vec4s * 16
    }

    /// Whether matrix units, where there are any, take the state through the chunks: where nothing was asked for in f32.
    fn fits_matrix_units(&self) -> bool {
        let DeltaNetShape { key_dim, value_dim, .. } = self.shape;
        self.out.packed().is_some() && matches!(key_dim, 64 | 128) && value_dim.is_multiple_of(16)
    }

    pub(super) fn prefill_stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let x = Binding::read(Resource::Tensor(self.qkv.tensor));
        let vectors = [self.weight, self.a_log, self.dt_bias].map(|v| Binding::read(Resource::Vector(v)));
        let conv = Resource::Tensor(self.conv.tensor);
        let (read, write) = (Binding::read(Resource::Scratch), Binding::write(Resource::Scratch));
        let state = Binding::write(Resource::Tensor(self.state.tensor));
        let norm = Binding::read(Resource::Vector(self.norm));
        let out = Binding::write(Resource::Tensor(self.out.view().tensor));
        let stage = |shader, constants: &[(&'static str, f64)], bindings: &[Binding]| Stage {
            shader,
            constants: constants.to_vec(),
            groups: vec![bindings.to_vec()],
        };
        let [taps, key_dim, value_dim, side_by_side] = self.constants();
        let value4 = ("value4", (self.value_columns() / 4) as f64);
        let columns4 = ("columns4", (self.columns() / 4) as f64);
        let inputs = [&[x], &vectors[..], &[Binding::read(conv), write]].concat();
        let of_norm = [&[key_dim, value_dim, value4][..], &Quantised::constants(self.out.packed(), 64)].concat();
        vec![
            stage("delta_net_inputs", &[taps, key_dim, value_dim, side_by_side, value4], &inputs),
            stage("delta_net_solve", &[key_dim, side_by_side, value4], &[write]),
            match resident.cooperative_delta_net() && self.fits_matrix_units() {
                true => stage("delta_net_chunks_cooperative", &[key_dim, side_by_side, value4], &[write, state]),
                false => {
                    stage("delta_net_chunks", &[key_dim, value_dim, side_by_side, value4, columns4], &[write, state])
                }
            },
            stage("delta_net_norm", &of_norm, &[x, norm, read, out]),
            stage("delta_net_keep", &[taps, key_dim, value_dim, side_by_side], &[x, Binding::write(conv)]),
        ]
    }

    /// The tokens `part` of a step, in runs of as many chunks as `scratch` bytes hold through all stages but the last.
    pub(super) fn dispatch_prefill(&self, scratch: usize, part: Range<usize>, out: &mut Vec<Dispatch>) {
        let s = &self.shape;
        let heads = [s.key_heads as u32, s.value_heads as u32];
        let at_once = (scratch / self.prefill_bytes(CHUNK)).max(1) * CHUNK;
        for first in part.clone().step_by(at_once) {
            let run = at_once.min(part.end - first);
            let rows = run.next_multiple_of(CHUNK) as u32;
            let (first, chunks) = (first as u32, rows / CHUNK as u32);
            let mut push = |stage, immediates, grid| out.push(Dispatch::new(stage, 0, immediates, grid));
            let inputs = params! {
                tokens: part.end as u32,
                first,
                rows,
                key_heads: heads[0],
                value_heads: heads[1],
                x_stride: self.qkv.stride as u32,
                u_offset: self.qkv.offset as u32,
                a_offset: self.a.offset as u32,
                b_offset: self.b.offset as u32,
                conv_stride: self.conv.stride as u32,
                q_scale: self.q_scale().to_bits(),
            };
            push(1, inputs, [2 * heads[0] + heads[1], rows, 1]);
            let solve = params! { rows, key_heads: heads[0], value_heads: heads[1] };
            push(2, solve, [heads[1], chunks, 1]);
            let blocks = (self.value_columns() / self.columns()) as u32;
            let state_stride = self.state.stride as u32;
            let of_chunks = params! { rows, key_heads: heads[0], value_heads: heads[1], state_stride };
            push(3, of_chunks, [heads[1], blocks, 1]);
            let norm = params! {
                first,
                rows,
                key_heads: heads[0],
                value_heads: heads[1],
                x_stride: self.qkv.stride as u32,
                z_offset: self.z.offset as u32,
                out_stride: self.out.view().stride as u32,
                eps: self.eps.to_bits(),
                dim: (s.value_dim as f32).to_bits(),
            };
            push(4, norm, [heads[1], run as u32, 1]);
        }
        let [key_heads, value_heads] = heads;
        let keep = params! {
            tokens: part.end as u32,
            key_heads,
            x_stride: self.qkv.stride as u32,
            u_offset: self.qkv.offset as u32,
            conv_stride: self.conv.stride as u32,
        };
        out.push(Dispatch::new(5, 0, keep, [value_heads, 1, 1]));
    }
}
