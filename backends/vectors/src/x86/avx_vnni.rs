//! AVX2 with VNNI: 8 rows.

use std::arch::x86_64::*;

use super::ymm::primitives;
use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{dot_words, kernels};
use crate::row_kernels::row_kernels;
use crate::table_kernels::table_kernels;

primitives!("avx2,fma,f16c,avxvnni");

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    _mm256_dpbusd_avx_epi32(sums, codes, x)
}

dot_words!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
add_by_token!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
kernels!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
row_kernels!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
float_kernels!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
block_kernels!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
table_kernels!(#[target_feature(enable = "avx2,fma,f16c,avxvnni")]);
