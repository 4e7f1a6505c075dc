//! Attention of the tokens of a prompt: keys and values to the cache, then queries in tiles of 32 rows, each against whole
//! splits of the cache (`wgsl/attention_prefill.wgsl` or, by matrix units, `attention_prefill_cooperative.wgsl`), then the
//! splits joined. Scratch bounds how many tokens go through at a time.

use flashflood_formats::CacheFormat;

use super::{Attention, stage};
use crate::compute::Step;
use crate::compute::kernel::{Dispatch, ResidentLayout, params};

/// Positions that one workgroup attends to: enough that what it leaves is little beside what it reads, and few enough that
/// a short chunk at the end of a long context fills a GPU. Fixed, so that results do not depend on the length of a step.
pub(super) const SPLIT: usize = 1024;

/// Threads that join the splits of a head.
pub(super) const MERGE_THREADS: usize = 64;

/// Queries of a KV head that a workgroup has.
pub(super) const TILE: usize = 32;

/// How tiles of queries go through a context.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Positions that one workgroup attends to.
    pub(super) split: usize,
    /// The stage that does it.
    pub(super) tiles: usize,
    /// The stage that joins the splits.
    pub(super) merge: usize,
}

/// Those of a prompt.
const OF_PROMPT: Tiles = Tiles { split: SPLIT, tiles: stage::TILES, merge: stage::MERGE };

impl Attention {
    /// Whether matrix units, where there are any, make it: where nothing was asked for in f32.
    pub(crate) fn fits_matrix_units(&self) -> bool {
        self.out.packed().is_some() && self.dim.is_multiple_of(64) && self.formats[0] != CacheFormat::F32
    }

    /// Queries that share a KV head.
    pub(super) fn queries_per_key(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of the queries of `tokens` tokens, in whole tiles.
    fn query_elements(&self, tokens: usize) -> usize {
        (tokens * self.queries_per_key()).next_multiple_of(TILE) * self.kv_heads * self.dim
    }

    /// Scratch of `tokens` tokens over so many splits, in bytes: their queries, and what these leave.
    pub(super) fn prefill_bytes(&self, splits: usize, tokens: usize) -> usize {
        (self.query_elements(tokens) + tokens * self.heads * splits * self.partial()) * 4
    }

    /// Tokens whose queries and splits `scratch` bytes hold; whole tiles where there are that many.
    fn at_once(&self, scratch: usize, splits: usize) -> usize {
        let padding = (TILE - 1) * self.kv_heads * self.dim * 4;
        let token = self.heads * (self.dim + splits * self.partial()) * 4;
        let tokens = scratch.saturating_sub(padding) / token;
        // an odd number of queries a token fills tiles after 32 tokens
        let whole = TILE >> self.queries_per_key().trailing_zeros().min(TILE.trailing_zeros());
        if tokens > whole { tokens / whole * whole } else { tokens.max(1) }
    }

    pub(super) fn dispatch_prefill(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        self.dispatch_keys(resident, step, out);
        let most_splits = self.split_count(resident, SPLIT, self.seen(step, 0, step.tokens));
        let at_once = self.at_once(resident.scratch_bytes(), most_splits);
        for first in (0..step.tokens).step_by(at_once) {
            self.dispatch_tiles(resident, step, first, at_once.min(step.tokens - first), OF_PROMPT, out);
        }
    }

    /// Tokens `first` to `first + tokens` of the step, whose keys are in the cache.
    pub(super) fn dispatch_tiles(
        &self,
        resident: &dyn ResidentLayout,
        step: &Step,
        first: usize,
        tokens: usize,
        how: Tiles,
        out: &mut Vec<Dispatch>,
    ) {
        let seen = self.seen(step, first, tokens);
        let splits = self.split_count(resident, how.split, seen.clone());
        let tiles = (tokens * self.queries_per_key()).div_ceil(TILE) as u32;
        let queries = params! {
            x_stride: self.qkv.stride as u32,
            first_token: first as u32,
            tiles,
            rope_stride: self.rotary_dim as u32,
            scale: self.scale().to_bits(),
            eps: self.eps.to_bits(),
            q_norm: Self::offset_of(resident, self.q_norm),
            bias: Self::offset_of(resident, self.bias),
        };
        out.push(Dispatch::new(stage::QUERIES, 0, queries, [self.heads as u32, tokens as u32, 1]));
        for of_window in self.splits(resident, how.split, seen) {
            let immediates = params! {
                tokens: tokens as u32,
                position: (step.position + first) as u32,
                window_start: of_window.start as u32,
                window_rows: of_window.rows as u32,
                first_split: of_window.before as u32,
                splits: splits as u32,
                tiles,
                first_split_row: of_window.first_row as u32,
                reach: self.window.unwrap_or(0) as u32,
            };
            let grid = [tiles, of_window.splits as u32, self.kv_heads as u32];
            let beside = of_window.before > 0;
            out.push(Dispatch { beside, ..Dispatch::new(how.tiles, of_window.window, immediates, grid) });
        }
        out.push(self.merge(resident, how.merge, self.query_elements(tokens), splits, first, tokens));
    }

    /// The step's keys and values into the cache: a dispatch for each window that the step reaches.
    pub(super) fn dispatch_keys(&self, resident: &dyn ResidentLayout, step: &Step, out: &mut Vec<Dispatch>) {
        let window_rows = resident.cache_window(self.kv);
        let mut token = 0;
        while token < step.tokens {
            let position = step.position + token;
            let (window, first_row) = (position / window_rows, position % window_rows);
            let tokens = (window_rows - first_row).min(step.tokens - token);
            let immediates = params! {
                x_stride: self.qkv.stride as u32,
                k_offset: self.k_offset() as u32,
                v_offset: self.v_offset() as u32,
                first_token: token as u32,
                first_row: first_row as u32,
                rope_stride: self.rotary_dim as u32,
                kv_heads: self.kv_heads as u32,
                eps: self.eps.to_bits(),
                k_norm: Self::offset_of(resident, self.k_norm),
                bias: Self::offset_of(resident, self.bias),
            };
            out.push(Dispatch::new(stage::KEYS, window, immediates, [self.kv_heads as u32, tokens as u32, 1]));
            token += tokens;
        }
    }

    /// The splits of `tokens` tokens joined by `stage`, which begin at element `partials` of the scratch.
    pub(super) fn merge(
        &self,
        resident: &dyn ResidentLayout,
        stage: usize,
        partials: usize,
        splits: usize,
        first_token: usize,
        tokens: usize,
    ) -> Dispatch {
        let immediates = params! {
            heads: self.heads as u32,
            dim: self.dim as u32,
            splits: splits as u32,
            first_token: first_token as u32,
            out_stride: self.out.view().stride as u32,
            gate_offset: self.dim as u32,
            gate_stride: self.qkv.stride as u32,
            gate_head: if self.gate { self.q_head() as u32 } else { 0 },
            first: (partials / 4) as u32,
            bias: Self::offset_of(resident, self.bias),
            sinks: Self::offset_of(resident, self.sinks),
        };
        Dispatch::new(stage, 0, immediates, [self.heads as u32, tokens as u32, 1])
    }
}
