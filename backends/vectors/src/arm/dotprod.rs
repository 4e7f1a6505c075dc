//! NEON with products of bytes that are added in 32 bits: 4 rows.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::primitives;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{dot_words, kernels, one_token_in_tiles};
use crate::table_kernels::table_kernels;

primitives!("neon,dotprod");

/// `sdot`, whose intrinsic is not stable yet.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_products(sums: Words, a: Words, b: Words) -> Words {
    let mut sums = sums;
    // SAFETY: registers alone, of an instruction that functions with this feature are called for
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    if BITS == 8 {
        // as signed bytes, which are 128 less: twice 64 times the sum of x
        let half = spread(0x4040_4040);
        add_products(add_products(add_products(sums, flip(codes), x), half, x), half, x)
    } else {
        add_products(sums, codes, x)
    }
}

dot_words!(#[target_feature(enable = "neon,dotprod")]);
kernels!(#[target_feature(enable = "neon,dotprod")]);
one_token_in_tiles!(#[target_feature(enable = "neon,dotprod")]);
float_kernels!(#[target_feature(enable = "neon,dotprod")]);
block_kernels!(#[target_feature(enable = "neon,dotprod")]);
table_kernels!(#[target_feature(enable = "neon,dotprod")]);
