//! How releases store a matrix where that is not what kernels read, and how its bytes become [`WeightFormat`]'s streams.
//!
//! Most streams are taken as they are. What is rewritten: scales that several rows share (a copy for each row), the scale of
//! a matrix, and the codes of GPTQ and AWQ, which are stored column by column.

use safetensors::Dtype;

use super::{Affine, Dense, MOST_STREAMS, ScaleType, Scaled, WeightFormat};

/// How a release stores a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Its tensors are the streams of the format.
    Streams(WeightFormat),
    /// Numbers of 8 bits; `rows` rows share their scales, or all.
    SharedScales {
        /// With a copy of its scales in each row.
        format: Scaled,
        /// Rows that share; `None`: all.
        rows: Option<usize>,
    },
    /// Numbers of 4 bits, their scales, and a scale of the matrix.
    MatrixScale {
        /// The numbers are divided by it.
        divides: bool,
    },
    /// GPTQ: `[cols / codes a word, rows]` words of codes along the columns.
    Gptq {
        /// What it becomes.
        format: Affine,
        /// Its scales in the file.
        scales: StoredScales,
        /// What is added to stored zero points: 1, but for version 2 of the format.
        more: u8,
    },
    /// AWQ: `[cols, rows / 8]` words of 8 rows each.
    Awq {
        /// What it becomes.
        format: Affine,
        /// Its scales in the file.
        scales: StoredScales,
    },
    /// Codes in the order of columns whose zero is in their middle, or where zero points say.
    Centred {
        /// What it becomes.
        format: Affine,
        /// Its scales in the file.
        scales: StoredScales,
        /// Whether there are zero points, packed along the rows.
        zeros: bool,
    },
}

/// The scales of integers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredScales {
    /// Their type.
    pub number: ScaleType,
    /// Groups of the format that share one: releases have larger groups than kernels, up to the whole row.
    pub groups: usize,
}

impl StoredScales {
    fn dtypes(self) -> &'static [Dtype] {
        of_dtype(self.number.dense().dtype())
    }

    /// Scales of a row, or of a column of what is stored by columns.
    fn of(self, format: Affine, cols: usize) -> usize {
        cols / usize::from(format.group) / self.groups
    }
}

/// A tensor of a stored matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The stream that it is as it is.
    pub stream: Option<usize>,
    /// Types it may have.
    pub dtypes: &'static [Dtype],
    /// Its shape, with the last dimension in bits; empty for one number.
    bits: Vec<usize>,
}

impl StoredTensor {
    /// Its shape where it has this type.
    pub fn shape(&self, dtype: Dtype) -> Vec<usize> {
        let mut shape = self.bits.clone();
        if let Some(last) = shape.last_mut() {
            *last /= dtype.bitsize();
        }
        shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        match self.bits.is_empty() {
            true => self.dtypes.first().map_or(0, |dtype| dtype.bitsize() / 8),
            false => self.bits.iter().product::<usize>() / 8,
        }
    }
}

/// Where bits `4 i` to `4 i + 3` of AWQ's words belong among 8 rows.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

impl Stored {
    /// What kernels read.
    pub fn format(&self) -> WeightFormat {
        match *self {
            Stored::Streams(format) => format,
            Stored::SharedScales { format, .. } => WeightFormat::Scaled(format),
            Stored::MatrixScale { .. } => WeightFormat::Scaled(Scaled { row_scales: true, ..Scaled::NVFP4 }),
            Stored::Gptq { format, .. } | Stored::Awq { format, .. } | Stored::Centred { format, .. } => {
                WeightFormat::Affine(format)
            }
        }
    }

    /// Columns must be a multiple of this, and rows of the second.
    pub fn multiples(&self) -> [usize; 2] {
        match *self {
            Stored::Gptq { format, .. } | Stored::Centred { format, zeros: true, .. } => {
                [usize::from(format.group), 32 / usize::from(format.bits)]
            }
            Stored::Awq { format, .. } => [usize::from(format.group), 8],
            Stored::Centred { format, zeros: false, .. } => [usize::from(format.group), 1],
            _ => [self.format().column_multiple(), 1],
        }
    }

    /// The tensors of a matrix of `rows` and `cols`, in the order that [`arrange`](Self::arrange) takes them.
    pub fn tensors(&self, rows: usize, cols: usize) -> Vec<StoredTensor> {
        const WORDS: &[Dtype] = &[Dtype::I32, Dtype::U32];
        // numbers of the first of its types, in the last dimension
        let tensor = |stream: Option<usize>, dtypes: &'static [Dtype], [rows, cols]: [usize; 2]| StoredTensor {
            stream,
            dtypes,
            bits: vec![rows, cols * dtypes.first().map_or(0, Dtype::bitsize)],
        };
        let one = |dtypes: &'static [Dtype]| StoredTensor { stream: None, dtypes, bits: Vec::new() };
        let codes_of = |format: Affine| 32 / usize::from(format.bits);
        match *self {
            Stored::Streams(format) => {
                let bytes = format.stream_bytes(cols);
                let streams = format.stream_dtypes().into_iter().zip(bytes).enumerate();
                let of = |(stream, (dtype, bytes)): (usize, (Dtype, usize))| {
                    tensor(Some(stream), of_dtype(dtype), [rows, bytes * 8 / dtype.bitsize()])
                };
                streams.map(of).collect()
            }
            Stored::SharedScales { format, rows: shared } => {
                let Some(scales) = WeightFormat::Scaled(format).stream_dtypes().get(1).copied() else {
                    return Vec::new();
                };
                let each = WeightFormat::Scaled(format).stream_bytes(cols)[1] / (scales.bitsize() / 8);
                let numbers = tensor(Some(0), &[Dtype::F8_E4M3, Dtype::U8], [rows, cols]);
                let scales = match shared {
                    Some(shared) => tensor(None, of_dtype(scales), [rows.div_ceil(shared), each]),
                    None => one(of_dtype(scales)),
                };
                vec![numbers, scales]
            }
            Stored::MatrixScale { .. } => vec![
                tensor(Some(0), &[Dtype::U8], [rows, cols / 2]),
                tensor(Some(1), &[Dtype::F8_E4M3, Dtype::U8], [rows, cols / 16]),
                one(&[Dtype::F32]),
            ],
            Stored::Gptq { format, scales, .. } => {
                let (groups, codes) = (scales.of(format, cols), codes_of(format));
                vec![
                    tensor(None, WORDS, [cols / codes, rows]),
                    tensor(None, scales.dtypes(), [groups, rows]),
                    tensor(None, WORDS, [groups, rows / codes]),
                ]
            }
            Stored::Awq { format, scales } => {
                let groups = scales.of(format, cols);
                vec![
                    tensor(None, WORDS, [cols, rows / 8]),
                    tensor(None, scales.dtypes(), [groups, rows]),
                    tensor(None, WORDS, [groups, rows / 8]),
                ]
            }
            Stored::Centred { format, scales, zeros } => {
                let (groups, codes) = (scales.of(format, cols), codes_of(format));
                let mut all =
                    vec![tensor(Some(0), WORDS, [rows, cols / codes]), tensor(None, scales.dtypes(), [rows, groups])];
                if zeros {
                    all.push(tensor(None, WORDS, [rows / codes, groups]));
                }
                all
            }
        }
    }

    /// Writes the streams that are not taken as they are, from the tensors that are not; the others may be empty.
    ///
    /// # Panics
    /// When lengths are not those of [`tensors`](Self::tensors) and of the format: callers have checked them.
    pub fn arrange(&self, rows: usize, cols: usize, tensors: &[&[u8]], out: [&mut [u8]; MOST_STREAMS]) {
        match *self {
            Stored::Streams(_) => {}
            Stored::SharedScales { format, rows: shared } => {
                let each = WeightFormat::Scaled(format).stream_bytes(cols)[1];
                for (row, out) in out[1].chunks_exact_mut(each).enumerate() {
                    match shared {
                        Some(shared) => out.copy_from_slice(&tensors[1][row / shared * each..][..each]),
                        None => out.copy_from_slice(tensors[1]),
                    }
                }
            }
            Stored::MatrixScale { divides } => {
                let scale = Dense::F32.at(tensors[2], 0);
                let scale = if divides { 1.0 / scale } else { scale };
                out[2].as_chunks_mut::<4>().0.fill(scale.to_le_bytes());
            }
            Stored::Gptq { format, scales, more } => {
                let codes = 32 / usize::from(format.bits);
                transpose(tensors[0], cols / codes, rows, out[0]);
                let zero = |g: usize, row: usize| {
                    let word = word(tensors[2], g * (rows / codes) + row / codes);
                    (code(word, format.bits, row % codes) + u32::from(more)) as f32
                };
                scales_and_biases(
                    (format, scales),
                    (rows, cols),
                    &|g, row| {
                        let scale = scales.number.dense().at(tensors[1], g * rows + row);
                        [scale, -scale * zero(g, row)]
                    },
                    out,
                );
            }
            Stored::Awq { format, scales } => {
                transpose_eights(tensors[0], cols, rows / 8, out[0]);
                scales_and_biases(
                    (format, scales),
                    (rows, cols),
                    &|g, row| {
                        let scale = scales.number.dense().at(tensors[1], g * rows + row);
                        let word = word(tensors[2], g * (rows / 8) + row / 8);
                        let place = AWQ_ORDER.iter().position(|at| *at == row % 8).unwrap_or_default();
                        [scale, -scale * code(word, 4, place) as f32]
                    },
                    out,
                );
            }
            Stored::Centred { format, scales, zeros } => {
                let (groups, codes) = (scales.of(format, cols), 32 / usize::from(format.bits));
                scales_and_biases(
                    (format, scales),
                    (rows, cols),
                    &|g, row| {
                        let scale = scales.number.dense().at(tensors[1], row * groups + g);
                        let zero = match zeros {
                            true => code(word(tensors[2], row / codes * groups + g), format.bits, row % codes),
                            false => 1 << (format.bits - 1),
                        };
                        [scale, -scale * zero as f32]
                    },
                    out,
                );
            }
        }
    }
}

fn of_dtype(dtype: Dtype) -> &'static [Dtype] {
    match dtype {
        Dtype::F32 => &[Dtype::F32],
        Dtype::F16 => &[Dtype::F16],
        Dtype::BF16 => &[Dtype::BF16],
        Dtype::U32 => &[Dtype::U32],
        _ => &[Dtype::U8, Dtype::U32, Dtype::F8_E8M0, Dtype::F8_E4M3],
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
}

fn code(word: u32, bits: u8, place: usize) -> u32 {
    word >> (usize::from(bits) * place) & ((1 << bits) - 1)
}

/// Scales and biases of every group, row by row, from those of the file.
fn scales_and_biases(
    (format, stored): (Affine, StoredScales),
    (rows, cols): (usize, usize),
    of: &dyn Fn(usize, usize) -> [f32; 2],
    [_, scales, biases]: [&mut [u8]; MOST_STREAMS],
) {
    let (groups, dense) = (cols / usize::from(format.group), format.scales.dense());
    let (mut scale_bytes, mut bias_bytes) = (Vec::with_capacity(scales.len()), Vec::with_capacity(biases.len()));
    for row in 0..rows {
        for g in 0..groups {
            let [scale, bias] = of(g / stored.groups, row);
            dense.encode(scale, &mut scale_bytes);
            dense.encode(bias, &mut bias_bytes);
        }
    }
    scales.copy_from_slice(&scale_bytes);
    biases.copy_from_slice(&bias_bytes);
}

/// Words `[high, wide]` to `[wide, high]`, in squares that stay in the nearest cache.
fn transpose(words: &[u8], high: usize, wide: usize, out: &mut [u8]) {
    const SQUARE: usize = 16;
    let (words, out) = (words.as_chunks::<4>().0, out.as_chunks_mut::<4>().0);
    assert!(words.len() == high * wide && out.len() == high * wide, "a matrix of {high} x {wide} words");
    for left in (0..wide).step_by(SQUARE) {
        for top in (0..high).step_by(SQUARE) {
            for column in left..wide.min(left + SQUARE) {
                for row in top..high.min(top + SQUARE) {
                    out[column * high + row] = words[row * wide + column];
                }
            }
        }
    }
}

/// AWQ's words `[cols, wide]`, of 8 rows each, to `[8 * wide, cols / 8]` words of 8 columns each.
fn transpose_eights(words: &[u8], cols: usize, wide: usize, out: &mut [u8]) {
    let (words, out) = (words.as_chunks::<4>().0, out.as_chunks_mut::<4>().0);
    let high = cols / 8;
    assert!(words.len() == cols * wide && out.len() == cols * wide, "a matrix of {cols} x {wide} words");
    for left in (0..wide).step_by(2) {
        for top in 0..high {
            for column in left..wide.min(left + 2) {
                let eight: [u32; 8] = std::array::from_fn(|i| u32::from_le_bytes(words[(8 * top + i) * wide + column]));
                for (place, row) in transposed(eight).into_iter().zip(AWQ_ORDER) {
                    out[(8 * column + row) * high + top] = place.to_le_bytes();
                }
            }
        }
    }
}

/// 8 x 8 codes of 4 bits the other way round: squares of 4, of 2, and single ones change places.
fn transposed(mut words: [u32; 8]) -> [u32; 8] {
    for (distance, mask) in [(4, 0x0000_ffff), (2, 0x00ff_00ff), (1, 0x0f0f_0f0f)] {
        for i in (0..8).filter(|i| i & distance == 0) {
            let (low, high) = (words[i], words[i + distance]);
            words[i] = low & mask | (high & mask) << (4 * distance);
            words[i + distance] = high & !mask | (low & !mask) >> (4 * distance);
        }
    }
    words
}

#[cfg(test)]
mod tests;
