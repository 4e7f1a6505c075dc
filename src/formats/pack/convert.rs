//! One matrix's rows from the source's format into the pack's.

use rayon::prelude::*;

use crate::experts::{MatrixPlace, SlotLayout};
use crate::formats::quantise::{NotFinite, check_finite, dequantise_row, quantise_row};
use crate::formats::{ScaleType, WeightFormat};

/// Weights that one task converts at a time: large enough to pay for the task, small enough to share an expert.
const TASK_WEIGHTS: usize = 1 << 16;

/// Rows of a matrix as they are stored.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) format: WeightFormat,
    pub(super) cols: usize,
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [u8],
    pub(super) biases: &'a [u8],
}

/// Where converted rows go.
pub(super) struct RowsMut<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
    pub(super) biases: &'a mut [u8],
}

/// A weight, scale or bias that is NaN or infinite.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadRow {
    pub(super) row: usize,
    pub(super) source: NotFinite,
}

/// The format that `stored` becomes when `bits` are asked for: itself where no group divides the columns.
pub(super) fn target(stored: WeightFormat, cols: usize, bits: u8, group: u16) -> WeightFormat {
    if bits == 0 {
        return stored;
    }
    let Some(group) = [group, 64, 32].into_iter().find(|g| cols.is_multiple_of(usize::from(*g))) else {
        return stored;
    };
    match stored {
        WeightFormat::Affine { bits: b, group: g, .. } if b == bits && g == group => stored,
        _ => WeightFormat::affine(bits, group),
    }
}

/// Converts rows; equal formats are copied byte for byte.
pub(super) fn convert(from: Rows<'_>, to: WeightFormat, out: RowsMut<'_>) -> Result<(), BadRow> {
    if from.format == to {
        check(from)?;
        out.codes.copy_from_slice(from.codes);
        out.scales.copy_from_slice(from.scales);
        out.biases.copy_from_slice(from.biases);
        return Ok(());
    }
    let WeightFormat::Affine { bits, group, .. } = to else {
        unreachable!("a dense format is only ever kept");
    };
    let cols = from.cols;
    let (row_bytes, scale_bytes) = (to.row_bytes(cols), to.row_scale_bytes(cols));
    let rows_per_task = (TASK_WEIGHTS / cols).max(1);
    let tasks = (
        out.codes.par_chunks_mut(rows_per_task * row_bytes),
        out.scales.par_chunks_mut(rows_per_task * scale_bytes),
        out.biases.par_chunks_mut(rows_per_task * scale_bytes),
    );
    tasks.into_par_iter().enumerate().try_for_each_init(
        || vec![0.0; cols],
        |weights, (task, (codes, scales, biases))| {
            let rows = codes
                .chunks_exact_mut(row_bytes)
                .zip(scales.chunks_exact_mut(scale_bytes))
                .zip(biases.chunks_exact_mut(scale_bytes));
            for (i, ((codes, scales), biases)) in rows.enumerate() {
                let row = task * rows_per_task + i;
                from.dequantise(row, weights);
                quantise_row(bits, group, weights, codes, scales, biases).map_err(|source| BadRow { row, source })?;
            }
            Ok(())
        },
    )
}

impl<'a> Rows<'a> {
    fn row(&self, row: usize) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let (rb, sb) = (self.format.row_bytes(self.cols), self.format.row_scale_bytes(self.cols));
        let scales = row * sb..(row + 1) * sb;
        (&self.codes[row * rb..(row + 1) * rb], &self.scales[scales.clone()], &self.biases[scales])
    }

    fn dequantise(&self, row: usize, out: &mut [f32]) {
        let (codes, scales, biases) = self.row(row);
        dequantise_row(self.format, self.cols, codes, scales, biases, out);
    }
}

/// Finds weights (of affine formats: scales and biases) that are NaN or infinite.
pub(super) fn check(from: Rows<'_>) -> Result<(), BadRow> {
    let rows = from.codes.len() / from.format.row_bytes(from.cols);
    match from.format {
        WeightFormat::Affine { group, scales, .. } => {
            let dense = match scales {
                ScaleType::Bf16 => WeightFormat::Bf16,
                ScaleType::F16 => WeightFormat::F16,
                ScaleType::F32 => WeightFormat::F32,
            };
            let groups = from.cols / usize::from(group);
            let mut values = vec![0.0; groups];
            for row in 0..rows {
                let (_, scales, biases) = from.row(row);
                for stream in [scales, biases] {
                    dequantise_row(dense, groups, stream, &[], &[], &mut values);
                    check_finite(&values).map_err(|e| BadRow {
                        row,
                        source: NotFinite { column: e.column * usize::from(group), value: e.value },
                    })?;
                }
            }
        }
        _ => {
            let mut values = vec![0.0; from.cols];
            for row in 0..rows {
                from.dequantise(row, &mut values);
                check_finite(&values).map_err(|source| BadRow { row, source })?;
            }
        }
    }
    Ok(())
}

/// Converts an expert from the image of the source's slot to the image of the pack's. The error names the matrix.
pub(super) fn convert_slot(
    from: &SlotLayout,
    image: &[u8],
    to: &SlotLayout,
    record: &mut [u8],
) -> Result<(), (&'static str, BadRow)> {
    let half = to.gate_up.rows / 2;
    convert_matrix(&from.gate_up, image, &to.gate_up, record).map_err(|bad| match bad.row.checked_sub(half) {
        Some(row) => ("up", BadRow { row, ..bad }),
        None => ("gate", bad),
    })?;
    convert_matrix(&from.down, image, &to.down, record).map_err(|bad| ("down", bad))
}

fn convert_matrix(from: &MatrixPlace, image: &[u8], to: &MatrixPlace, record: &mut [u8]) -> Result<(), BadRow> {
    let (code_bytes, scale_bytes) = section_bytes(from);
    let rows = Rows {
        format: from.format,
        cols: from.cols,
        codes: &image[from.codes..][..code_bytes],
        scales: &image[from.scales..][..scale_bytes],
        biases: &image[from.biases..][..scale_bytes],
    };
    let (code_bytes, scale_bytes) = section_bytes(to);
    let record = &mut record[to.codes..];
    let out = if scale_bytes == 0 {
        RowsMut { codes: &mut record[..code_bytes], scales: &mut [], biases: &mut [] }
    } else {
        // sections follow one another in this order
        let (codes, rest) = record.split_at_mut(to.scales - to.codes);
        let (scales, biases) = rest.split_at_mut(to.biases - to.scales);
        RowsMut {
            codes: &mut codes[..code_bytes],
            scales: &mut scales[..scale_bytes],
            biases: &mut biases[..scale_bytes],
        }
    };
    convert(rows, to.format, out)
}

fn section_bytes(place: &MatrixPlace) -> (usize, usize) {
    (place.rows * place.format.row_bytes(place.cols), place.rows * place.format.row_scale_bytes(place.cols))
}
