//! A weight matrix as views of mapped, owned or embedded bytes.

use bytes::Bytes;

use flashflood_formats::{MOST_STREAMS, WeightFormat, WeightRows};

/// A weight matrix `[rows, cols]`: blocks of rows of one format, one under the other.
///
/// Blocks make one product of several tensors (q over k over v), and put the rows of Qwen3-Next's interleaved
/// projections in order, without copying a byte.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Name for messages, as in the checkpoint.
    pub name: String,
    /// Output rows, all blocks.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// How the elements are stored.
    pub format: WeightFormat,
    /// Rows from top to bottom.
    pub blocks: Vec<MatrixBlock>,
}

/// Some rows of a matrix.
#[derive(Clone, Debug)]
pub struct MatrixBlock {
    /// Rows of this block.
    pub rows: usize,
    /// The streams of the format, row after row: each [`stream_bytes`](WeightFormat::stream_bytes) times `rows` long,
    /// and empty where the format has fewer.
    pub streams: [Bytes; MOST_STREAMS],
}

impl MatrixBlock {
    /// The rows `range` of the block, of a matrix of `cols` columns in `format`.
    fn slice(&self, format: WeightFormat, cols: usize, range: std::ops::Range<usize>) -> MatrixBlock {
        let bytes = format.stream_bytes(cols);
        let streams = std::array::from_fn(|i| self.streams[i].slice(range.start * bytes[i]..range.end * bytes[i]));
        MatrixBlock { rows: range.len(), streams }
    }
}

impl Matrix {
    /// Bytes of all streams.
    pub fn bytes(&self) -> usize {
        self.format.matrix_bytes(self.rows, self.cols)
    }

    /// A block of this matrix, as rows to unpack.
    pub(crate) fn rows_of<'a>(&self, block: &'a MatrixBlock) -> WeightRows<'a> {
        WeightRows { format: self.format, cols: self.cols, streams: block.streams.each_ref().map(|bytes| &bytes[..]) }
    }

    /// Row `row` in f32, into `out` `[cols]`.
    ///
    /// # Panics
    /// When there is no such row: callers have checked it.
    pub(crate) fn unpack_row(&self, row: usize, out: &mut [f32]) {
        let mut first = 0;
        for block in &self.blocks {
            if row < first + block.rows {
                return self.rows_of(block).unpack(row - first, out);
            }
            first += block.rows;
        }
        panic!("row {row} of {} with {} rows", self.name, self.rows);
    }

    /// The rows `range` of this matrix.
    ///
    /// # Panics
    /// When the range reaches past the last row: callers have checked shapes.
    pub(crate) fn slice_rows(&self, range: std::ops::Range<usize>) -> Matrix {
        assert!(range.end <= self.rows, "rows {range:?} of {} with {} rows", self.name, self.rows);
        let mut blocks = Vec::new();
        let mut first = 0;
        for block in &self.blocks {
            let from = range.start.max(first);
            let to = range.end.min(first + block.rows);
            if from < to {
                blocks.push(block.slice(self.format, self.cols, from - first..to - first));
            }
            first += block.rows;
        }
        Matrix { name: self.name.clone(), rows: range.len(), cols: self.cols, format: self.format, blocks }
    }

    /// The rows of `ranges`, one range after the other, under another name.
    pub(crate) fn list_rows(&self, name: String, ranges: &[std::ops::Range<usize>]) -> Matrix {
        let blocks: Vec<_> = ranges.iter().flat_map(|range| self.slice_rows(range.clone()).blocks).collect();
        let rows = blocks.iter().map(|block| block.rows).sum();
        Matrix { name, rows, cols: self.cols, format: self.format, blocks }
    }

    /// A copy whose rows are `rows` of this one, in that order. For orders that would make a block of every row: each
    /// block is a product of its own on the CPU.
    ///
    /// # Panics
    /// When there is no such row: callers have checked shapes.
    pub(crate) fn copy_rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Matrix {
        let count = rows.len();
        let mut streams: [Vec<u8>; MOST_STREAMS] =
            self.format.stream_bytes(self.cols).map(|row| Vec::with_capacity(count * row));
        for row in rows {
            for block in self.slice_rows(row..row + 1).blocks {
                streams.iter_mut().zip(&block.streams).for_each(|(out, bytes)| out.extend_from_slice(bytes));
            }
        }
        let block = MatrixBlock { rows: count, streams: streams.map(Bytes::from) };
        Matrix { name: self.name.clone(), rows: count, cols: self.cols, format: self.format, blocks: vec![block] }
    }

    /// Puts matrices of one format and width one under the other; `None` when they differ.
    pub(crate) fn stack(name: &str, parts: &[&Matrix]) -> Option<Matrix> {
        let first = parts.first()?;
        if parts.iter().any(|m| m.cols != first.cols || m.format != first.format) {
            return None;
        }
        Some(Matrix {
            name: name.to_owned(),
            rows: parts.iter().map(|m| m.rows).sum(),
            cols: first.cols,
            format: first.format,
            blocks: parts.iter().flat_map(|m| m.blocks.iter().cloned()).collect(),
        })
    }
}

/// A vector, already in f32: norms, conv taps, decays.
pub(crate) type Vector = Vec<f32>;
