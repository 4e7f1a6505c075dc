//! The twin: keys and values to the cache in its format, and queries over runs of the cache that are unpacked for all heads
//! that share them.

use std::borrow::Cow;
use std::ops::Range;

use flashflood_formats::{CacheFormat, turn, turn_back};
use flashflood_vectors::{Attend, Instructions, Seen};
use rayon::prelude::*;

use super::{Attention, KEYS, VALUES};
use crate::compute::Step;
use crate::compute::cpu::{CpuMemory, at_least, row};
use crate::compute::ops::Input;
use crate::compute::ops::rms_norm::norm_row;

/// Positions that are unpacked at a time: with heads of 256 elements their keys and values take 128 kB.
const RUN: usize = 64;

/// The rows of one head of keys and values, as far as they are unpacked.
struct HeadRows<'a> {
    words: &'a [u32],
    format: CacheFormat,
    /// Words from one position to the next.
    row: usize,
    /// First word of the head in a row.
    first: usize,
    /// Of a head.
    dim: usize,
}

impl HeadRows<'_> {
    /// As they lie in the cache, where that is f32.
    fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.words[self.first..])
    }

    /// Some positions, one after the other.
    fn unpack<'a>(&self, run: Range<usize>, unpacked: &'a mut Vec<f32>) -> &'a [f32] {
        unpacked.resize(run.len() * self.dim, 0.0);
        for (position, head) in run.zip(unpacked.chunks_exact_mut(self.dim)) {
            let words = &self.words[position * self.row + self.first..][..self.format.words(self.dim)];
            self.format.unpack(words, head);
        }
        unpacked
    }
}

impl Attention {
    /// Columns `first..first + len` of a row of `qkv`, with their bias.
    fn columns<'a>(&self, memory: &CpuMemory, row: &'a [f32], first: usize, len: usize) -> Cow<'a, [f32]> {
        let columns = &row[first..][..len];
        match self.bias {
            Some(bias) => columns.iter().zip(&memory.vector(bias)[first..]).map(|(x, b)| x + b).collect(),
            None => columns.into(),
        }
    }

    fn norm_and_rotate(&self, x: &[f32], norm: Option<&[f32]>, rope: &[f32], out: &mut [f32]) {
        match norm {
            Some(weight) => norm_row(x, weight, self.eps, out),
            None => out.copy_from_slice(x),
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
        let formats = self.formats;
        let mut kv = memory.take_cache(self.kv);
        let (x, k_norm) = (memory.tensor(self.qkv.tensor), self.k_norm.map(|norm| memory.vector(norm)));
        let mut head = vec![0.0; self.dim];
        for t in 0..step.tokens {
            let x = row(x, self.qkv, t);
            for h in 0..self.kv_heads {
                for stream in [KEYS, VALUES] {
                    if stream == KEYS {
                        let k = self.columns(memory, x, self.k_offset() + h * self.dim, self.dim);
                        self.norm_and_rotate(&k, k_norm, memory.rope(t, self.rotary_dim), &mut head);
                    } else {
                        head.copy_from_slice(&self.columns(memory, x, self.v_offset() + h * self.dim, self.dim));
                    }
                    let (format, words) = (formats[stream], formats[stream].words(self.dim));
                    if format.is_turned() {
                        turn(&mut head);
                    }
                    let at = ((step.position + t) * self.kv_heads + h) * words;
                    format.pack(&head, &mut kv.words_mut(stream)[at..at + words]);
                }
            }
        }
        memory.put_back_cache(self.kv, kv);
    }

    /// Some query heads of token `t` of the step, at `position`, which share a head of keys and values.
    fn attend(&self, memory: &CpuMemory, t: usize, heads: Range<usize>, position: usize, out: &mut [f32]) {
        let x = row(memory.tensor(self.qkv.tensor), self.qkv, t);
        let x = self.columns(memory, x, heads.start * self.q_head(), heads.len() * self.q_head());
        let (q_norm, rope) = (self.q_norm.map(|norm| memory.vector(norm)), memory.rope(t, self.rotary_dim));
        let formats = self.formats;
        let mut q = vec![0.0; heads.len() * self.dim];
        let x = x.chunks_exact(self.q_head());
        for (q, x) in q.chunks_exact_mut(self.dim).zip(x.clone()) {
            self.norm_and_rotate(&x[..self.dim], q_norm, rope, q);
            if formats[KEYS].is_turned() {
                turn(q);
            }
        }
        let kv_head = heads.start / (self.heads / self.kv_heads);
        let rows_of = |stream: usize| {
            let words = formats[stream].words(self.dim);
            let (row, first) = (self.kv_heads * words, kv_head * words);
            HeadRows { words: memory.cache(self.kv).words(stream), format: formats[stream], row, first, dim: self.dim }
        };
        let (keys, values) = (rows_of(KEYS), rows_of(VALUES));
        let (first, end) = (self.first_seen(position), position + 1);
        // what need not be unpacked is one run
        let as_is = formats == [CacheFormat::F32; 2];
        let (run, stride) = if as_is { (end, keys.row) } else { (RUN, self.dim) };
        let sink = |h| self.sinks.map(|sinks| memory.vector(sinks)[h]);
        let mut seen: Vec<Seen> = heads.map(|h| Seen::begin(sink(h))).collect();
        let (mut unpacked_keys, mut unpacked_values) = (Vec::new(), Vec::new());
        out.fill(0.0);
        for from in (first / run * run..end).step_by(run) {
            let to = end.min(from + run);
            let keys = if as_is { keys.floats() } else { keys.unpack(from..to, &mut unpacked_keys) };
            let values = if as_is { values.floats() } else { values.unpack(from..to, &mut unpacked_values) };
            let (first, end) = (first.saturating_sub(from), to - from);
            let of = |q| Attend { q, keys, values, stride, first, end, scale: self.scale() };
            let queries: Vec<Attend<'_>> = q.chunks_exact(self.dim).map(of).collect();
            Instructions::best().attend(&queries, &mut seen, out);
        }
        Seen::end(&seen, out);
        if formats[VALUES].is_turned() {
            out.chunks_exact_mut(self.dim).for_each(turn_back);
        }
        if self.gate {
            for (out, x) in out.chunks_exact_mut(self.dim).zip(x) {
                Instructions::best().times_sigmoid(out, &x[self.dim..]);
            }
        }
    }

    /// Query heads that a thread takes together: all that share keys and values, unless threads would be left over.
    fn heads_at_once(&self, tokens: usize) -> usize {
        let (sharing, threads) = (self.heads / self.kv_heads, rayon::current_num_threads());
        let is_enough = |heads: &usize| sharing.is_multiple_of(*heads) && tokens * self.heads / heads >= threads;
        (1..=sharing).rev().find(is_enough).unwrap_or(1)
    }

    pub(super) fn compute(&self, memory: &mut CpuMemory, step: &Step) {
        self.keep_keys_and_values(memory, step);
        let width = self.heads * self.dim;
        let mut rows = vec![0.0; step.tokens * width];
        let seen = step.position + step.tokens;
        let at_once = self.heads_at_once(step.tokens);
        let heads = rows.par_chunks_mut(at_once * self.dim).enumerate();
        heads.with_min_len(at_least(at_once * seen * self.dim)).for_each(|(i, out)| {
            let (t, h) = (i * at_once / self.heads, i * at_once % self.heads);
            self.attend(memory, t, h..h + at_once, step.position + t, out);
        });
        let view = self.out.view();
        let mut out = memory.take(view.tensor);
        let out_rows = out.par_chunks_mut(view.stride).zip(rows.par_chunks_exact(width));
        out_rows.with_min_len(at_least(width)).for_each(|(out, values)| match self.out {
            Input::F32(_) => out[..width].copy_from_slice(values),
            Input::Int8(packed) => packed.pack_on_cpu(out, 0, values),
        });
        memory.put_back(view.tensor, out);
    }
}
