//! NEON with products of bytes that are added in 32 bits: 4 rows.

use std::arch::aarch64::*;

use super::lanes::{primitives, products_of_bytes};
use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{kernels, one_token_in_tiles};
use crate::table_kernels::table_kernels;

primitives!("neon,dotprod");

products_of_bytes!("neon,dotprod");

add_by_token!(#[target_feature(enable = "neon,dotprod")]);
kernels!(#[target_feature(enable = "neon,dotprod")]);
one_token_in_tiles!(#[target_feature(enable = "neon,dotprod")]);
float_kernels!(#[target_feature(enable = "neon,dotprod")]);
block_kernels!(#[target_feature(enable = "neon,dotprod")]);
table_kernels!(#[target_feature(enable = "neon,dotprod")]);
