//! The factor that error feedback goes by: `U`, upper triangular, with `inverse(H) = transpose(U) U`.
//!
//! Of `H = R transpose(R)` with `R` upper triangular, `U` is the inverse of `R`, and `R` is the Cholesky factor of `H` with
//! rows and columns from last to first: one factorisation and one triangular inverse, and no inverse of `H`. In f64, by
//! blocks, so that nearly all of the work is products of matrices.

use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

use crate::weights::blocks::{block, block_mut, reversed};

/// Columns of a block.
const BLOCK: usize = 64;

/// `U` of `h`, symmetric; none where `h` is not positive definite.
pub(super) fn factor(h: &Array2<f32>) -> Option<Array2<f32>> {
    let lower = invert_lower(&cholesky(reversed(h).mapv(f64::from))?);
    // rows of it are read as slices
    Some(reversed(&lower).mapv(|v| v as f32).as_standard_layout().into_owned())
}

/// The lower triangular `L` of `a = L transpose(L)`; of `a` the lower triangle is read. None where there is none.
pub(super) fn cholesky(mut a: Array2<f64>) -> Option<Array2<f64>> {
    let n = a.nrows();
    for first in (0..n).step_by(BLOCK) {
        let end = (first + BLOCK).min(n);
        for j in first..end {
            for i in j..end {
                let sum: f64 = (first..j).map(|k| a[[i, k]] * a[[j, k]]).sum();
                let rest = a[[i, j]] - sum;
                if i > j {
                    a[[i, j]] = rest / a[[j, j]];
                } else if rest > 0.0 {
                    a[[j, j]] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        // what is below the block, times the inverse of its transpose
        for i in end..n {
            for j in first..end {
                let sum: f64 = (first..j).map(|k| a[[i, k]] * a[[j, k]]).sum();
                a[[i, j]] = (a[[i, j]] - sum) / a[[j, j]];
            }
        }
        let panel = block(&a, end..n, first..end).to_owned();
        for column in (end..n).step_by(BLOCK) {
            let until = (column + BLOCK).min(n);
            let below = block(&panel, column - end..n - end, 0..end - first);
            let across = block(&panel, column - end..until - end, 0..end - first);
            general_mat_mul(-1.0, &below, &across.t(), 1.0, &mut block_mut(&mut a, column..n, column..until));
        }
    }
    for i in 0..n {
        block_mut(&mut a, i..i + 1, i + 1..n).fill(0.0);
    }
    Some(a)
}

/// The inverse of a lower triangular matrix.
fn invert_lower(l: &Array2<f64>) -> Array2<f64> {
    let n = l.nrows();
    let mut inverse = Array2::zeros((n, n));
    for first in (0..n).step_by(BLOCK) {
        let end = (first + BLOCK).min(n);
        // the block on the diagonal
        for j in first..end {
            inverse[[j, j]] = 1.0 / l[[j, j]];
            for i in j + 1..end {
                let sum: f64 = (j..i).map(|k| l[[i, k]] * inverse[[k, j]]).sum();
                inverse[[i, j]] = -sum / l[[i, i]];
            }
        }
        if first > 0 {
            let so_far = block(l, first..end, 0..first).dot(&block(&inverse, 0..first, 0..first));
            let left = -block(&inverse, first..end, first..end).dot(&so_far);
            block_mut(&mut inverse, first..end, 0..first).assign(&left);
        }
    }
    inverse
}

/// Solves `a x = y` for a symmetric positive definite `a`, in place of `y`; false where `a` is not that.
pub(super) fn solve(a: Array2<f64>, y: &mut [f64]) -> bool {
    let Some(l) = cholesky(a) else { return false };
    let n = y.len();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| l[[i, k]] * y[k]).sum();
        y[i] = (y[i] - sum) / l[[i, i]];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| l[[k, i]] * y[k]).sum();
        y[i] = (y[i] - sum) / l[[i, i]];
    }
    true
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A positive definite matrix.
    fn definite(n: usize, seed: u64) -> Array2<f32> {
        let mut state = seed;
        let x = Array2::from_shape_fn((2 * n, n), |_| {
            (flashflood_formats::split_mix(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0
        });
        x.t().dot(&x) + Array2::<f32>::eye(n)
    }

    #[test]
    fn the_factor_is_of_the_inverse() {
        for n in [1, 3, 64, 65, 150, 256] {
            let h = definite(n, n as u64);
            let u = factor(&h).unwrap().mapv(f64::from);
            let one = u.t().dot(&u).dot(&h.mapv(f64::from));
            for ((i, j), v) in one.indexed_iter() {
                assert!((v - f64::from(u8::from(i == j))).abs() < 2e-4, "{n}: {v} at {i}, {j}");
                assert!(j >= i || u[[i, j]] == 0.0, "{n}: upper triangular");
            }
        }
        let mut bad = definite(70, 1);
        bad[[69, 69]] = -1.0;
        assert!(factor(&bad).is_none());
    }

    #[test]
    fn equations_are_solved() {
        for n in [1, 5, 70, 128] {
            let a = definite(n, 3).mapv(f64::from);
            let x: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
            let mut y = a.dot(&ndarray::Array1::from(x.clone())).to_vec();
            assert!(solve(a, &mut y));
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-8), "{n}");
        }
    }
}
