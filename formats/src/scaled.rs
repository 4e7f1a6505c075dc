//! Small floats with scales, as FP8, MXFP4, MXFP8 and NVFP4 releases have them: `w = number * scale of its columns * scale of
//! its row`.
//!
//! A row is up to three streams: numbers (one a byte, or two with the first in the low half), scales of groups of columns,
//! and the scale of the row where a release has one for a whole matrix. Scales that a release shares among rows, as FP8's for
//! 128 x 128, are [arranged](crate::Stored) row by row first: 1.6 % more bytes, and rows can be taken and stacked like any.
//!
//! Everything is forced inline into what the CPU's products dispatch; see `affine`.

use std::fmt;

use safetensors::Dtype;

use super::blocks::{FP4, GROUP, half_of_power};
use super::{BLOCK, Family, Fill, MOST_STREAMS, NotFinite, NotFiniteAt, ScaleType, Scratch, WeightRows, split_mix};

/// The numbers that weights are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Number {
    /// 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign.
    E2m1,
    /// 8 bits: 4 of exponent and 3 of mantissa, up to 448, no infinity.
    E4m3,
}

/// What scales are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// 1 byte: a power of two, 2^(byte - 127).
    E8m0,
    /// 1 byte, see [`Number::E4m3`].
    E4m3,
    /// Numbers of 2 or 4 bytes.
    #[serde(untagged)]
    Wide(ScaleType),
}

impl Scale {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Scale::E8m0 | Scale::E4m3 => 1,
            Scale::Wide(number) => number.bytes(),
        }
    }

    /// Scale `i`.
    #[inline(always)]
    fn at(self, bytes: &[u8], i: usize) -> f32 {
        match self {
            Scale::E8m0 => 2.0 * half_of_power(bytes[i]),
            Scale::E4m3 => e4m3(bytes[i]),
            Scale::Wide(number) => number.dense().at(bytes, i),
        }
    }

    /// The first of `bytes` that is no number or infinite.
    fn first_not_finite(self, bytes: &[u8]) -> Option<(usize, f32)> {
        let nan = |is_nan: fn(u8) -> bool| bytes.iter().position(|byte| is_nan(*byte)).map(|i| (i, f32::NAN));
        match self {
            Scale::E8m0 => nan(|byte| byte == 0xff),
            Scale::E4m3 => nan(|byte| byte & 0x7f == 0x7f),
            Scale::Wide(number) => number.dense().first_not_finite(bytes),
        }
    }
}

/// A format of small floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Scaled {
    /// The numbers.
    pub number: Number,
    /// Columns that share a scale, a multiple of 16; 0: the whole row.
    pub group: u16,
    /// Type of these scales.
    pub scales: Scale,
    /// Whether each row has a scale of its own besides, in f32.
    pub row_scales: bool,
}

impl Scaled {
    /// Numbers of 4 bits, a power of two for 32: MXFP4.
    pub const MXFP4: Scaled = Scaled { number: Number::E2m1, group: 32, scales: Scale::E8m0, row_scales: false };
    /// Numbers of 8 bits, a power of two for 32: MXFP8.
    pub const MXFP8: Scaled = Scaled { number: Number::E4m3, group: 32, scales: Scale::E8m0, row_scales: false };
    /// Numbers of 4 bits, a number of 8 bits for 16: NVFP4 without a scale of the matrix.
    pub const NVFP4: Scaled = Scaled { number: Number::E2m1, group: 16, scales: Scale::E4m3, row_scales: false };

    /// One of each kind: of 4 bits, then of 8.
    pub const KINDS: [Scaled; 6] = [
        Scaled::MXFP4,
        Scaled::NVFP4,
        Scaled { row_scales: true, ..Scaled::NVFP4 },
        Scaled::MXFP8,
        Scaled::fp8(128, ScaleType::F32),
        Scaled::fp8(0, ScaleType::Bf16),
    ];

    /// Numbers of 8 bits with `scales` for `group` columns: FP8.
    pub const fn fp8(group: u16, scales: ScaleType) -> Scaled {
        Scaled { number: Number::E4m3, group, scales: Scale::Wide(scales), row_scales: false }
    }

    /// Whether kernels exist for it.
    pub fn is_known(&self) -> bool {
        let Scaled { number, group, scales, row_scales } = *self;
        match number {
            Number::E2m1 => {
                [Scaled::MXFP4, Scaled::NVFP4].contains(&Scaled { row_scales: false, ..*self })
                    && (group == 16 || !row_scales)
            }
            Number::E4m3 => usize::from(group).is_multiple_of(BLOCK) && scales != Scale::E4m3 && !row_scales,
        }
    }

    /// Scales of groups that a row of `cols` columns has.
    fn scales_of(&self, cols: usize) -> usize {
        if self.group == 0 { 1 } else { cols.div_ceil(usize::from(self.group)) }
    }

    /// Columns of a row of `cols` that share a scale.
    fn shared_by(&self, cols: usize) -> usize {
        if self.group == 0 { cols } else { usize::from(self.group) }
    }

    fn row_scale(&self, bytes: &[u8]) -> f32 {
        if self.row_scales { ScaleType::F32.dense().at(bytes, 0) } else { 1.0 }
    }

    /// The scale of each 16 columns of a row, with that of the row.
    #[inline(always)]
    pub(crate) fn scales_of_row(&self, [_, scales, row]: [&[u8]; MOST_STREAMS], groups: &mut [[f32; 2]]) {
        let (shared, row) = (self.shared_by(GROUP * groups.len()) / GROUP, self.row_scale(row));
        for (i, groups) in groups.chunks_mut(shared).enumerate() {
            let scale = self.scales.at(scales, i) * row;
            for group in groups {
                // adding -0 changes no number, not even 0
                *group = [scale, -0.0];
            }
        }
    }

    /// The codes of a row of 4-bit numbers, doubled, and half of the scales of each 16 columns.
    #[inline(always)]
    pub(crate) fn separate(self, row: [&[u8]; MOST_STREAMS], codes: &mut [i8], groups: &mut [[f32; 2]]) {
        let book = FP4.as_slice();
        for (codes, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(row[0]) {
            let pair = book[usize::from(*byte)];
            *codes = [pair as i8, (pair >> 8) as i8];
        }
        self.scales_of_row(row, groups);
        for group in groups {
            group[0] *= 0.5;
        }
    }

    /// One row in f32.
    #[inline(always)]
    pub(crate) fn unpack(self, row: [&[u8]; MOST_STREAMS], scratch: &mut Scratch, weights: &mut [f32]) {
        let Scratch { codes, groups } = scratch;
        match self.number {
            Number::E2m1 => {
                let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
                self.separate(row, codes, groups);
                let groups = groups.iter().zip(codes.as_chunks::<GROUP>().0);
                for (weights, ([scale, _], codes)) in weights.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
                    for (w, code) in weights.iter_mut().zip(codes) {
                        *w = f32::from(*code) * scale;
                    }
                }
            }
            Number::E4m3 => {
                self.scales_of_row(row, groups);
                let groups = groups.iter().zip(row[0].as_chunks::<GROUP>().0);
                for (weights, ([scale, _], codes)) in weights.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
                    for (w, code) in weights.iter_mut().zip(codes) {
                        *w = e4m3(*code) * scale;
                    }
                }
            }
        }
    }
}

/// A number of 8 bits; what would be NaN is 480.
#[inline(always)]
pub(crate) fn e4m3(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    // 7 of mantissa, then the exponent: its bias grows from 7 to 127
    let normal = f32::from_bits((magnitude << 20) + ((127 - 7) << 23));
    let number = if magnitude < 8 { magnitude as f32 * f32::from_bits((127 - 9) << 23) } else { normal };
    f32::from_bits(number.to_bits() | u32::from(byte & 0x80) << 24)
}

impl Family for Scaled {
    fn stream_names(&self) -> &'static [&'static str] {
        const NAMES: [&str; MOST_STREAMS] = ["numbers", "scales", "row_scales"];
        &NAMES[..if self.row_scales { 3 } else { 2 }]
    }

    fn stream_dtypes(&self) -> Vec<Dtype> {
        let scales = match self.scales {
            Scale::E8m0 | Scale::E4m3 => Dtype::U8,
            Scale::Wide(number) => number.dense().dtype(),
        };
        [Dtype::U8, scales, Dtype::F32][..self.stream_names().len()].to_vec()
    }

    fn stream_bytes(&self, cols: usize) -> [usize; MOST_STREAMS] {
        let numbers = match self.number {
            Number::E2m1 => cols / 2,
            Number::E4m3 => cols,
        };
        [numbers, self.scales_of(cols) * self.scales.bytes(), if self.row_scales { 4 } else { 0 }]
    }

    fn column_multiple(&self) -> usize {
        BLOCK
    }

    fn interleave(&self) -> Option<usize> {
        match (self.number, self.group) {
            (Number::E4m3, _) => Some(1),
            // the low halves of a word's bytes, then the high halves
            (Number::E2m1, _) => Some(2),
        }
    }

    fn suffix(&self) -> &'static str {
        match (self.number, self.group) {
            (Number::E4m3, _) => "fp8",
            (Number::E2m1, 16) => "fp4_16",
            (Number::E2m1, _) => "fp4",
        }
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        let kind = match self.scales {
            Scale::Wide(ScaleType::Bf16) => 0.0,
            Scale::Wide(ScaleType::F16) => 1.0,
            Scale::Wide(ScaleType::F32) => 2.0,
            Scale::E8m0 | Scale::E4m3 => 3.0,
        };
        match self.number {
            Number::E4m3 => vec![("scale_type", kind), ("group_blocks", f64::from(self.group) / BLOCK as f64)],
            Number::E2m1 if self.group == 16 => {
                vec![("row_scales", f64::from(u8::from(self.row_scales))), ("paired", 1.0)]
            }
            Number::E2m1 => Vec::new(),
        }
    }

    /// Scales alone: numbers are as many bytes as the matrix.
    fn first_not_finite(&self, rows: &WeightRows<'_>) -> Option<NotFiniteAt> {
        let bytes = self.stream_bytes(rows.cols);
        let of = |stream: usize, scale: Scale, columns: usize| {
            let (index, value) = scale.first_not_finite(rows.streams[stream])?;
            let (each, byte) = (bytes[stream] / scale.bytes(), index * scale.bytes());
            let (row, index) = (index / each, index % each);
            Some(NotFiniteAt { row, column: index * columns, stream, index, byte, value })
        };
        let found = [
            of(1, self.scales, self.shared_by(rows.cols)),
            if self.row_scales { of(2, Scale::Wide(ScaleType::F32), rows.cols) } else { None },
        ];
        found.into_iter().flatten().min_by_key(|bad| (bad.row, bad.column))
    }

    fn quantise_row(&self, _: &[f32], _: [&mut [u8]; MOST_STREAMS]) -> Result<(), NotFinite> {
        unreachable!("what is quantised here becomes affine; small floats are copied as they are")
    }

    fn fills(&self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS] {
        // primes, so that rows begin at another number and scale each
        const PERIODS: [usize; 2] = [4093, 251];
        let mut state = seed;
        let mut numbers: Vec<u8> = (0..PERIODS[0]).map(|_| (split_mix(&mut state) >> 32) as u8).collect();
        let deviation = match self.number {
            // of the 16 numbers
            Number::E2m1 => 2.93,
            Number::E4m3 => {
                // up to 15: the last exponents would be most of the sum
                numbers.iter_mut().for_each(|byte| *byte = *byte & 0x80 | ((*byte & 0x7f) % 0x58));
                3.97
            }
        };
        let scale = gain / (cols as f32).sqrt() / deviation;
        let row = if self.row_scales { 1.0 / 1024.0 } else { 1.0 };
        let mut scales = Vec::new();
        for _ in 0..PERIODS[1] {
            let factor = 0.5 + (split_mix(&mut state) >> 40) as f32 / (1 << 24) as f32;
            match self.scales {
                Scale::E8m0 => scales.push(((scale * factor).log2().round() as i32 + 127).clamp(1, 254) as u8),
                Scale::E4m3 => scales.push(nearest_e4m3(factor * scale / row)),
                Scale::Wide(number) => number.dense().encode(factor * scale, &mut scales),
            }
        }
        let row = if self.row_scales { Fill::Repeat(row.to_le_bytes().to_vec()) } else { Fill::Nothing };
        [Fill::Repeat(numbers), Fill::Repeat(scales), row]
    }
}

/// A positive number in 8 bits.
fn nearest_e4m3(value: f32) -> u8 {
    let distance = |byte: &u8| (e4m3(*byte) - value).abs();
    (1..0x7f).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(1)
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.number, self.scales, self.group) {
            (Number::E2m1, Scale::E8m0, _) => f.write_str("MXFP4"),
            (Number::E2m1, ..) => f.write_str("NVFP4"),
            (Number::E4m3, Scale::E8m0, _) => f.write_str("MXFP8"),
            (Number::E4m3, _, 0) => f.write_str("FP8, a scale per row"),
            (Number::E4m3, _, group) => write!(f, "FP8, group {group}"),
        }
    }
}
