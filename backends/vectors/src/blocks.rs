//! Products with blocks of GGUF files and activations in 8 bits, of every type, as they are stored.

#[cfg(target_arch = "aarch64")]
use crate::arm;
use crate::int8::Activations;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{Instructions, dispatch, portable};

/// A type of blocks, by the name that llama.cpp has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, missing_docs, reason = "the names of the field")]
pub enum BlockKind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    IQ1_M,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

/// What weights of IQ2 and IQ3 are larger by as codes: all of these have 7 bits.
pub(crate) const SIGNED_OFFSET: i32 = 64;

impl BlockKind {
    /// All of them.
    pub const ALL: [BlockKind; 23] = [
        BlockKind::Q4_0,
        BlockKind::Q4_1,
        BlockKind::Q5_0,
        BlockKind::Q5_1,
        BlockKind::Q8_0,
        BlockKind::Q2_K,
        BlockKind::Q3_K,
        BlockKind::Q4_K,
        BlockKind::Q5_K,
        BlockKind::Q6_K,
        BlockKind::IQ2_XXS,
        BlockKind::IQ2_XS,
        BlockKind::IQ3_XXS,
        BlockKind::IQ1_S,
        BlockKind::IQ4_NL,
        BlockKind::IQ3_S,
        BlockKind::IQ2_S,
        BlockKind::IQ4_XS,
        BlockKind::IQ1_M,
        BlockKind::TQ1_0,
        BlockKind::TQ2_0,
        BlockKind::MXFP4,
        BlockKind::NVFP4,
    ];

    /// Columns and bytes of a block.
    pub const fn shape(self) -> (usize, usize) {
        match self {
            BlockKind::Q4_0 | BlockKind::IQ4_NL => (32, 18),
            BlockKind::Q4_1 => (32, 20),
            BlockKind::Q5_0 => (32, 22),
            BlockKind::Q5_1 => (32, 24),
            BlockKind::Q8_0 => (32, 34),
            BlockKind::Q2_K => (256, 84),
            BlockKind::Q3_K | BlockKind::IQ3_S => (256, 110),
            BlockKind::Q4_K => (256, 144),
            BlockKind::Q5_K => (256, 176),
            BlockKind::Q6_K => (256, 210),
            BlockKind::IQ2_XXS | BlockKind::TQ2_0 => (256, 66),
            BlockKind::IQ2_XS => (256, 74),
            BlockKind::IQ3_XXS => (256, 98),
            BlockKind::IQ1_S => (256, 50),
            BlockKind::IQ2_S => (256, 82),
            BlockKind::IQ4_XS => (256, 136),
            BlockKind::IQ1_M => (256, 56),
            BlockKind::TQ1_0 => (256, 54),
            BlockKind::MXFP4 => (32, 17),
            BlockKind::NVFP4 => (64, 36),
        }
    }

    /// What is added to codes before they are multiplied: [`Block::lost`](crate::Block::lost) takes it back.
    pub const fn offset(self) -> i32 {
        match self {
            BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q2_K | BlockKind::Q4_K | BlockKind::Q5_K => 0,
            BlockKind::TQ1_0 | BlockKind::TQ2_0 => 1,
            BlockKind::Q3_K => 4,
            BlockKind::Q4_0 => 8,
            BlockKind::IQ1_S | BlockKind::IQ1_M => 9,
            BlockKind::MXFP4 | BlockKind::NVFP4 => 12,
            BlockKind::Q5_0 => 16,
            BlockKind::Q6_K => 32,
            BlockKind::IQ2_XXS | BlockKind::IQ2_XS | BlockKind::IQ2_S | BlockKind::IQ3_XXS | BlockKind::IQ3_S => {
                SIGNED_OFFSET
            }
            BlockKind::Q8_0 | BlockKind::IQ4_NL | BlockKind::IQ4_XS => 128,
        }
    }

    /// Entries of the grid that it is looked up in, one word each; a power of two, or 0.
    ///
    /// Of IQ1 and IQ2 a word has the levels of eight columns, four bits each: of the first four columns in the low halves of
    /// its bytes. Levels of IQ2 are 0, 1, 2 for the magnitudes 8, 25, 43; of IQ1 for -1, 0, 1. Of IQ3 a word has four bytes,
    /// magnitudes and 64.
    pub const fn grid(self) -> usize {
        match self {
            BlockKind::IQ2_XXS | BlockKind::IQ3_XXS => 256,
            BlockKind::IQ2_XS | BlockKind::IQ3_S => 512,
            BlockKind::IQ2_S => 1024,
            BlockKind::IQ1_S | BlockKind::IQ1_M => 2048,
            _ => 0,
        }
    }

    /// Blocks whose words are transposed together: of most types these are whole lines of memory.
    pub(crate) const fn at_once(self) -> usize {
        match self {
            BlockKind::Q6_K => 1,
            BlockKind::NVFP4 => 16,
            _ => match self.shape() {
                (256, 84..) => 4,
                (256, _) => 8,
                _ => 32,
            },
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
    /// As [`BlockKind::grid`] says.
    pub grid: &'a [u32],
}

impl Blocks<'_> {
    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        let (columns, bytes) = self.kind.shape();
        self.cols / columns * bytes
    }

    /// `[rows, tokens]` for the rows from `first` on, as many as `out` has room for, with activations in the order of
    /// columns. For each 32 columns, in order: with codes from 0 on `sum = fma(bias, x_sum, fma(products * x_scale, scale,
    /// sum))`; with signed codes the same without a bias; with a scale for 16 columns `sum = fma(both, x_scale, sum)`, where
    /// `both = fma(last_scale, last_products, scale * products)`, and of Q2_K
    /// `fma(last_scale, last_products, fma(scale, products, fma(last_bias, last_x_codes, bias * x_codes)))`.
    ///
    /// # Panics
    /// When rows are missing, activations have other columns or the grid other entries: callers have checked shapes.
    pub fn times(&self, instructions: Instructions, first: usize, x: &Activations, out: &mut [f32]) {
        assert!(self.cols.is_multiple_of(self.kind.shape().0), "whole blocks");
        assert_eq!(x.blocks() * 32, self.cols, "activations of these columns");
        assert_eq!(self.grid.len(), self.kind.grid(), "the grid of this type");
        if out.is_empty() {
            return;
        }
        macro_rules! of_kinds {
            ($($kind:ident $place:literal,)*) => {
                match self.kind {
                    $(BlockKind::$kind => dispatch!(instructions, blocks::<$place>(self, first, x, out)),)*
                }
            };
        }
        of_kinds! {
            Q4_0 0, Q4_1 1, Q5_0 2, Q5_1 3, Q8_0 4, Q2_K 5, Q3_K 6, Q4_K 7, Q5_K 8, Q6_K 9, IQ2_XXS 10, IQ2_XS 11,
            IQ3_XXS 12, IQ1_S 13, IQ4_NL 14, IQ3_S 15, IQ2_S 16, IQ4_XS 17, IQ1_M 18, TQ1_0 19, TQ2_0 20, MXFP4 21, NVFP4 22,
        }
    }
}
