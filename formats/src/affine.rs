//! Affine quantisation: unsigned codes with a scale and a bias per group of columns.
//!
//! A row is three streams: codes of `bits` bits each, packed without gaps from the lowest bit of the first byte, and per
//! group of `group` columns a scale and a bias: `w = scale * code + bias`. Scales may be negative. A row of 32 columns is
//! `4 * bits` bytes of codes, so that blocks of 32 begin at whole words.
//!
//! Unpacking is forced inline into what the CPU's products dispatch. Loops, not `array::from_fn`, `map` on arrays, or
//! functions as arguments: their closures and shims may stay outside the dispatch, where they are compiled for any machine.

mod group;
mod quantise;
mod weighted;

use std::fmt;

use pulp::{Arch, Simd, WithSimd};
use safetensors::Dtype;

pub(super) use quantise::check_finite;
pub use quantise::{NotFinite, pack_codes, quantise_row};
pub use weighted::fit_group;

use super::{BLOCK, Family, Fill, MOST_STREAMS, NotFiniteAt, ScaleType, Scratch, WeightRows, split_mix};

/// An affine format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Affine {
    /// Bits per code: 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// Columns that share a scale and a bias: 32, 64 or 128.
    pub group: u16,
    /// Type of scales and biases.
    pub scales: ScaleType,
}

impl Affine {
    /// The bits that a code may have.
    pub const BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];
    /// The group sizes there are.
    pub const GROUPS: [u16; 3] = [32, 64, 128];

    /// Whether kernels exist for it.
    pub fn is_known(&self) -> bool {
        Affine::BITS.contains(&self.bits) && Affine::GROUPS.contains(&self.group)
    }

    /// One row in f32; `codes` is scratch for a row of one byte per column.
    #[inline(always)]
    pub(super) fn unpack<const FUSED: bool>(
        self,
        [bytes, scales, biases]: [&[u8]; MOST_STREAMS],
        codes: &mut [u8],
        weights: &mut [f32],
    ) {
        let (group, number) = (usize::from(self.group), self.scales.dense());
        let codes = separate(self.bits, bytes, codes);
        for (g, (weights, codes)) in weights.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
            let (scale, bias) = (number.at(scales, g), number.at(biases, g));
            // blocks, because the compiler knows their size
            for (weights, codes) in weights.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<BLOCK>().0) {
                for (w, code) in weights.iter_mut().zip(codes) {
                    *w = multiply_add::<FUSED>(f32::from(*code), scale, bias);
                }
            }
        }
    }
}

/// A row for [`WeightRows::unpack`], with the widest vectors that the machine has.
struct UnpackRow<'a> {
    rows: WeightRows<'a>,
    r: usize,
    out: &'a mut [f32],
}

impl WithSimd for UnpackRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.rows.unpack_inline::<false>(self.r, &mut Scratch::new(self.rows.cols), self.out);
    }
}

/// Row `r` of `rows`, of any format.
pub(super) fn unpack_dispatched(rows: WeightRows<'_>, r: usize, out: &mut [f32]) {
    Arch::new().dispatch(UnpackRow { rows, r, out });
}

impl Family for Affine {
    fn stream_names(&self) -> &'static [&'static str] {
        &["weight", "scales", "biases"]
    }

    fn stream_dtypes(&self) -> Vec<Dtype> {
        let scales = self.scales.dense().dtype();
        vec![Dtype::U32, scales, scales]
    }

    fn stream_bytes(&self, cols: usize) -> [usize; MOST_STREAMS] {
        let scales = cols / usize::from(self.group) * self.scales.bytes();
        [cols * usize::from(self.bits) / 8, scales, scales]
    }

    fn column_multiple(&self) -> usize {
        usize::from(self.group)
    }

    fn interleave(&self) -> Option<usize> {
        Some(match self.bits {
            8 => 1,
            4 => 2,
            2 | 6 => 4,
            // codes that are no part of a byte are put together one by one
            _ => 8,
        })
    }

    fn suffix(&self) -> &'static str {
        match self.bits {
            2 => "q2",
            3 => "q3",
            4 => "q4",
            5 => "q5",
            6 => "q6",
            8 => "q8",
            other => unreachable!("{other} bits: whoever makes a format has asked is_known"),
        }
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        let scale_type = match self.scales {
            ScaleType::Bf16 => 0.0,
            ScaleType::F16 => 1.0,
            ScaleType::F32 => 2.0,
        };
        vec![("group_blocks", f64::from(self.group) / BLOCK as f64), ("scale_type", scale_type)]
    }

    fn first_not_finite(&self, rows: &WeightRows<'_>) -> Option<NotFiniteAt> {
        let group = usize::from(self.group);
        rows.first_of_numbers(&[(1, self.scales, group), (2, self.scales, group)])
    }

    fn quantise_row(
        &self,
        weights: &[f32],
        [codes, scales, biases]: [&mut [u8]; MOST_STREAMS],
    ) -> Result<(), NotFinite> {
        assert_eq!(self.scales, ScaleType::Bf16, "the scales that the search makes");
        quantise_row(self.bits, self.group, weights, codes, scales, biases)
    }

    fn fills(&self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS] {
        // a prime, so that groups of a column have different scales
        const PERIOD: usize = 61;
        let levels = (1u32 << self.bits) as f32;
        let step = gain / (cols as f32).sqrt() / ((levels * levels - 1.0) / 12.0).sqrt();
        let (mut state, mut scales, mut biases) = (seed, Vec::new(), Vec::new());
        for _ in 0..PERIOD {
            let unit = (split_mix(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            self.scales.dense().encode(step * (1.0 + 0.5 * unit), &mut scales);
            // of the scale as it is stored
            let scale = self.scales.dense().at(&scales, biases.len() / self.scales.bytes());
            self.scales.dense().encode(-scale * (levels - 1.0) / 2.0, &mut biases);
        }
        [Fill::Random, Fill::Repeat(scales), Fill::Repeat(biases)]
    }
}

impl fmt::Display for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-bit affine, group {}", self.bits, self.group)
    }
}

#[inline(always)]
pub(crate) fn separate<'a>(bits: u8, bytes: &'a [u8], codes: &'a mut [u8]) -> &'a [u8] {
    match bits {
        2 => separate_2_bits(bytes, codes),
        3 => separate_3_bits(bytes, codes),
        4 => separate_4_bits(bytes, codes),
        5 => separate_5_bits(bytes, codes),
        6 => separate_6_bits(bytes, codes),
        // one a byte already
        _ => bytes,
    }
}

// Codes are one stream of bits, lowest first. In each of these the compiler finds the vector instructions for a stride
// of so many bytes; a loop over the position of a code in the stream runs byte by byte, five times slower.

#[inline(always)]
fn separate_2_bits<'a>(bytes: &[u8], codes: &'a mut [u8]) -> &'a [u8] {
    for (codes, a) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
        *codes = [a & 3, (a >> 2) & 3, (a >> 4) & 3, a >> 6];
    }
    codes
}

#[inline(always)]
fn separate_3_bits<'a>(bytes: &[u8], codes: &'a mut [u8]) -> &'a [u8] {
    for (codes, [a, b, c]) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<3>().0) {
        *codes = [
            a & 7,
            (a >> 3) & 7,
            (a >> 6 | b << 2) & 7,
            (b >> 1) & 7,
            (b >> 4) & 7,
            (b >> 7 | c << 1) & 7,
            (c >> 2) & 7,
            c >> 5,
        ];
    }
    codes
}

#[inline(always)]
fn separate_4_bits<'a>(bytes: &[u8], codes: &'a mut [u8]) -> &'a [u8] {
    for (codes, a) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *codes = [a & 15, a >> 4];
    }
    codes
}

#[inline(always)]
fn separate_5_bits<'a>(bytes: &[u8], codes: &'a mut [u8]) -> &'a [u8] {
    for (codes, [a, b, c, d, e]) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<5>().0) {
        *codes = [
            a & 31,
            (a >> 5 | b << 3) & 31,
            (b >> 2) & 31,
            (b >> 7 | c << 1) & 31,
            (c >> 4 | d << 4) & 31,
            (d >> 1) & 31,
            (d >> 6 | e << 2) & 31,
            e >> 3,
        ];
    }
    codes
}

#[inline(always)]
fn separate_6_bits<'a>(bytes: &[u8], codes: &'a mut [u8]) -> &'a [u8] {
    for (codes, [a, b, c]) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes.as_chunks::<3>().0) {
        *codes = [a & 63, (a >> 6 | b << 2) & 63, (b >> 4 | c << 4) & 63, c >> 2];
    }
    codes
}

#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // without the instruction mul_add is a function call a hundred times slower
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightFormat;

    #[test]
    fn codes_are_a_stream_of_bits_lowest_first() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let cols = 64;
            let bytes: Vec<u8> = (0..cols * bits / 8).map(|i| (i * 89 + 41) as u8).collect();
            let format = WeightFormat::Affine(Affine { bits: bits as u8, group: 64, scales: ScaleType::F32 });
            let (scale, bias) = (1f32.to_le_bytes(), 0f32.to_le_bytes());
            let rows = WeightRows { format, cols, streams: [&bytes, &scale, &bias] };
            let mut weights = vec![0.0; cols];
            rows.unpack(0, &mut weights);
            for (i, w) in weights.iter().enumerate() {
                let bit = |b: usize| u32::from(bytes[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1) << b;
                let expected: u32 = (0..bits).map(bit).sum();
                assert_eq!(*w, expected as f32, "{bits} bits, column {i}");
            }
        }
    }
}
