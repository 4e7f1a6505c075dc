//! Matrix products on the CPU, of matrices and of experts in their slots.

use flashflood_formats::{TokenRows, product};

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
