//! Products with activations in 8 bits.
//!
//! But for one token, whose rows x86 reads one after the other (`row_kernels`), rows are in lanes: a register holds four
//! columns of each of 16 rows (8 with AVX2), and the four activations of a token are spread to all of them. So the order of additions of a row has nothing to do with how wide registers are, the same
//! loop serves one token and many, and what is done once for 32 columns is done for all rows at once. To that end the words of rows are
//! transposed, once for all tokens of a tile; a row is read once, from first to last.
//!
//! For each block of 32 columns, in order: the products are added as integers, exactly. Then, with `x_scale` and `x_sum` of
//! the block, for affine weights `sum = fma(bias, x_sum, fma(products * x_scale, scale, sum))`.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use crate::arm;
#[cfg(target_arch = "x86_64")]
use crate::x86;
use crate::{Instructions, dispatch, portable};

/// Activations of 32 columns of one token.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Block {
    /// Four codes each: for affine weights in the order that their bits want, for blocks in that of columns.
    pub words: [u32; 8],
    /// What a code is multiplied with.
    pub scale: f32,
    /// `scale` times the sum of all codes.
    pub sum: f32,
    /// Sums of the codes of each 16 columns: for blocks alone, where each 16 have a minimum.
    pub halves: [f32; 2],
    /// The same times what makes signed codes unsigned ones, below 0: this takes it back. Then their sum.
    pub lost: [i32; 3],
}

/// Activations of some tokens.
pub struct Activations {
    tokens: usize,
    /// Of all tokens for the first 32 columns, then for the next.
    blocks: Vec<Block>,
    /// For rows of so many bits and lanes, once a product of one token has asked (see `row_kernels`): a matrix is shared out
    /// in tasks, which take a microsecond or two on 32 threads.
    in_rows: OnceLock<([usize; 2], Vec<u32>)>,
}

impl Activations {
    /// Room for `tokens` tokens of `blocks` blocks.
    pub fn new(tokens: usize, blocks: usize) -> Self {
        Activations { tokens, blocks: vec![Block::default(); tokens * blocks], in_rows: OnceLock::new() }
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many blocks each token has.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len() / self.tokens.max(1)
    }

    /// Block `block` of token `token`.
    pub fn block_mut(&mut self, token: usize, block: usize) -> &mut Block {
        self.in_rows.take();
        &mut self.blocks[block * self.tokens + token]
    }

    /// The blocks of one token.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_one_token(&self) -> &[Block] {
        assert_eq!(self.tokens, 1, "tokens");
        &self.blocks
    }

    /// What `arrange` makes for rows of so many bits and lanes, kept from the first time on.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn in_rows(
        &self,
        bits: usize,
        lanes: usize,
        arrange: impl Fn() -> Vec<u32>,
    ) -> std::borrow::Cow<'_, [u32]> {
        let (shape, words) = self.in_rows.get_or_init(|| ([bits, lanes], arrange()));
        match *shape == [bits, lanes] {
            true => words.into(),
            false => arrange().into(),
        }
    }

    /// The blocks of all tokens for some columns.
    #[inline]
    pub fn of_block(&self, block: usize) -> &[Block] {
        &self.blocks[block * self.tokens..][..self.tokens]
    }
}

/// Types of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The upper half of an f32.
    Bf16,
    /// IEEE half.
    F16,
    /// 4 bytes.
    F32,
}

impl Number {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Number::Bf16 | Number::F16 => 2,
            Number::F32 => 4,
        }
    }
}

/// Rows of unsigned codes, packed lowest bits first, with a scale and a bias for `group` columns.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// A multiple of 32.
    pub group: usize,
    /// A multiple of `group`.
    pub cols: usize,
    /// Type of scales and biases.
    pub number: Number,
    /// Row after row.
    pub codes: &'a [u8],
    /// Row after row.
    pub scales: &'a [u8],
    /// Row after row.
    pub biases: &'a [u8],
}

impl Affine<'_> {
    /// `[rows, tokens]` for the rows from `first` on, as many as `out` has room for.
    ///
    /// # Panics
    /// When rows are missing or activations have other columns: callers have checked shapes.
    pub fn times(&self, instructions: Instructions, first: usize, x: &Activations, out: &mut [f32]) {
        assert!(self.group.is_multiple_of(32) && self.cols.is_multiple_of(self.group), "whole groups of whole blocks");
        assert!(x.tokens > 0 && x.blocks.len() * 32 == self.cols * x.tokens, "activations of these columns");
        if out.is_empty() {
            return;
        }
        match self.bits {
            2 => dispatch!(instructions, affine::<2>(self, first, x, out)),
            3 => dispatch!(instructions, affine::<3>(self, first, x, out)),
            4 => dispatch!(instructions, affine::<4>(self, first, x, out)),
            5 => dispatch!(instructions, affine::<5>(self, first, x, out)),
            6 => dispatch!(instructions, affine::<6>(self, first, x, out)),
            8 => dispatch!(instructions, affine::<8>(self, first, x, out)),
            other => unreachable!("{other} bits: whoever makes a format has asked whether it is known"),
        }
    }
}

/// Rows of numbers of 4 bits (E2M1), two a byte with the first in the low half, with scales of 8 bits.
#[derive(Clone, Copy, Debug)]
pub struct SmallFloats<'a> {
    /// A multiple of 32.
    pub cols: usize,
    /// Row after row.
    pub numbers: &'a [u8],
    /// Row after row: numbers (E4M3) without a sign, for 16 columns each, where `by_16`; otherwise powers of two, 2^(byte - 127),
    /// for 32.
    pub scales: &'a [u8],
    /// Whether scales are for 16 columns.
    pub by_16: bool,
    /// What each row is multiplied with besides, 4 bytes each; empty where there is no such thing.
    pub row_scales: &'a [u8],
}

impl SmallFloats<'_> {
    /// What is added to codes, which are doubled numbers, before they are multiplied: [`Block::lost`] takes it back.
    pub const OFFSET: i32 = 12;

    /// The column of 32 that byte `b` of word `j` of activations is of: of each 16 those of low halves come first, 4 by 4, as
    /// weights lie.
    pub const fn column(j: usize, b: usize) -> usize {
        16 * (j / 4) + 8 * (j % 2) + 2 * b + j % 4 / 2
    }

    /// `[rows, tokens]` for the rows from `first` on, as many as `out` has room for: as blocks of MXFP4 and NVFP4, see
    /// [`Blocks::times`](crate::Blocks::times).
    ///
    /// # Panics
    /// When rows are missing or activations have other columns: callers have checked shapes.
    pub fn times(&self, instructions: Instructions, first: usize, x: &Activations, out: &mut [f32]) {
        assert!(x.tokens > 0 && x.blocks.len() * 32 == self.cols * x.tokens, "activations of these columns");
        if out.is_empty() {
            return;
        }
        if self.by_16 {
            dispatch!(instructions, small_floats::<16>(self, first, x, out));
        } else {
            dispatch!(instructions, small_floats::<32>(self, first, x, out));
        }
    }
}
