//! Writing `resident.safetensors`: the weights that every token needs, under names of the pack's own. What is written
//! here is read by `load`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::convert::{Rows, RowsMut, convert};
use super::{Checksum, FileSum, Observer, PackError, Progress};
use crate::formats::{ScaleType, WeightFormat};
use crate::model::weights::MixerWeights;
use crate::model::{Config, Matrix, ModelWeights};

/// Bytes of converted codes that are held in memory at a time.
const CHUNK: usize = 8 << 20;
/// Data starts at a multiple of this, so that the tensors of a mapped file are aligned.
const DATA_ALIGN: usize = 64;

/// A tensor, or the three of a quantised matrix, on the way into the file.
enum Entry<'a> {
    Matrix { name: String, matrix: &'a Matrix, format: WeightFormat },
    Vector { name: String, shape: Vec<usize>, values: &'a [f32] },
}

/// What the resident file will hold, in its order.
pub(super) struct Plan<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> Plan<'a> {
    /// Lists every resident weight; `format` tells how a matrix is stored that need not stay as it is.
    pub(super) fn new(config: &Config, weights: &'a ModelWeights, format: impl Fn(&Matrix) -> WeightFormat) -> Self {
        let mut plan = Plan { entries: Vec::new() };
        plan.matrix("embed_tokens", &weights.embed_tokens, &format);
        if !config.tied_embeddings {
            plan.matrix("lm_head", &weights.lm_head, &format);
        }
        plan.vector("norm", &weights.norm);
        for (n, layer) in weights.layers.iter().enumerate() {
            let name = |rest: &str| format!("layers.{n}.{rest}");
            plan.vector(&name("input_norm"), &layer.input_norm);
            plan.vector(&name("post_norm"), &layer.post_norm);
            match &layer.mixer {
                MixerWeights::Attention(w) => {
                    plan.matrix(&name("attention.q"), &w.q, &format);
                    plan.matrix(&name("attention.k"), &w.k, &format);
                    plan.matrix(&name("attention.v"), &w.v, &format);
                    plan.matrix(&name("attention.o"), &w.o, &format);
                    plan.vector(&name("attention.q_norm"), &w.q_norm);
                    plan.vector(&name("attention.k_norm"), &w.k_norm);
                }
                MixerWeights::DeltaNet(w) => {
                    plan.matrix(&name("delta_net.qkv"), &w.qkv, &format);
                    plan.matrix(&name("delta_net.z"), &w.z, &format);
                    plan.matrix(&name("delta_net.b"), &w.b, |m| m.format);
                    plan.matrix(&name("delta_net.a"), &w.a, |m| m.format);
                    plan.matrix(&name("delta_net.out"), &w.out, &format);
                    let kernel = config.linear.map_or(1, |linear| linear.conv_kernel);
                    let shape = vec![w.conv.len() / kernel, kernel];
                    plan.entries.push(Entry::Vector { name: name("delta_net.conv"), shape, values: &w.conv });
                    plan.vector(&name("delta_net.a_log"), &w.a_log);
                    plan.vector(&name("delta_net.dt_bias"), &w.dt_bias);
                    plan.vector(&name("delta_net.norm"), &w.norm);
                }
            }
            plan.matrix(&name("router"), &layer.router, |m| m.format);
            if let Some(shared) = &layer.shared {
                plan.matrix(&name("shared.gate"), &shared.gate, &format);
                plan.matrix(&name("shared.up"), &shared.up, &format);
                plan.matrix(&name("shared.down"), &shared.down, &format);
                plan.matrix(&name("shared.scalar_gate"), &shared.scalar_gate, |m| m.format);
            }
        }
        plan
    }

    fn matrix(&mut self, name: &str, matrix: &'a Matrix, format: impl Fn(&Matrix) -> WeightFormat) {
        self.entries.push(Entry::Matrix { name: name.to_owned(), matrix, format: format(matrix) });
    }

    fn vector(&mut self, name: &str, values: &'a [f32]) {
        self.entries.push(Entry::Vector { name: name.to_owned(), shape: vec![values.len()], values });
    }

    /// The length prefix and the header, padded so that data starts aligned; and the bytes of the data.
    fn header(&self) -> (Vec<u8>, u64) {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": super::manifest::FORMAT }));
        let mut end = 0u64;
        let mut tensor = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
            let start = end;
            end += bytes as u64;
            header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        };
        for entry in &self.entries {
            match entry {
                Entry::Vector { name, shape, values } => {
                    tensor(name.clone(), "F32", shape, size_of_val(*values));
                }
                Entry::Matrix { name, matrix, format } => {
                    let (rows, cols) = (matrix.rows, matrix.cols);
                    let row_bytes = format.row_bytes(cols);
                    let (dtype, width) = match format {
                        WeightFormat::F32 => ("F32", cols),
                        WeightFormat::F16 => ("F16", cols),
                        WeightFormat::Bf16 => ("BF16", cols),
                        WeightFormat::Affine { .. } => ("U32", row_bytes / 4),
                    };
                    tensor(format!("{name}.weight"), dtype, &[rows, width], rows * row_bytes);
                    if let WeightFormat::Affine { scales, .. } = format {
                        let dtype = match scales {
                            ScaleType::Bf16 => "BF16",
                            ScaleType::F16 => "F16",
                            ScaleType::F32 => "F32",
                        };
                        let bytes = format.row_scale_bytes(cols);
                        for stream in ["scales", "biases"] {
                            tensor(format!("{name}.{stream}"), dtype, &[rows, bytes / scales.bytes()], rows * bytes);
                        }
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

    /// Codes are written as they are made. Scales and biases follow them in the file and wait in memory, 1/16 of the
    /// size of a BF16 matrix.
    fn matrix(&mut self, matrix: &Matrix, to: WeightFormat) -> Result<(), PackError> {
        let (row_bytes, scale_bytes) = (to.row_bytes(matrix.cols), to.row_scale_bytes(matrix.cols));
        let mut scales = vec![0; matrix.rows * scale_bytes];
        let mut biases = scales.clone();
        let rows_per_chunk = (CHUNK / row_bytes).max(1);
        let mut codes = vec![0; rows_per_chunk.min(matrix.rows) * row_bytes];
        for first in (0..matrix.rows).step_by(rows_per_chunk) {
            let last = (first + rows_per_chunk).min(matrix.rows);
            let mut row = first;
            for block in matrix.slice_rows(first..last).blocks {
                let at = row - first;
                let codes = &mut codes[at * row_bytes..][..block.rows * row_bytes];
                let rows = Rows {
                    format: matrix.format,
                    cols: matrix.cols,
                    codes: &block.codes,
                    scales: &block.scales,
                    biases: &block.biases,
                };
                let range = row * scale_bytes..(row + block.rows) * scale_bytes;
                let out = RowsMut { codes, scales: &mut scales[range.clone()], biases: &mut biases[range] };
                convert(rows, to, out).map_err(|bad| PackError::ResidentWeight {
                    tensor: matrix.name.clone(),
                    row: row + bad.row,
                    source: bad.source,
                })?;
                row += block.rows;
            }
            self.write(&codes[..(last - first) * row_bytes])?;
        }
        self.write(&scales)?;
        self.write(&biases)
    }
}
