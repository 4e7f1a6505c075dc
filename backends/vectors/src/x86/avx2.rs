//! AVX2 and FMA: 8 rows.

use std::arch::x86_64::*;

use super::ymm::primitives;
use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::kernels;
use crate::row_kernels::row_kernels;
use crate::table_kernels::table_kernels;

primitives!("avx2,fma,f16c");

/// Adds the products of the four unsigned bytes of `codes`, of `BITS` bits, with the four signed ones of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    let pairs = |codes, one| _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(one));
    if BITS == 8 {
        // halves of 4 bits, whose sums fit in 16
        let (low, high) = (and(codes, 0x0f0f_0f0f), and(right(codes, 4), 0x0f0f_0f0f));
        _mm256_add_epi32(sums, _mm256_add_epi32(pairs(low, 1), pairs(high, 16)))
    } else {
        _mm256_add_epi32(sums, pairs(codes, 1))
    }
}

/// Adds the products of words of codes, of `BITS` bits, with those of `x`. Pairs of products are added in 16 bits as long as
/// their sums fit, and only then in 32.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot_words<const BITS: usize>(sums: Words, codes: &[Words], x: &[u32]) -> Words {
    // how often 2 (2^BITS - 1) 128 goes into 32767
    let together = const {
        match BITS {
            5 => 4,
            6 => 2,
            7 => 1,
            _ => 8,
        }
    };
    let mut sums = sums;
    for (codes, x) in codes.chunks(together).zip(x.chunks(together)) {
        if BITS == 8 {
            // halves of 4 bits
            let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (codes, x) in codes.iter().zip(x) {
                let x = spread(*x);
                low = _mm256_add_epi16(low, _mm256_maddubs_epi16(and(*codes, 0x0f0f_0f0f), x));
                high = _mm256_add_epi16(high, _mm256_maddubs_epi16(and(right(*codes, 4), 0x0f0f_0f0f), x));
            }
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
        } else {
            let mut pairs = _mm256_setzero_si256();
            for (codes, x) in codes.iter().zip(x) {
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*codes, spread(*x)));
            }
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    sums
}

add_by_token!(#[target_feature(enable = "avx2,fma,f16c")]);
kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
row_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
float_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
block_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
table_kernels!(#[target_feature(enable = "avx2,fma,f16c")]);
