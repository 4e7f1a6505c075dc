//! Weights that cannot be those of a model: NaN, infinity, and the zeros that an interrupted download leaves where its
//! room was kept free in advance. One NaN would silence every later token, and zeros answer with nothing.

use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::listing::{Listed, Listing};
use super::matrix::Matrix;
use super::read_mapped::{StreamBuffers, read_mapped};
use super::source::{MatrixRole, VectorRole};
use crate::file_error::FileError;
use flashflood_formats::{WeightFormat, WeightRows};

/// Of the rows at the end of a matrix a sixteenth may be zeros, such as those of tokens that no text has.
const SIXTEENTH: usize = 16;
/// A few rows that are zeros are damage from so many bytes on; all of them, whatever they have.
const LEAST: usize = 4096;
/// Bytes of resident weights that are looked at, of each matrix as large a share: at most a second, on a slow machine.
const MOST: usize = 8 << 30;
/// Rows that are looked at together have about so many bytes.
const PIECE: usize = 4 << 20;

const HINT: &str = "the file is damaged: is the download complete?";

/// The first of the rows `range` from which on they have nothing but zeros to their end, where too many have. A single
/// row may: a gate that is always half open.
pub(crate) fn zeros_from(weights: &WeightRows<'_>, range: Range<usize>) -> Option<usize> {
    let mut is_zero = |stream: usize, bytes: Range<usize>| Ok(is_zero(&weights.streams[stream][bytes]));
    let Ok::<_, Infallible>(found) = zeros_where(weights.format, weights.cols, range, &mut is_zero);
    found
}

/// The same of rows that `is_zero` looks at: bytes of a stream.
fn zeros_where<E>(
    format: WeightFormat,
    cols: usize,
    range: Range<usize>,
    is_zero: &mut dyn FnMut(usize, Range<usize>) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    if range.len() < 2 {
        return Ok(None);
    }
    let tail = range.end - (range.len() / SIXTEENTH).max(1);
    // codes, and what they are multiplied with
    for (stream, each) in format.stream_bytes(cols).into_iter().enumerate().take(2).filter(|(_, each)| *each > 0) {
        let mut is_zero_from = |first: usize| is_zero(stream, first * each..range.end * each);
        if !is_zero_from(tail)? {
            continue;
        }
        if is_zero_from(range.start)? {
            return Ok(Some(range.start));
        }
        if (range.end - tail) * each >= LEAST {
            return Ok(Some(tail));
        }
    }
    Ok(None)
}

/// In pieces: almost always the first byte is none.
const ZEROS: usize = 4096;

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The same of bytes that may be mapped.
fn is_zero_in_file(bytes: &[u8], buffer: &mut Vec<u8>) -> Result<bool, FileError> {
    let (first, others) = bytes.split_at(bytes.len().min(ZEROS));
    if !is_zero(read_mapped(first, buffer)?) {
        return Ok(false);
    }
    for piece in others.chunks(PIECE) {
        if !is_zero(read_mapped(piece, buffer)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Looks at the resident weights of a model in the folder or file `root`, whose head is its embedding where `tied`. Scales
/// of affine weights were looked at when they were found.
///
/// # Errors
/// The first matrix with NaN, infinity, or zeros to its end; a file that cannot be read.
pub(crate) fn check_resident(listing: &Listing, root: &Path, tied: bool) -> Result<(), FileError> {
    let bytes: usize = listing
        .resident
        .iter()
        .map(|listed| if let Listed::Matrix { matrix, .. } = listed { matrix.bytes() } else { 0 })
        .sum();
    let share = bytes.div_ceil(MOST).max(1);
    listing.resident.par_iter().try_for_each(|listed| match listed {
        Listed::Vector { name, role: VectorRole::Norm | VectorRole::PlainNorm, values, .. } => {
            match values.iter().all(|value| *value == 0.0) {
                true => Err(zeros(root, name, "the weight of a norm")),
                false => Ok(()),
            }
        }
        Listed::Vector { .. } => Ok(()),
        Listed::Matrix { role, matrix, .. } => {
            check_zeros(matrix, root)?;
            // rows of tokens are read when a text has them
            match *role == MatrixRole::Embedding && !tied || matches!(matrix.format, WeightFormat::Affine(_)) {
                true => Ok(()),
                false => check_finite(matrix, root, share),
            }
        }
    })
}

fn zeros(root: &Path, name: &str, expected: &str) -> FileError {
    FileError::new(root, format!("tensor `{name}`"), expected, "zeros").hint(HINT)
}

fn check_zeros(matrix: &Matrix, root: &Path) -> Result<(), FileError> {
    // a matrix that is put together of rows ends where its tensor does not
    let mut buffer = Vec::new();
    for block in &matrix.blocks {
        let mut is_zero =
            |stream: usize, bytes: Range<usize>| is_zero_in_file(&block.streams[stream][bytes], &mut buffer);
        if let Some(row) = zeros_where(matrix.format, matrix.cols, 0..block.rows, &mut is_zero)? {
            let rows = format!("weights in rows {row} to {}", block.rows);
            return Err(zeros(root, &matrix.name, &rows));
        }
    }
    Ok(())
}

fn check_finite(matrix: &Matrix, root: &Path, share: usize) -> Result<(), FileError> {
    let row_bytes: usize = matrix.format.stream_bytes(matrix.cols).iter().sum();
    let rows = (PIECE / row_bytes.max(1)).max(1);
    let pieces: Vec<_> = (0..matrix.rows).step_by(rows).step_by(share).collect();
    pieces.into_par_iter().try_for_each_init(StreamBuffers::default, |buffers, first| {
        let piece = matrix.slice_rows(first..matrix.rows.min(first + rows));
        let mut above = first;
        for block in &piece.blocks {
            if let Some(bad) = buffers.numbers((piece.format, piece.cols), block)?.first_not_finite() {
                let place = format!("tensor `{}`, row {}", matrix.name, above + bad.row);
                return Err(FileError::new(root, place, "a finite number", bad.value).hint(HINT));
            }
            above += block.rows;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_of_a_matrix() {
        let from = |zeros: usize, rows: usize, cols: usize, range: Range<usize>| {
            let mut bytes = vec![1; rows * cols * 4];
            let start = bytes.len() - zeros * cols * 4;
            bytes[start..].fill(0);
            zeros_from(&WeightRows { format: WeightFormat::F32, cols, streams: [&bytes, &[], &[]] }, range)
        };
        assert_eq!((from(0, 64, 512, 0..64), from(3, 64, 512, 0..64)), (None, None), "some tokens are never written");
        assert_eq!((from(4, 64, 512, 0..64), from(64, 64, 512, 0..64)), (Some(60), Some(0)));
        assert_eq!((from(32, 64, 512, 0..32), from(32, 64, 512, 32..64)), (None, Some(32)), "gate over up");
        // few bytes
        assert_eq!((from(4, 64, 4, 0..64), from(64, 64, 4, 0..64)), (None, Some(0)));
        // a gate of one row, and nothing
        assert_eq!((from(1, 1, 512, 0..1), from(0, 0, 512, 0..0)), (None, None));
    }
}
