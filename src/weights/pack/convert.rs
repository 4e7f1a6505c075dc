//! One matrix's rows from the source's format into the pack's.

use rayon::prelude::*;

use crate::weights::layout::{MatrixPlace, SlotLayout};
use flashflood_formats::{Affine, MOST_STREAMS, NotFinite, Number, WeightFormat, WeightRows};

/// Weights that one task converts at a time: large enough to pay for the task, small enough to share an expert.
const TASK_WEIGHTS: usize = 1 << 16;

/// Where converted rows go: the streams of their format.
pub(super) type StreamsMut<'a> = [&'a mut [u8]; MOST_STREAMS];

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
        WeightFormat::Affine(Affine { bits: b, group: g, .. }) if b == bits && g == group => stored,
        // what a release quantised with care is not quantised again
        WeightFormat::Block(_) => stored,
        WeightFormat::Scaled(scaled) if scaled.number == Number::E2m1 => stored,
        // 8 bits of float are as good a source as 16
        WeightFormat::Affine(_) | WeightFormat::Scaled(_) | WeightFormat::Dense(_) => WeightFormat::affine(bits, group),
    }
}

/// Converts rows; equal formats are copied byte for byte.
pub(super) fn convert(from: WeightRows<'_>, to: WeightFormat, mut out: StreamsMut<'_>) -> Result<(), BadRow> {
    if from.format == to {
        check(from)?;
        for (out, bytes) in out.iter_mut().zip(from.streams) {
            out.copy_from_slice(bytes);
        }
        return Ok(());
    }
    let (bytes, rows) = (to.stream_bytes(from.cols), from.count());
    let rows_per_task = (TASK_WEIGHTS / from.cols).max(1);
    let mut tasks = Vec::new();
    for first in (0..rows).step_by(rows_per_task) {
        let count = rows_per_task.min(rows - first);
        tasks.push((first, count, std::array::from_fn(|i| take(&mut out[i], count * bytes[i]))));
    }
    let convert_rows = |weights: &mut Vec<f32>, (first, count, mut streams): (usize, usize, StreamsMut<'_>)| {
        for row in first..first + count {
            let out = std::array::from_fn(|i| take(&mut streams[i], bytes[i]));
            from.unpack(row, weights);
            to.quantise_row(weights, out).map_err(|source| BadRow { row, source })?;
        }
        Ok(())
    };
    tasks.into_par_iter().try_for_each_init(|| vec![0.0; from.cols], convert_rows)
}

/// The first `count` bytes of `rest`, which keeps the others.
pub(super) fn take<'a>(rest: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let (now, later) = std::mem::take(rest).split_at_mut(count);
    *rest = later;
    now
}

/// Finds weights (of affine formats: scales and biases) that are NaN or infinite.
fn check(from: WeightRows<'_>) -> Result<(), BadRow> {
    match from.first_not_finite() {
        None => Ok(()),
        Some(bad) => Err(BadRow { row: bad.row, source: NotFinite { column: bad.column, value: bad.value } }),
    }
}

/// Converts an expert from the image of the source's slot to the image of the pack's. The error names the matrix.
pub(super) fn convert_slot(
    from: &SlotLayout,
    image: &[u8],
    to: &SlotLayout,
    record: &mut [u8],
) -> Result<(), (&'static str, BadRow)> {
    let mut all = from.projections().into_iter().zip(to.projections());
    all.try_for_each(|((name, from), (_, to))| convert_matrix(&from, image, &to, record).map_err(|bad| (name, bad)))
}

fn convert_matrix(from: &MatrixPlace, image: &[u8], to: &MatrixPlace, record: &mut [u8]) -> Result<(), BadRow> {
    convert(from.rows_in(image), to.format, streams_of(to, record))
}

/// The places in a record of a matrix's streams.
pub(super) fn streams_of<'a>(to: &MatrixPlace, record: &'a mut [u8]) -> StreamsMut<'a> {
    // sections follow one another in the order of the streams
    let (mut rest, mut at) = (record, 0);
    let mut sections = to.sections();
    std::array::from_fn(|_| match sections.next() {
        None => Default::default(),
        Some((start, len)) => {
            take(&mut rest, start - at);
            at = start + len;
            take(&mut rest, len)
        }
    })
}
