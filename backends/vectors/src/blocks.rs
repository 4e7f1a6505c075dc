//! Products with blocks of GGUF files and activations in 8 bits: of the types that files are mostly made of, as they are
//! stored. Others are separated into codes and scales first ([`Signed`](crate::Signed)).

#[cfg(target_arch = "aarch64")]
use crate::arm;
use crate::int8::Activations;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{Instructions, dispatch, portable};

/// A type of blocks that has loops of its own, by the name that llama.cpp has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, missing_docs, reason = "the names of the field")]
pub enum BlockKind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl BlockKind {
    /// All of them.
    pub const ALL: [BlockKind; 8] = [
        BlockKind::Q4_0,
        BlockKind::Q4_1,
        BlockKind::Q5_0,
        BlockKind::Q5_1,
        BlockKind::Q8_0,
        BlockKind::Q4_K,
        BlockKind::Q5_K,
        BlockKind::Q6_K,
    ];

    /// Columns and bytes of a block.
    pub const fn shape(self) -> (usize, usize) {
        match self {
            BlockKind::Q4_0 => (32, 18),
            BlockKind::Q4_1 => (32, 20),
            BlockKind::Q5_0 => (32, 22),
            BlockKind::Q5_1 => (32, 24),
            BlockKind::Q8_0 => (32, 34),
            BlockKind::Q4_K => (256, 144),
            BlockKind::Q5_K => (256, 176),
            BlockKind::Q6_K => (256, 210),
        }
    }

    /// What is added to codes before they are multiplied: [`Block::lost`](crate::Block::lost) takes it back.
    pub const fn offset(self) -> i32 {
        match self {
            BlockKind::Q4_0 => 8,
            BlockKind::Q5_0 => 16,
            BlockKind::Q8_0 => 128,
            BlockKind::Q6_K => 32,
            BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q4_K | BlockKind::Q5_K => 0,
        }
    }

    /// Blocks whose words are transposed together: of most types these are whole lines of memory.
    pub(crate) const fn at_once(self) -> usize {
        match self {
            BlockKind::Q6_K => 1,
            BlockKind::Q4_K | BlockKind::Q5_K => 4,
            _ => 32,
        }
    }
}

/// Rows of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// Their type.
    pub kind: BlockKind,
    /// Whole blocks.
    pub cols: usize,
    /// Row after row.
    pub bytes: &'a [u8],
}

impl Blocks<'_> {
    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        let (columns, bytes) = self.kind.shape();
        self.cols / columns * bytes
    }

    /// `[rows, tokens]` for the rows from `first` on, as many as `out` has room for, with activations in the order of
    /// columns. For each 32 columns, in order: with codes from 0 on `sum = fma(bias, x_sum, fma(products * x_scale, scale,
    /// sum))`; with signed codes the same without a bias; and with a scale for 16 columns
    /// `sum = fma(low * low_products + high * high_products, x_scale, sum)`.
    ///
    /// # Panics
    /// When rows are missing or activations have other columns: callers have checked shapes.
    pub fn times(&self, instructions: Instructions, first: usize, x: &Activations, out: &mut [f32]) {
        assert!(self.cols.is_multiple_of(self.kind.shape().0), "whole blocks");
        assert_eq!(x.blocks() * 32, self.cols, "activations of these columns");
        if out.is_empty() {
            return;
        }
        match self.kind {
            BlockKind::Q4_0 => dispatch!(instructions, blocks::<0>(self, first, x, out)),
            BlockKind::Q4_1 => dispatch!(instructions, blocks::<1>(self, first, x, out)),
            BlockKind::Q5_0 => dispatch!(instructions, blocks::<2>(self, first, x, out)),
            BlockKind::Q5_1 => dispatch!(instructions, blocks::<3>(self, first, x, out)),
            BlockKind::Q8_0 => dispatch!(instructions, blocks::<4>(self, first, x, out)),
            BlockKind::Q4_K => dispatch!(instructions, blocks::<5>(self, first, x, out)),
            BlockKind::Q5_K => dispatch!(instructions, blocks::<6>(self, first, x, out)),
            BlockKind::Q6_K => dispatch!(instructions, blocks::<7>(self, first, x, out)),
        }
    }
}
