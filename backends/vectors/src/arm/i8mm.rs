//! NEON with products of two rows and two tokens at a time, of 8 bytes each, besides: 4 rows.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{primitives, products_of_bytes};
use crate::add_kernels::add_by_two;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{kernels, one_token_in_tiles};
use crate::table_kernels::table_kernels;

primitives!("neon,dotprod,i8mm");

products_of_bytes!("neon,dotprod,i8mm");

/// `usmmla`, whose intrinsic is not stable yet: of rows `a`, 8 unsigned bytes each, and tokens `b`, 8 signed bytes each, the four
/// products, those of the first row first.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
fn add_squares(sums: Words, a: Words, b: Words) -> Words {
    let mut sums = sums;
    // SAFETY: registers alone, of an instruction that functions with this feature are called for
    unsafe {
        asm!(
            "usmmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Two words of each of two rows side by side: of the first rows, then of the last, for each two words.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
fn by_two(codes: [Words; 8]) -> [Words; 8] {
    let [a, b, c, d, e, f, g, h] = codes;
    [
        vzip1q_u32(a, b),
        vzip2q_u32(a, b),
        vzip1q_u32(c, d),
        vzip2q_u32(c, d),
        vzip1q_u32(e, f),
        vzip2q_u32(e, f),
        vzip1q_u32(g, h),
        vzip2q_u32(g, h),
    ]
}

/// Adds to numbers of two tokens, which all rows have, the products of `rows` with `x` and `y`.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
fn two_by_two(from: [u32; 2], rows: &[Words], x: &[u32], y: &[u32]) -> [Words; 2] {
    let start = load(&[from[0], from[1], from[0], from[1]]);
    let (mut first, mut last) = (start, start);
    for ((rows, x), y) in rows.as_chunks::<2>().0.iter().zip(x.as_chunks::<2>().0).zip(y.as_chunks::<2>().0) {
        let both = load(&[x[0], x[1], y[0], y[1]]);
        first = add_squares(first, rows[0], both);
        last = add_squares(last, rows[1], both);
    }
    [vuzp1q_u32(first, last), vuzp2q_u32(first, last)]
}

add_by_two!(#[target_feature(enable = "neon,dotprod,i8mm")]);
kernels!(#[target_feature(enable = "neon,dotprod,i8mm")]);
one_token_in_tiles!(#[target_feature(enable = "neon,dotprod,i8mm")]);
float_kernels!(#[target_feature(enable = "neon,dotprod,i8mm")]);
block_kernels!(#[target_feature(enable = "neon,dotprod,i8mm")]);
table_kernels!(#[target_feature(enable = "neon,dotprod,i8mm")]);
