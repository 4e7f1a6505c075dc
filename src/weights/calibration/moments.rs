//! Second moments of activations, small enough to keep one for every expert.

use half::bf16;
use ndarray::Array2;

use crate::file_error::FileError;

use super::tensors::{Tensors, TensorsOut};

/// The largest entry.
const ONE: f32 = 32767.0;

/// Symmetric matrices `[width, width]`, each the mean of `x transpose(x)` over some tokens: the roots of the diagonal, and
/// what is left of the lower triangle when rows and columns are divided by them in 16 bits. An error of 2^-16 of the diagonal
/// is far below what is added to it before it is used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    width: usize,
    /// `[matrices, width]`
    roots: Vec<f32>,
    /// `[matrices, width * (width + 1) / 2]`
    entries: Vec<i16>,
}

impl Moments {
    /// No matrices yet.
    pub(crate) fn new(width: usize) -> Moments {
        Moments { width, roots: Vec::new(), entries: Vec::new() }
    }

    /// Rows and columns of a matrix.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Matrices.
    pub(crate) fn count(&self) -> usize {
        self.roots.len() / self.width
    }

    fn triangle(width: usize) -> usize {
        width * (width + 1) / 2
    }

    /// Adds the mean `sum / weight`; zeros where there is no weight. Of `sum` the lower triangle is read.
    pub(crate) fn push(&mut self, sum: &Array2<f32>, weight: f64) {
        let by = if weight > 0.0 { (1.0 / weight) as f32 } else { 0.0 };
        let first = self.roots.len();
        self.roots.extend(sum.diag().iter().map(|d| (d * by).max(0.0).sqrt()));
        let roots = &self.roots[first..];
        self.entries.reserve(Self::triangle(self.width));
        for i in 0..self.width {
            for j in 0..=i {
                let product = roots[i] * roots[j];
                let entry = if product > 0.0 { sum[[i, j]] * by / product * ONE } else { 0.0 };
                // what is no number becomes 0
                self.entries.push(entry.round_ties_even().clamp(-ONE, ONE) as i16);
            }
        }
    }

    /// Matrix `n`.
    pub(crate) fn matrix(&self, n: usize) -> Array2<f32> {
        let roots = &self.roots[n * self.width..][..self.width];
        let entries = &self.entries[n * Self::triangle(self.width)..][..Self::triangle(self.width)];
        let mut matrix = Array2::zeros((self.width, self.width));
        let mut rest = entries.iter();
        for i in 0..self.width {
            for (j, entry) in (0..=i).zip(rest.by_ref()) {
                let value = f32::from(*entry) / ONE * roots[i] * roots[j];
                matrix[[i, j]] = value;
                matrix[[j, i]] = value;
            }
        }
        matrix
    }

    /// The diagonal of matrix `n`.
    pub(crate) fn diagonal(&self, n: usize) -> Vec<f32> {
        self.roots[n * self.width..][..self.width].iter().map(|root| root * root).collect()
    }

    pub(super) fn write<'a>(&'a self, name: &str, out: &mut TensorsOut<'a>) {
        let count = self.count();
        out.floats(format!("{name}.roots"), vec![count, self.width], &self.roots);
        out.shorts(format!("{name}.entries"), vec![count, Self::triangle(self.width)], &self.entries);
    }

    /// `counts`: how many there may be.
    pub(super) fn read(tensors: &Tensors<'_>, name: &str, width: usize, counts: &[usize]) -> Result<Self, FileError> {
        let (entries, roots) = (format!("{name}.entries"), format!("{name}.roots"));
        let found = tensors.rows(&roots);
        let count = found.filter(|found| counts.contains(found)).unwrap_or(counts[0]);
        let roots = tensors.floats(&roots, &[count, width])?;
        let entries = tensors.shorts(&entries, &[count, Self::triangle(width)])?;
        Ok(Moments { width, roots, entries })
    }
}

/// Inputs that were kept out of the moments, to judge by what was made of them: rows times the router's weight, expert after
/// expert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptOut {
    width: usize,
    /// Where each expert's rows end.
    ends: Vec<u32>,
    rows: Vec<bf16>,
}

impl KeptOut {
    /// Of no expert yet.
    pub(crate) fn new(width: usize) -> KeptOut {
        KeptOut { width, ends: Vec::new(), rows: Vec::new() }
    }

    /// A row of the next expert.
    pub(crate) fn push(&mut self, row: impl Iterator<Item = f32>) {
        self.rows.extend(row.map(bf16::from_f32));
    }

    /// The next expert has no more rows.
    pub(crate) fn end_expert(&mut self) {
        self.ends.push((self.rows.len() / self.width) as u32);
    }

    /// `[rows of the expert, width]`
    pub(crate) fn of(&self, expert: usize) -> Array2<f32> {
        let first = expert.checked_sub(1).map_or(0, |before| self.ends[before]) as usize;
        let rows = self.ends[expert] as usize - first;
        let values = &self.rows[first * self.width..];
        Array2::from_shape_fn((rows, self.width), |(row, column)| values[row * self.width + column].to_f32())
    }

    pub(super) fn write<'a>(&'a self, name: &str, out: &mut TensorsOut<'a>) {
        out.words(format!("{name}.ends"), vec![self.ends.len()], &self.ends);
        out.halves(format!("{name}.rows"), vec![self.rows.len() / self.width, self.width], &self.rows);
    }

    pub(super) fn read(tensors: &Tensors<'_>, name: &str, width: usize, experts: usize) -> Result<Self, FileError> {
        let (place, rows) = (format!("{name}.ends"), format!("{name}.rows"));
        let ends = tensors.words(&place, &[experts])?;
        let last = ends.last().map_or(0, |last| *last as usize);
        if !ends.is_sorted() {
            return Err(tensors.error(&place, "ends in ascending order", "others"));
        }
        let rows = tensors.halves(&rows, &[last, width])?;
        Ok(KeptOut { width, ends, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_back_as_they_went_in() {
        let mut state = 5;
        let x = Array2::from_shape_fn((40, 24), |(_, column)| {
            let unit = (flashflood_formats::split_mix(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            // of very different sizes, and one that is never there
            if column == 7 { 0.0 } else { unit * 10f32.powi(column as i32 % 5 - 2) }
        });
        let sum = x.t().dot(&x);
        let mut moments = Moments::new(24);
        moments.push(&sum, 40.0);
        moments.push(&Array2::zeros((24, 24)), 0.0);
        assert_eq!(moments.count(), 2);
        let back = moments.matrix(0);
        for ((i, j), v) in back.indexed_iter() {
            let most = (sum[[i, i]] * sum[[j, j]]).sqrt() / 40.0;
            assert!((v - sum[[i, j]] / 40.0).abs() <= most * 3e-5, "{i}, {j}: {v}");
        }
        assert!(moments.matrix(1).iter().all(|v| *v == 0.0));
    }

    #[test]
    fn rows_are_those_of_their_expert() {
        let mut kept = KeptOut::new(2);
        kept.push([1.0, 2.0].into_iter());
        kept.end_expert();
        kept.end_expert();
        kept.push([3.0, 4.0].into_iter());
        kept.push([5.0, 6.0].into_iter());
        kept.end_expert();
        assert_eq!(kept.of(0), ndarray::array![[1.0, 2.0]]);
        assert_eq!(kept.of(1).nrows(), 0);
        assert_eq!(kept.of(2), ndarray::array![[3.0, 4.0], [5.0, 6.0]]);
    }
}
