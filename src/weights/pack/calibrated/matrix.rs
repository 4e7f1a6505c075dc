//! Rows of a matrix into affine codes such that what they do to a matrix's inputs is small, not what they do to weights.
//!
//! The error of a row `w` that becomes `q` is `(w - q) H transpose(w - q)`, with `H` the second moment of the inputs. First
//! GPTQ: column after column, with what a column's rounding costs made good by the columns behind it. Then, twice, the scales
//! and biases of a row that are best for its codes, and codes that are best for them, one after the other: most of the gain
//! is in these (a prototype on the small model with 2 bits: 0.0028 nats from BF16 without, 0.0008 with). Nothing of that ever
//! makes a row worse.
//!
//! Rows do not depend on each other, so tasks take some rows each.

use half::bf16;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2};

use super::factor::{factor, solve};
use crate::weights::blocks::{block, block_mut};
use flashflood_formats::fit_group;

/// Refinements: more of them change nothing that shows.
const REFINEMENTS: usize = 2;
/// Rows whose products with `H` are kept while their scales are fitted.
const ROWS_AT_ONCE: usize = 16;

/// What errors are measured with.
pub(crate) struct Metric {
    /// Symmetric and positive definite.
    h: Array2<f32>,
    /// `inverse(h) = transpose(u) u`, upper triangular.
    u: Array2<f32>,
    /// `1 / u[c, c]^2`, over their mean: what an error in a column costs that those behind it cannot make good.
    importance: Vec<f32>,
}

/// Affine codes of some rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coded {
    /// `[rows, cols]`
    pub(super) codes: Array2<u8>,
    /// `[rows, groups]`, of bf16.
    pub(super) scales: Array2<f32>,
    /// `[rows, groups]`, of bf16.
    pub(super) biases: Array2<f32>,
}

impl Metric {
    /// Of the second moment `h` plus `damping` times the mean of its diagonal, and ten times as much and more, up to 1, while
    /// that is not positive definite: entries in 16 bits are off by a little each, which in many columns may be more than the
    /// least damping makes good. None where nothing helps, as where all inputs are zero.
    pub(crate) fn new(mut h: Array2<f32>, mut damping: f32) -> Option<Metric> {
        let mean = h.diag().mean().filter(|mean| *mean > 0.0 && mean.is_finite())?;
        // about 1, whatever the activations are: sums stay far from the ends of f32
        h /= mean;
        let diagonal = h.diag().to_owned();
        let u = loop {
            h.diag_mut().zip_mut_with(&diagonal, |d, own| *d = own + damping);
            match factor(&h) {
                Some(u) => break u,
                None if damping < 1.0 => damping = (10.0 * damping).min(1.0),
                None => return None,
            }
        };
        let costs = u.diag().mapv(|u| 1.0 / (u * u));
        let mean = costs.mean().filter(|mean| *mean > 0.0 && mean.is_finite())?;
        let importance = costs.iter().map(|cost| (cost / mean).max(1e-12)).collect();
        Some(Metric { h, u, importance })
    }
}

/// Rows on their way into codes.
struct Rows<'a> {
    metric: &'a Metric,
    bits: u8,
    group: usize,
    weights: ArrayView2<'a, f32>,
    coded: Coded,
    /// What is lost of the weights, times `h`.
    gradient: Array2<f32>,
    /// Of each row.
    errors: Vec<f64>,
}

/// Quantises `weights` `[rows, cols]` to `bits` bits in groups of `group` columns.
pub(super) fn quantise(metric: &Metric, bits: u8, group: usize, weights: ArrayView2<'_, f32>) -> Coded {
    let coded = feed_back(metric, bits, group, weights);
    let mut rows = Rows::new(metric, bits, group, weights, coded);
    for _ in 0..REFINEMENTS {
        rows.refit();
        rows.descend();
    }
    rows.coded
}

fn code_of(bits: u8, w: f32, scale: f32, bias: f32) -> u8 {
    let most = f32::from((1u16 << bits) - 1);
    // NaN, of a weight that overflowed, becomes 0: the guard finds what that costs
    ((w - bias) / scale).round_ties_even().clamp(0.0, most) as u8
}

impl Coded {
    fn value(&self, row: usize, column: usize, group: usize) -> f32 {
        let k = column / group;
        self.scales[[row, k]] * f32::from(self.codes[[row, column]]) + self.biases[[row, k]]
    }

    /// The weights that the codes stand for.
    pub(super) fn values(&self, group: usize) -> Array2<f32> {
        Array2::from_shape_fn(self.codes.dim(), |(row, column)| self.value(row, column, group))
    }
}

/// GPTQ: each column's error, in the measure of what those behind it can make good, goes on to them.
fn feed_back(metric: &Metric, bits: u8, group: usize, weights: ArrayView2<'_, f32>) -> Coded {
    let Metric { u, importance, .. } = metric;
    let (rows, cols) = weights.dim();
    let mut w = weights.to_owned();
    let mut coded = Coded {
        codes: Array2::zeros((rows, cols)),
        scales: Array2::ones((rows, cols / group)),
        biases: Array2::zeros((rows, cols / group)),
    };
    let width = group.max(64);
    for first in (0..cols).step_by(width) {
        let end = (first + width).min(cols);
        let mut errors = Array2::<f32>::zeros((rows, end - first));
        let inner = block(u, first..end, first..end).to_owned();
        for row in 0..rows {
            let mut left = w.row_mut(row);
            let left = &mut left.as_slice_mut().expect("columns of one row lie side by side")[first..end];
            let (mut scale, mut bias) = (1.0, 0.0);
            for i in 0..left.len() {
                let column = first + i;
                if column.is_multiple_of(group) {
                    (scale, bias) = fit_group(bits, &left[i..i + group], &importance[column..column + group]);
                    coded.scales[[row, column / group]] = scale;
                    coded.biases[[row, column / group]] = bias;
                }
                let code = code_of(bits, left[i], scale, bias);
                coded.codes[[row, column]] = code;
                let error = (left[i] - (scale * f32::from(code) + bias)) / inner[[i, i]];
                errors[[row, i]] = error;
                let behind = inner.row(i);
                let behind = &behind.as_slice().expect("columns of one row lie side by side")[i + 1..];
                left[i + 1..].iter_mut().zip(behind).for_each(|(w, u)| *w -= error * u);
            }
        }
        if end < cols {
            general_mat_mul(
                -1.0,
                &errors,
                &block(u, first..end, end..cols),
                1.0,
                &mut block_mut(&mut w, 0..rows, end..cols),
            );
        }
    }
    coded
}

impl<'a> Rows<'a> {
    fn new(metric: &'a Metric, bits: u8, group: usize, weights: ArrayView2<'a, f32>, coded: Coded) -> Self {
        let lost = &weights - &coded.values(group);
        let gradient = lost.dot(&metric.h);
        let errors = (0..lost.nrows()).map(|row| error_of(lost.row(row).iter(), gradient.row(row).iter())).collect();
        Rows { metric, bits, group, weights, coded, gradient, errors }
    }

    /// The error of a row whose gradient is kept.
    fn error(&self, row: usize) -> f64 {
        let lost: Vec<f32> = (0..self.weights.ncols())
            .map(|column| self.weights[[row, column]] - self.coded.value(row, column, self.group))
            .collect();
        error_of(lost.iter(), self.gradient.row(row).iter())
    }

    /// Gives each row the scales and biases, of all its groups at once, that are best for its codes.
    fn refit(&mut self) {
        let (rows, cols) = self.weights.dim();
        let (group, groups) = (self.group, cols / self.group);
        let h = &self.metric.h;
        // rows of h added up by group: what one of a bias does to the gradient
        let ones = Array2::from_shape_fn((groups, cols), |(k, c)| {
            (k * group..(k + 1) * group).map(|row| h[[row, c]]).sum::<f32>()
        });
        let between = Array2::from_shape_fn((groups, groups), |(k, l)| {
            (l * group..(l + 1) * group).map(|c| f64::from(ones[[k, c]])).sum::<f64>()
        });
        for first in (0..rows).step_by(ROWS_AT_ONCE) {
            let count = ROWS_AT_ONCE.min(rows - first);
            let codes = block(&self.coded.codes, first..first + count, 0..cols).mapv(f32::from);
            // of each group: its codes times h, what one of a scale does to the gradient
            let steps: Vec<Array2<f32>> = (0..groups)
                .map(|k| k * group..(k + 1) * group)
                .map(|of| block(&codes, 0..count, of.clone()).dot(&block(h, of, 0..cols)))
                .collect();
            for i in 0..count {
                self.refit_row(first + i, &codes.row(i).to_vec(), &|k| steps[k].row(i).to_slice(), &ones, &between);
            }
        }
    }

    fn refit_row<'s>(
        &mut self,
        row: usize,
        codes: &[f32],
        step: &dyn Fn(usize) -> Option<&'s [f32]>,
        ones: &Array2<f32>,
        between: &Array2<f64>,
    ) {
        let group = self.group;
        let groups = codes.len() / group;
        let step = |k: usize| step(k).expect("a row of a product lies side by side");
        let of = |l: usize| l * group..(l + 1) * group;
        let all_ones = [1.0; 128];
        let mut normal = Array2::<f64>::zeros((2 * groups, 2 * groups));
        let mut wanted = vec![0.0; 2 * groups];
        for k in 0..groups {
            for l in 0..groups {
                if l >= k {
                    let both = dot(&codes[of(l)], &step(k)[of(l)]);
                    normal[[k, l]] = both;
                    normal[[l, k]] = both;
                }
                let with_bias = dot(&all_ones[..group], &step(k)[of(l)]);
                normal[[k, groups + l]] = with_bias;
                normal[[groups + l, k]] = with_bias;
                normal[[groups + k, groups + l]] = between[[k, l]];
            }
            let gradient = self.gradient.row(row);
            let gradient = &gradient.as_slice().expect("a row lies side by side")[of(k)];
            wanted[k] = dot(&codes[of(k)], gradient);
            wanted[groups + k] = dot(&all_ones[..group], gradient);
        }
        // a group whose codes are all alike says nothing of its scale
        let mean = normal.diag().mean().unwrap_or_default();
        normal.diag_mut().mapv_inplace(|d| d + 1e-6 * mean);
        if !solve(normal, &mut wanted) {
            return;
        }
        let before = [&self.coded.scales, &self.coded.biases].map(|old| old.row(row).to_owned());
        let round = |old: f32, by: f64| bf16::from_f64(f64::from(old) + by).to_f32();
        let scales: Vec<f32> = before[0].iter().zip(&wanted[..groups]).map(|(old, by)| round(*old, *by)).collect();
        let biases: Vec<f32> = before[1].iter().zip(&wanted[groups..]).map(|(old, by)| round(*old, *by)).collect();
        if !(scales.iter().all(|s| *s > 0.0 && s.is_finite()) && biases.iter().all(|b| b.is_finite())) {
            return;
        }
        let gradient_before = self.gradient.row(row).to_owned();
        for k in 0..groups {
            let (by_scale, by_bias) = (scales[k] - before[0][k], biases[k] - before[1][k]);
            let changes = step(k).iter().zip(ones.row(k));
            for (g, (scale, bias)) in self.gradient.row_mut(row).iter_mut().zip(changes) {
                *g -= by_scale * scale + by_bias * bias;
            }
            self.coded.scales[[row, k]] = scales[k];
            self.coded.biases[[row, k]] = biases[k];
        }
        let error = self.error(row);
        if error < self.errors[row] {
            self.errors[row] = error;
        } else {
            self.coded.scales.row_mut(row).assign(&before[0]);
            self.coded.biases.row_mut(row).assign(&before[1]);
            self.gradient.row_mut(row).assign(&gradient_before);
        }
    }

    /// Gives each column in turn the codes that are best with all others as they are.
    fn descend(&mut self) {
        let (rows, cols) = self.weights.dim();
        let (bits, group, h) = (self.bits, self.group, &self.metric.h);
        let (codes_before, gradient_before) = (self.coded.codes.clone(), self.gradient.clone());
        for first in (0..cols).step_by(64) {
            let end = (first + 64).min(cols);
            let inner = block(h, first..end, first..end).to_owned();
            let mut changes = Array2::<f32>::zeros((rows, end - first));
            for row in 0..rows {
                let mut gradient = block(&self.gradient, row..row + 1, first..end).row(0).to_vec();
                for i in 0..gradient.len() {
                    let column = first + i;
                    let (scale, bias) =
                        (self.coded.scales[[row, column / group]], self.coded.biases[[row, column / group]]);
                    let was = self.coded.codes[[row, column]];
                    let value = scale * f32::from(was) + bias;
                    let code = code_of(bits, value + gradient[i] / inner[[i, i]], scale, bias);
                    if code == was {
                        continue;
                    }
                    let change = scale * (f32::from(code) - f32::from(was));
                    self.coded.codes[[row, column]] = code;
                    changes[[row, i]] = change;
                    let behind = inner.row(i);
                    let behind = &behind.as_slice().expect("columns of one row lie side by side")[i..];
                    gradient[i..].iter_mut().zip(behind).for_each(|(g, h)| *g -= change * h);
                }
            }
            general_mat_mul(-1.0, &changes, &block(h, first..end, 0..cols), 1.0, &mut self.gradient);
        }
        for row in 0..rows {
            let error = self.error(row);
            // none of the steps can make it larger; what rounding of sums adds up to is not taken
            if error <= self.errors[row] {
                self.errors[row] = error;
            } else {
                self.coded.codes.row_mut(row).assign(&codes_before.row(row));
                self.gradient.row_mut(row).assign(&gradient_before.row(row));
            }
        }
    }
}

/// Of a group's columns: independent partial sums, which the compiler makes vectors of.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}

fn error_of<'a>(a: impl Iterator<Item = &'a f32>, b: impl Iterator<Item = &'a f32>) -> f64 {
    a.zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests;
