//! AVX2 and FMA: 8 rows.

use std::arch::x86_64::*;

use super::ymm::primitives;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::kernels;

primitives!("avx2,fma,f16c");

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    let add = |sums, codes, factor| {
        let pairs = _mm256_maddubs_epi16(codes, x);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(factor)))
    };
    // two products of 63 and -128 fit in the 16 bits of a pair; those of 255 do not, but of its halves
    if BITS == 8 {
        let low = add(sums, and(codes, 0x0f0f_0f0f), 1);
        add(low, and(right(codes, 4), 0x0f0f_0f0f), 16)
    } else {
        add(sums, codes, 1)
    }
}

kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
float_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
block_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
