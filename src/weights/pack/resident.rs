//! Writing `resident.safetensors`: the weights that every token needs, under their canonical names. What is written here
//! is read by `load`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::convert::convert;
use super::{Checksum, FileSum, Observer, PackError, Progress};
use crate::weights::listing::{Listed, Listing};
use crate::weights::matrix::Matrix;
use flashflood_formats::{MOST_STREAMS, WeightFormat};

/// Bytes of converted codes that are held in memory at a time.
const CHUNK: usize = 8 << 20;
/// Data starts at a multiple of this, so that the tensors of a mapped file are aligned.
const DATA_ALIGN: usize = 64;

/// A tensor, or those of a matrix, on the way into the file.
enum Entry<'a> {
    Matrix { name: &'a str, matrix: &'a Matrix, format: WeightFormat },
    Vector { name: &'a str, shape: &'a [usize], values: &'a [f32] },
}

/// What the resident file will hold, in its order.
pub(super) struct ResidentPlan<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> ResidentPlan<'a> {
    /// Lists every resident weight; `format` tells how a matrix is stored that need not stay as it is.
    pub(super) fn new(weights: &'a Listing, format: impl Fn(&Matrix) -> WeightFormat) -> Self {
        let entry = |listed: &'a Listed| match listed {
            Listed::Vector { name, shape, values, .. } => Entry::Vector { name, shape, values },
            Listed::Matrix { name, role, matrix } => {
                let format = if role.is_kept() { matrix.format } else { format(matrix) };
                Entry::Matrix { name, matrix, format }
            }
        };
        ResidentPlan { entries: weights.resident.iter().map(entry).collect() }
    }

    /// The length prefix and the header, padded so that data starts aligned; and the bytes of the data.
    fn header(&self) -> (Vec<u8>, u64) {
        let mut header = Map::new();
        let mut metadata = Map::new();
        metadata.insert("format".to_owned(), json!(super::manifest::FORMAT));
        for entry in &self.entries {
            if let Entry::Matrix { name, format, .. } = entry {
                // metadata are texts
                metadata.insert((*name).to_owned(), json!(json!(format).to_string()));
            }
        }
        header.insert("__metadata__".into(), Value::Object(metadata));
        let mut end = 0u64;
        let mut tensor = |name: String, dtype: String, shape: &[usize], bytes: usize| {
            let start = end;
            end += bytes as u64;
            header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        };
        for entry in &self.entries {
            match entry {
                Entry::Vector { name, shape, values } => {
                    tensor((*name).to_owned(), "F32".to_owned(), shape, size_of_val(*values));
                }
                Entry::Matrix { name, matrix, format } => {
                    let (rows, streams) = (matrix.rows, format.stream_names().iter().zip(format.stream_dtypes()));
                    for ((stream, dtype), row) in streams.zip(format.stream_bytes(matrix.cols)) {
                        let width = row * 8 / dtype.bitsize();
                        tensor(format!("{name}.{stream}"), dtype.to_string(), &[rows, width], rows * row);
                    }
                }
            }
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize((8 + text.len()).next_multiple_of(DATA_ALIGN) - 8, b' ');
        let mut head = (text.len() as u64).to_le_bytes().to_vec();
        head.append(&mut text);
        (head, end)
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        let (head, data) = self.header();
        head.len() as u64 + data
    }

    /// Writes the file. `needed` is what the whole pack still needs, for the message of a full disk.
    pub(super) fn write(&self, path: &Path, needed: u64, observer: &Observer<'_>) -> Result<FileSum, PackError> {
        let file = File::create(path).map_err(PackError::write(path, needed))?;
        let mut out = Output { file: BufWriter::new(file), sum: Xxh3::new(), bytes: 0, path, needed, observer };
        out.write(&self.header().0)?;
        for entry in &self.entries {
            match entry {
                Entry::Vector { values, .. } => {
                    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    out.write(&bytes)?;
                }
                Entry::Matrix { matrix, format, .. } => out.matrix(matrix, *format)?,
            }
        }
        let (sum, bytes) = (out.sum.digest(), out.bytes);
        let file = out.file.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(PackError::write(path, needed.saturating_sub(bytes)))?;
        Ok(FileSum { bytes, xxh3: Checksum(sum) })
    }
}

/// The file being written, with what its bytes add up to.
struct Output<'a> {
    file: BufWriter<File>,
    sum: Xxh3,
    bytes: u64,
    path: &'a Path,
    needed: u64,
    observer: &'a Observer<'a>,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        let left = self.needed.saturating_sub(self.bytes);
        self.file.write_all(bytes).map_err(PackError::write(self.path, left))?;
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        (self.observer)(Progress::Advanced { bytes: bytes.len() as u64 });
        Ok(())
    }

    /// The first stream is written as it is made. The others follow it in the file and wait in memory: scales and biases
    /// are 1/16 of the size of a BF16 matrix.
    fn matrix(&mut self, matrix: &Matrix, to: WeightFormat) -> Result<(), PackError> {
        let bytes = to.stream_bytes(matrix.cols);
        let mut waiting: [Vec<u8>; MOST_STREAMS] = bytes.map(|row| vec![0; matrix.rows * row]);
        let rows_per_chunk = (CHUNK / bytes[0]).max(1);
        waiting[0].truncate(rows_per_chunk.min(matrix.rows) * bytes[0]);
        for first in (0..matrix.rows).step_by(rows_per_chunk) {
            let last = (first + rows_per_chunk).min(matrix.rows);
            let mut row = first;
            for block in matrix.slice_rows(first..last).in_memory()?.blocks {
                // the first stream's memory begins with the chunk, that of the others with the matrix
                let mut begins = [row; MOST_STREAMS];
                begins[0] = row - first;
                let mut streams = waiting.iter_mut().zip(begins).zip(bytes);
                let out = std::array::from_fn(|_| match streams.next() {
                    Some(((stream, begin), row)) => &mut stream[begin * row..][..block.rows * row],
                    None => Default::default(),
                });
                convert(matrix.rows_of(&block), to, out).map_err(|bad| PackError::ResidentWeight {
                    tensor: matrix.name.clone(),
                    row: row + bad.row,
                    source: bad.source,
                })?;
                row += block.rows;
            }
            self.write(&waiting[0][..(last - first) * bytes[0]])?;
        }
        waiting[1..].iter().try_for_each(|stream| self.write(stream))
    }
}
