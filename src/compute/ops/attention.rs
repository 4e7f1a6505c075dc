mod cpu;
mod decode;
mod prefill;

use std::ops::Range;

use flashflood_formats::CacheFormat;

use super::{Input, Quantised};
use crate::compute::cpu::CpuMemory;
use crate::compute::kernel::{Binding, Dispatch, Kernel, ResidentLayout, Resource, Stage};
use crate::compute::op::{Operand, Use};
use crate::compute::recording::{CacheId, CacheStream, Recording, ShapeError, VectorId, View, expect, shape_error};
use crate::compute::shaders::cached::{suffix_of, turned, with_suffix};
use crate::compute::{Phase, Step};

/// Streams of the cache.
const KEYS: usize = 0;
const VALUES: usize = 1;

/// Its kernels, by their places in [`Kernel::stages`].
mod stage {
    /// The step's keys and values into the cache.
    pub(super) const KEYS: usize = 0;
    /// All of a token's attention, or what each split of it comes to.
    pub(super) const TOKEN: usize = 1;
    /// Splits of a prompt joined.
    pub(super) const MERGE: usize = 2;
    /// Queries as tiles take them.
    pub(super) const QUERIES: usize = 3;
    /// What each split of a tile of queries comes to.
    pub(super) const TILES: usize = 4;
    /// Splits of a token joined.
    pub(super) const MERGE_OF_TOKEN: usize = 5;
    /// What each split of a token deep in a context comes to, for each of `TILE_SPLITS`; only where tiles make it.
    pub(super) const TILE_OF_TOKEN: usize = 6;
}

/// Bias, RMS norm and rotation of queries and keys, the write of keys and values into the KV cache, causal attention of the
/// step's queries over it, and the output gate. What is optional costs nothing where it is absent.
#[derive(Clone)]
pub(crate) struct Attention {
    /// `[tokens, q | k | v]`, a whole tensor; with a gate the elements of a query head are followed by those of its gate,
    /// before the sigmoid
    pub qkv: View,
    /// `[dim]`; without it queries are rotated as they are.
    pub q_norm: Option<VectorId>,
    /// `[dim]`; without it keys are rotated as they are.
    pub k_norm: Option<VectorId>,
    /// Added to every column of `qkv` before anything else.
    pub bias: Option<VectorId>,
    /// `[heads]`: a score that every query of a head has beside those of the positions, and that weighs nothing.
    pub sinks: Option<VectorId>,
    /// Positions that a query sees, its own and those in front of it; all without it.
    pub window: Option<usize>,
    /// Keys and values of all positions: its streams 0 and 1.
    pub kv: CacheId,
    /// How those are stored.
    pub formats: [CacheFormat; 2],
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

    /// WGSL constants of the layer's shape: dim, half_rotary, heads, kv_heads and q_head.
    fn constants(&self) -> [(&'static str, f64); 5] {
        [
            ("dim", self.dim as f64),
            ("half_rotary", (self.rotary_dim / 2) as f64),
            ("heads", self.heads as f64),
            ("kv_heads", self.kv_heads as f64),
            ("q_head", self.q_head() as f64),
        ]
    }

    fn k_offset(&self) -> usize {
        self.heads * self.q_head()
    }

    fn v_offset(&self) -> usize {
        self.k_offset() + self.kv_heads * self.dim
    }

    /// WGSL constants that say which operands there are: q_norm, k_norm, bias, sinks and window.
    fn presence(&self) -> [(&'static str, f64); 5] {
        let number = |is_there: bool| f64::from(u8::from(is_there));
        [
            ("has_q_norm", number(self.q_norm.is_some())),
            ("has_k_norm", number(self.k_norm.is_some())),
            ("has_bias", number(self.bias.is_some())),
            ("has_sinks", number(self.sinks.is_some())),
            ("has_reach", number(self.window.is_some())),
        ]
    }

    /// Positions that some of the step's tokens `first` to `first + tokens` see.
    fn seen(&self, step: &Step, first: usize, tokens: usize) -> Range<usize> {
        self.first_seen(step.position + first)..step.position + first + tokens
    }

    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The splits of `split` positions each that hold one of `positions`, by windows of the cache, which begin with a
    /// split.
    fn splits(
        &self,
        resident: &dyn ResidentLayout,
        split: usize,
        positions: Range<usize>,
    ) -> impl Iterator<Item = WindowSplits> + use<> {
        let window_rows = resident.cache_window(self.kv);
        let mut before = 0;
        (positions.start / window_rows..positions.end.div_ceil(window_rows)).map(move |window| {
            let start = window * window_rows;
            let rows = window_rows.min(positions.end - start);
            let first_seen = positions.start.saturating_sub(start);
            let first_row = first_seen / split * split;
            let splits = (rows - first_row).div_ceil(split);
            before += splits;
            WindowSplits { window, start, rows, first_seen, first_row, splits, before: before - splits }
        })
    }

    /// How many those are.
    fn split_count(&self, resident: &dyn ResidentLayout, split: usize, positions: Range<usize>) -> usize {
        self.splits(resident, split, positions).map(|of_window| of_window.splits).sum()
    }

    /// Where an optional vector begins among all vectors.
    fn offset_of(resident: &dyn ResidentLayout, vector: Option<VectorId>) -> u32 {
        vector.map_or(0, |vector| resident.vector_offset(vector) as u32)
    }
}

/// The splits of one window of a cache that are looked at.
#[derive(Clone, Copy, Debug)]
struct WindowSplits {
    /// Which window.
    window: usize,
    /// Position of its row 0.
    start: usize,
    /// Rows that are filled.
    rows: usize,
    /// The row that is seen first.
    first_seen: usize,
    /// Row of the first split.
    first_row: usize,
    splits: usize,
    /// Splits of the windows in front of it.
    before: usize,
}

impl Attention {
    /// See [`Op::operands`](crate::compute::Op).
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        vec![(Use::Read, &mut self.qkv), (Use::Write, self.out.view_mut())]
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
        let optional = [
            ("q_norm", self.q_norm, self.dim),
            ("k_norm", self.k_norm, self.dim),
            ("bias", self.bias, self.qkv.width),
            ("sinks", self.sinks, self.heads),
        ];
        for (what, vector, len) in optional {
            vector.map_or(Ok(()), |vector| expect(name, what, len, recording.vectors[vector.0].1.len()))?;
        }
        if self.window == Some(0) {
            return Err(shape_error(name, "window", "at least 1 position", 0));
        }
        let streams = &recording.caches[self.kv.0].streams;
        expect(name, "streams of the cache", 2, streams.len())?;
        if suffix_of(self.formats).is_none() {
            let [keys, values] = self.formats;
            return Err(shape_error(name, "formats of keys and values", "a pair of --kv", format!("{keys}, {values}")));
        }
        for (CacheStream { width, format, .. }, expected) in streams.iter().zip(self.formats) {
            expect(name, "width of the KV cache", self.kv_heads * self.dim, *width)?;
            if *format != expected {
                return Err(shape_error(name, "format of the KV cache", expected, format));
            }
            if let CacheFormat::Q8 { head } | CacheFormat::Tq4 { head } = format {
                expect(name, "elements of a head of the KV cache", self.dim, *head)?;
            }
            if !format.takes(self.dim) {
                // the hint is for people who chose it
                let expected = "a multiple of 32, at most 256 (hint: --kv q8)";
                return Err(shape_error(name, &format!("elements of a head for {format}"), expected, self.dim));
            }
        }
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
        self.compute(memory, step);
    }

    fn scratch_bytes(&self, context: usize, tokens: usize) -> usize {
        // one split more: windows of the cache end with a split that is not full
        let splits = |of: usize| context.div_ceil(of) + 1;
        let of_token = self.prefill_bytes(splits(decode::SPLIT).max(decode::most_tile_splits(context)), 1);
        self.prefill_bytes(splits(prefill::SPLIT), tokens).max(of_token)
    }

    fn stages(&self, resident: &dyn ResidentLayout) -> Vec<Stage> {
        let qkv = Binding::read(Resource::Tensor(self.qkv.tensor));
        let vectors = Binding::read(Resource::Vectors);
        let rope = Binding::read(Resource::Rope);
        let out = Binding::write(Resource::Tensor(self.out.view().tensor));
        let windows = 0..resident.cache_windows(self.kv);
        let cache = |w| [KEYS, VALUES].map(|stream| Resource::Cache(self.kv, stream, w));
        let written = |w| cache(w).map(Binding::write);
        let scratch = Binding::write(Resource::Scratch);
        let keys = windows.clone().map(|w| [&[qkv, vectors, rope][..], &written(w)].concat()).collect();
        let splits =
            windows.clone().map(|w| [&[qkv, vectors, rope][..], &written(w), &[scratch, out]].concat()).collect();
        let runs: Vec<Vec<Binding>> =
            windows.map(|w| [&cache(w).map(Binding::read)[..], &[scratch]].concat()).collect();
        let packed = |threads| Quantised::constants(self.out.packed(), threads);
        let joined = vec![Binding::read(Resource::Scratch), qkv, vectors, out];
        let [dim, half_rotary, heads, kv_heads, q_head] = self.constants();
        let [has_q_norm, has_k_norm, has_bias, has_sinks, has_reach] = self.presence();
        // pairs that have no kernels do not get past the check
        let suffix = suffix_of(self.formats).unwrap_or_default();
        let by_format = |kernel| with_suffix(kernel, suffix);
        let [keys_format, values_format] = self.formats;
        let of_queries = [dim, half_rotary, heads, kv_heads, q_head, has_q_norm, has_bias];
        let merge = |threads: usize, sharers: usize| Stage {
            shader: turned("attention_merge", values_format.is_turned()),
            constants: [
                &[has_bias, has_sinks, ("threads", threads as f64), ("sharers", sharers as f64)],
                &packed(threads)[..],
            ]
            .concat(),
            groups: vec![joined.clone()],
        };
        let on_matrix_units = resident.cooperative_attention() && self.fits_matrix_units();
        let tiles = |split: usize, rows: usize| Stage {
            shader: by_format(match on_matrix_units {
                true => "attention_prefill_cooperative",
                false => "attention_prefill",
            }),
            constants: [dim, heads, kv_heads, has_reach, ("split", split as f64)]
                .into_iter()
                .chain(on_matrix_units.then_some(("rows", rows as f64)))
                .collect(),
            groups: runs.clone(),
        };
        let mut stages = vec![
            Stage {
                shader: by_format("kv_norm_rope"),
                constants: vec![dim, half_rotary, has_k_norm, has_bias],
                groups: keys,
            },
            Stage {
                shader: by_format("attention"),
                constants: [
                    &of_queries[..],
                    &[has_k_norm, has_sinks, ("split", decode::SPLIT as f64)],
                    &packed(decode::THREADS),
                ]
                .concat(),
                groups: splits,
            },
            merge(prefill::MERGE_THREADS, 1),
            Stage {
                shader: turned("query_norm_rope", keys_format.is_turned()),
                constants: of_queries.into(),
                groups: vec![vec![qkv, vectors, rope, scratch]],
            },
            tiles(prefill::SPLIT, prefill::TILE),
            merge(decode::MERGE_THREADS, decode::MERGE_THREADS / (self.dim / 4)),
        ];
        if self.deep_from(resident).is_some() {
            let rows = self.queries_per_key().next_multiple_of(16).min(prefill::TILE);
            stages.extend(decode::TILE_SPLITS.map(|(_, split)| tiles(split, rows)));
        }
        stages
    }

    fn dispatch(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        match step.phase {
            Phase::Prefill => self.dispatch_prefill(resident, step, out),
            Phase::Decode => self.dispatch_decode(resident, step, out),
        }
    }
}
