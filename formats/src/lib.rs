//! How the elements of a weight matrix are stored, one file per family of formats, and how rows are multiplied on the CPU;
//! and how rows of a KV cache are stored.
//!
//! A format says which streams of bytes a row has, how a row is unpacked, which kernels read it and whether they may
//! take activations in 8 bits. Everything else (matrices, slots, packs, uploads) loops over streams and knows no format. A
//! new one is a file here, a row in flashflood's `compute/shaders.rs` and its WGSL.

#![forbid(unsafe_code)]

mod activations;
mod affine;
mod blocks;
mod cache;
mod dense;
mod fill;
mod product;
mod scaled;
mod stored;

use std::fmt;

use safetensors::Dtype;

pub use activations::{Int8Rows, pack_row};
pub use affine::{Affine, NotFinite, fit_group, pack_codes, quantise_row};
pub use blocks::{Block, Codebook};
pub use cache::{CacheFormat, turn, turn_back};
pub use dense::Dense;
pub use fill::{Fill, random_bytes, split_mix};
pub use product::{TokenRows, product};
pub use scaled::{Number, Scale, Scaled};
pub use stored::{Stored, StoredScales, StoredTensor};

/// The most streams that a format has.
pub const MOST_STREAMS: usize = 3;

/// Columns that are unpacked and multiplied at a time: rows of every format are whole blocks of these.
pub const BLOCK: usize = 32;

/// The type in which an affine format stores its scales and biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleType {
    /// 2 bytes, the upper half of an f32.
    Bf16,
    /// 2 bytes, IEEE half.
    F16,
    /// 4 bytes.
    F32,
}

impl ScaleType {
    /// Bytes of one scale or bias.
    pub fn bytes(self) -> usize {
        self.dense().bytes()
    }

    /// The dense format whose elements are such numbers.
    pub fn dense(self) -> Dense {
        match self {
            ScaleType::Bf16 => Dense::Bf16,
            ScaleType::F16 => Dense::F16,
            ScaleType::F32 => Dense::F32,
        }
    }
}

/// How the elements of a weight matrix are stored, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum WeightFormat {
    /// Affine quantisation as MLX writes it.
    #[serde(rename = "affine")]
    Affine(Affine),
    /// Small floats with scales.
    #[serde(rename = "scaled")]
    Scaled(Scaled),
    /// Numbers, one after the other.
    #[serde(untagged)]
    Dense(Dense),
    /// Blocks of GGUF files.
    #[serde(untagged)]
    Block(Block),
}

/// What a family of formats answers for each of its members.
trait Family {
    /// Names of the streams, in their order: "codes", "scales", "biases".
    fn stream_names(&self) -> &'static [&'static str];
    /// The type of the numbers that each stream is made of, in files.
    fn stream_dtypes(&self) -> Vec<Dtype>;
    /// Bytes that a row of `cols` columns has in each stream.
    fn stream_bytes(&self, cols: usize) -> [usize; MOST_STREAMS];
    /// Columns of a matrix must be a multiple of this.
    fn column_multiple(&self) -> usize;
    /// See [`WeightFormat::interleave`].
    fn interleave(&self) -> Option<usize>;
    /// See [`WeightFormat::suffix`].
    fn suffix(&self) -> &'static str;
    /// See [`WeightFormat::constants`].
    fn constants(&self) -> Vec<(&'static str, f64)>;
    /// See [`WeightFormat::codebook`].
    fn codebook(&self) -> Option<Codebook> {
        None
    }
    /// See [`WeightRows::first_not_finite`].
    fn first_not_finite(&self, rows: &WeightRows<'_>) -> Option<NotFiniteAt>;
    /// See [`WeightFormat::quantise_row`].
    fn quantise_row(&self, weights: &[f32], out: [&mut [u8]; MOST_STREAMS]) -> Result<(), NotFinite>;
    /// What fills the streams of a random matrix; see [`WeightFormat::fills`].
    fn fills(&self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS];
}

impl WeightFormat {
    /// 4 bytes an element.
    pub const F32: WeightFormat = WeightFormat::Dense(Dense::F32);
    /// 2 bytes an element, IEEE half.
    pub const F16: WeightFormat = WeightFormat::Dense(Dense::F16);
    /// 2 bytes an element, the upper half of an f32.
    #[expect(non_upper_case_globals, reason = "a format's name, beside the variants")]
    pub const Bf16: WeightFormat = WeightFormat::Dense(Dense::Bf16);

    /// Affine with bf16 scales and biases: what MLX and our packs hold.
    pub fn affine(bits: u8, group: u16) -> Self {
        WeightFormat::Affine(Affine { bits, group, scales: ScaleType::Bf16 })
    }

    fn family(&self) -> &dyn Family {
        match self {
            WeightFormat::Affine(affine) => affine,
            WeightFormat::Dense(dense) => dense,
            WeightFormat::Block(block) => block,
            WeightFormat::Scaled(scaled) => scaled,
        }
    }

    /// Bytes that a row of `cols` columns has in each stream; 0 for streams that the format does not have.
    pub fn stream_bytes(self, cols: usize) -> [usize; MOST_STREAMS] {
        self.family().stream_bytes(cols)
    }

    /// Names of the streams, for tensors in files and for messages.
    pub fn stream_names(self) -> &'static [&'static str] {
        self.family().stream_names()
    }

    /// The type of the numbers that each stream is made of, as safetensors files call it.
    pub fn stream_dtypes(self) -> Vec<Dtype> {
        self.family().stream_dtypes()
    }

    /// Whether kernels exist for it.
    pub fn is_known(self) -> bool {
        match self {
            WeightFormat::Affine(affine) => affine.is_known(),
            WeightFormat::Scaled(scaled) => scaled.is_known(),
            WeightFormat::Dense(_) | WeightFormat::Block(_) => true,
        }
    }

    /// All bytes of a matrix, every stream.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> usize {
        rows * self.stream_bytes(cols).iter().sum::<usize>()
    }

    /// Columns must be a multiple of this.
    pub fn column_multiple(self) -> usize {
        self.family().column_multiple()
    }

    /// Columns between the four that one word of 8-bit activations holds, in the order that products with these weights
    /// want (`wgsl/shared/quantise.wgsl`); `None` for weights that are multiplied with f32 only.
    pub fn interleave(self) -> Option<usize> {
        self.family().interleave()
    }

    /// The kernel suffix: `f32`, `f16`, `bf16`, `q2` … `q8`.
    pub fn suffix(self) -> &'static str {
        self.family().suffix()
    }

    /// The table that shaders look its codes up in.
    pub fn codebook(self) -> Option<Codebook> {
        self.family().codebook()
    }

    /// The format of a type of tensors in GGUF files, by its number there.
    pub fn from_ggml(number: u32) -> Option<WeightFormat> {
        match number {
            0 => Some(WeightFormat::F32),
            1 => Some(WeightFormat::F16),
            30 => Some(WeightFormat::Bf16),
            _ => Block::from_ggml(number).map(WeightFormat::Block),
        }
    }

    /// WGSL constants of the shaders that read it, beside those of the product.
    pub fn constants(self) -> Vec<(&'static str, f64)> {
        self.family().constants()
    }

    /// Writes a row of weights in this format, its streams as long as [`stream_bytes`](Self::stream_bytes) says.
    ///
    /// # Errors
    /// The first NaN or infinite weight; the output is then unspecified.
    ///
    /// # Panics
    /// When a stream has another length: callers have checked shapes.
    pub fn quantise_row(self, weights: &[f32], out: [&mut [u8]; MOST_STREAMS]) -> Result<(), NotFinite> {
        self.family().quantise_row(weights, out)
    }

    /// What fills the streams of a matrix of `cols` columns with random weights of deviation `gain / sqrt(cols)`.
    pub fn fills(self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS] {
        self.family().fills(cols, gain, seed)
    }

    /// Random bytes of all streams of `rows` rows: weights of deviation `gain / sqrt(cols)`.
    pub fn random(self, rows: usize, cols: usize, gain: f32, seed: u64) -> [Vec<u8>; MOST_STREAMS] {
        let bytes = self.stream_bytes(cols);
        let mut fills = self.fills(cols, gain, seed).into_iter().zip(bytes);
        std::array::from_fn(|_| fills.next().map_or_else(Vec::new, |(fill, bytes)| fill.bytes(rows * bytes, seed)))
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Affine(affine) => affine.fmt(f),
            WeightFormat::Dense(dense) => f.write_str(dense.suffix()),
            WeightFormat::Block(block) => block.fmt(f),
            WeightFormat::Scaled(scaled) => scaled.fmt(f),
        }
    }
}

/// Rows of one format that lie one after the other, as bytes of its streams.
#[derive(Clone, Copy, Debug)]
pub struct WeightRows<'a> {
    /// How they are stored.
    pub format: WeightFormat,
    /// Columns.
    pub cols: usize,
    /// The streams, empty where the format has fewer.
    pub streams: [&'a [u8]; MOST_STREAMS],
}

/// Room for the parts of a row, kept from row to row.
struct Scratch {
    /// One byte per column.
    codes: Vec<u8>,
    /// Scale and bias of each 16 columns.
    groups: Vec<[f32; 2]>,
}

impl Scratch {
    fn new(cols: usize) -> Self {
        Scratch { codes: vec![0; cols], groups: vec![[0.0; 2]; cols.div_ceil(blocks::GROUP)] }
    }
}

/// A number of a matrix that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFiniteAt {
    /// Row.
    pub row: usize,
    /// The first column that it belongs to.
    pub column: usize,
    /// Index of the stream.
    pub stream: usize,
    /// Which of the row's numbers in that stream.
    pub index: usize,
    /// Its first byte in that stream.
    pub byte: usize,
    /// What was found.
    pub value: f32,
}

impl<'a> WeightRows<'a> {
    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.streams[0].len() / self.format.stream_bytes(self.cols)[0].max(1)
    }

    /// The streams of row `r`.
    #[inline(always)]
    pub fn row(&self, r: usize) -> [&'a [u8]; MOST_STREAMS] {
        let bytes = self.format.stream_bytes(self.cols);
        let mut row = self.streams;
        for (row, bytes) in row.iter_mut().zip(bytes) {
            *row = &row[r * bytes..][..bytes];
        }
        row
    }

    /// Row `r` in f32, without fused multiply-add: the same bits on every machine.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `[cols]`: callers have checked shapes.
    pub fn unpack(&self, r: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row of {} columns", self.cols);
        affine::unpack_dispatched(*self, r, out);
    }

    /// Row `r` in f32. All of it is forced inline into what [`product()`] dispatches for the machine's
    /// instructions.
    #[inline(always)]
    fn unpack_inline<const FUSED: bool>(&self, r: usize, scratch: &mut Scratch, weights: &mut [f32]) {
        match self.format {
            WeightFormat::Dense(dense) => dense.unpack(self.row(r)[0], weights),
            WeightFormat::Affine(affine) => affine.unpack::<FUSED>(self.row(r), &mut scratch.codes, weights),
            WeightFormat::Block(block) => block.unpack::<FUSED>(self.row(r)[0], scratch, weights),
            WeightFormat::Scaled(scaled) => scaled.unpack(self.row(r), scratch, weights),
        }
    }

    /// The first weight, scale or bias that is NaN or infinite: one of them would spread through every token.
    pub fn first_not_finite(&self) -> Option<NotFiniteAt> {
        self.format.family().first_not_finite(self)
    }

    /// The first bad one of streams that are numbers, each with its type and the columns that share one of them.
    fn first_of_numbers(&self, streams: &[(usize, ScaleType, usize)]) -> Option<NotFiniteAt> {
        let bytes = self.format.stream_bytes(self.cols);
        let found = streams.iter().filter_map(|&(stream, number, columns)| {
            let (index, value) = number.dense().first_not_finite(self.streams[stream])?;
            let (each, byte) = (bytes[stream] / number.bytes(), index * number.bytes());
            let (row, index) = (index / each, index % each);
            Some(NotFiniteAt { row, column: index * columns, stream, index, byte, value })
        });
        found.min_by_key(|bad| (bad.row, bad.column))
    }
}
