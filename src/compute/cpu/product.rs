//! Matrix products on the CPU, of matrices and of experts in their slots.

use flashflood_formats::{TokenRows, product};
use rayon::prelude::*;

use super::at_least;
use crate::weights::{Matrix, MatrixPlace};

/// `[rows, tokens]`: every row of the matrix times every row of `x`.
pub(crate) fn matrix_product(matrix: &Matrix, x: TokenRows<'_>) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows * x.tokens()];
    let mut rest = out.as_mut_slice();
    for block in &matrix.blocks {
        let (now, later) = rest.split_at_mut(block.rows * x.tokens());
        rest = later;
        product(matrix.rows_of(block), x, now);
    }
    out
}

/// The same for one matrix of an expert in its slot.
pub(crate) fn expert_product(place: &MatrixPlace, slot: &[u8], x: TokenRows<'_>) -> Vec<f32> {
    let mut out = vec![0.0; place.rows * x.tokens()];
    product(place.rows_in(slot), x, &mut out);
    out
}

/// Tokens whose rows are written side by side: as many lines as the nearest cache has ways for, and more.
const TOKENS: usize = 16;

/// Does `write` with each of `products`, `[rows, tokens]`, and its place in `out`: rows of `stride` elements, a row for each
/// token, from `column` on.
pub(crate) fn by_token(
    products: &[f32],
    tokens: usize,
    out: &mut [f32],
    stride: usize,
    write: impl Fn(&mut f32, f32) + Sync,
    column: usize,
) {
    if tokens == 0 {
        return;
    }
    if tokens == 1 {
        // they lie side by side in both, 250,000 of a vocabulary: one loop moves them
        return out[column..][..products.len()].iter_mut().zip(products).for_each(|(out, v)| write(out, *v));
    }
    let tiles = out.par_chunks_mut(TOKENS * stride).take(tokens.div_ceil(TOKENS)).enumerate();
    tiles.with_min_len(at_least(products.len() / tokens * TOKENS)).for_each(|(i, out)| {
        let now = i * TOKENS..tokens.min((i + 1) * TOKENS);
        for (r, products) in products.chunks_exact(tokens).enumerate() {
            for (t, v) in products[now.clone()].iter().enumerate() {
                write(&mut out[t * stride + column + r], *v);
            }
        }
    });
}
