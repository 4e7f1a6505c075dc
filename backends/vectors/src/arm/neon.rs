//! NEON: 4 rows.

use std::arch::aarch64::*;

use super::lanes::primitives;
use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{dot_words, kernels, one_token_in_tiles};
use crate::table_kernels::table_kernels;

primitives!("neon");

#[target_feature(enable = "neon")]
#[inline]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    let x = vreinterpretq_s8_u32(x);
    // as signed bytes; codes of 8 bits lose 128, which comes back as 128 times the sum of x
    let codes = vreinterpretq_s8_u32(if BITS == 8 { flip(codes) } else { codes });
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_s8(vget_high_s8(codes), vget_high_s8(x)));
    let products = vpaddq_s32(low, high);
    let lost = if BITS == 8 { vshlq_n_s32::<7>(vpaddlq_s16(vpaddlq_s8(x))) } else { vdupq_n_s32(0) };
    vaddq_u32(sums, vreinterpretq_u32_s32(vaddq_s32(products, lost)))
}

dot_words!(#[target_feature(enable = "neon")]);
add_by_token!(#[target_feature(enable = "neon")]);
kernels!(#[target_feature(enable = "neon")]);
one_token_in_tiles!(#[target_feature(enable = "neon")]);
float_kernels!(#[target_feature(enable = "neon")]);
block_kernels!(#[target_feature(enable = "neon")]);
table_kernels!(#[target_feature(enable = "neon")]);
