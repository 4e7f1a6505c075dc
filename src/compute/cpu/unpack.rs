//! Rows of quantised weights in f32.
//!
//! All of it is forced inline into what `product` dispatches. Loops, not `array::from_fn`, `map` on arrays, or functions
//! as arguments: their closures and shims may stay outside the dispatch, where they are compiled for any machine.

use crate::formats::{ScaleType, WeightFormat};

/// Columns that are unpacked and multiplied at a time.
pub(super) const BLOCK: usize = 32;

/// Rows of one format that lie one after the other.
#[derive(Clone, Copy)]
pub(super) struct RowsOf<'a> {
    pub(super) format: WeightFormat,
    pub(super) cols: usize,
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [u8],
    pub(super) biases: &'a [u8],
}

/// Row `r` in f32. `codes` is scratch for a row of one byte per column.
#[inline(always)]
pub(super) fn unpack_row<const FUSED: bool>(rows: RowsOf<'_>, r: usize, codes: &mut [u8], weights: &mut [f32]) {
    let row_bytes = rows.format.row_bytes(rows.cols);
    let bytes = &rows.codes[r * row_bytes..][..row_bytes];
    let (bits, group, kind) = match rows.format {
        WeightFormat::F32 => {
            for (w, bytes) in weights.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *w = f32::from_le_bytes(*bytes);
            }
            return;
        }
        WeightFormat::F16 => {
            for (w, bytes) in weights.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *w = f16_to_f32(u16::from_le_bytes(*bytes));
            }
            return;
        }
        WeightFormat::Bf16 => {
            for (w, bytes) in weights.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *w = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
            return;
        }
        WeightFormat::Affine { bits, group, scales } => (bits, usize::from(group), scales),
    };
    let codes = separate(bits, bytes, codes);
    let scale_bytes = rows.format.row_scale_bytes(rows.cols);
    let scales = &rows.scales[r * scale_bytes..][..scale_bytes];
    let biases = &rows.biases[r * scale_bytes..][..scale_bytes];
    for (g, (weights, codes)) in weights.chunks_mut(group).zip(codes.chunks(group)).enumerate() {
        let (scale, bias) = (scale_at(scales, kind, g), scale_at(biases, kind, g));
        // blocks, because the compiler knows their size
        for (weights, codes) in weights.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<BLOCK>().0) {
            for (w, code) in weights.iter_mut().zip(codes) {
                *w = multiply_add::<FUSED>(f32::from(*code), scale, bias);
            }
        }
    }
}

/// The codes of row `r`, one a byte, and its scales and biases: an affine format. `codes` is scratch.
#[inline(always)]
pub(super) fn row_codes<'a>(rows: RowsOf<'a>, r: usize, codes: &'a mut [u8], groups: &mut [[f32; 2]]) -> &'a [u8] {
    let WeightFormat::Affine { bits, scales: kind, .. } = rows.format else {
        unreachable!("ops check that weights with integer products are affine")
    };
    let row_bytes = rows.format.row_bytes(rows.cols);
    let scale_bytes = rows.format.row_scale_bytes(rows.cols);
    let scales = &rows.scales[r * scale_bytes..][..scale_bytes];
    let biases = &rows.biases[r * scale_bytes..][..scale_bytes];
    for (g, group) in groups.iter_mut().enumerate() {
        *group = [scale_at(scales, kind, g), scale_at(biases, kind, g)];
    }
    separate(bits, &rows.codes[r * row_bytes..][..row_bytes], codes)
}

#[inline(always)]
fn separate<'a>(bits: u8, bytes: &'a [u8], codes: &'a mut [u8]) -> &'a [u8] {
    match bits {
        2 => separate_2_bits(bytes, codes),
        3 => separate_3_bits(bytes, codes),
        4 => separate_4_bits(bytes, codes),
        5 => separate_5_bits(bytes, codes),
        6 => separate_6_bits(bytes, codes),
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
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // without the instruction mul_add is a function call a hundred times slower
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn scale_at(bytes: &[u8], kind: ScaleType, i: usize) -> f32 {
    let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    match kind {
        ScaleType::Bf16 => f32::from_bits(u32::from(half(i)) << 16),
        ScaleType::F16 => f16_to_f32(half(i)),
        ScaleType::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
    }
}

/// Exact, like the conversion of the `half` crate, which is a function call for each number.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    // the exponent's bias grows from 15 to 127; a product makes normal numbers of those that are not
    let number = (f32::from_bits(rest) * f32::from_bits((127 + 127 - 15) << 23)).to_bits();
    let special = if rest >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(sign | number | special)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_half_is_converted_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:04x}");
        }
    }

    #[test]
    fn codes_are_a_stream_of_bits_lowest_first() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let cols = 64;
            let bytes: Vec<u8> = (0..cols * bits / 8).map(|i| (i * 89 + 41) as u8).collect();
            let format = WeightFormat::Affine { bits: bits as u8, group: 64, scales: ScaleType::F32 };
            let (scale, bias) = (1f32.to_le_bytes(), 0f32.to_le_bytes());
            let rows = RowsOf { format, cols, codes: &bytes, scales: &scale, biases: &bias };
            let (mut codes, mut weights) = (vec![0; cols], vec![0.0; cols]);
            unpack_row::<false>(rows, 0, &mut codes, &mut weights);
            for (i, w) in weights.iter().enumerate() {
                let bit = |b: usize| u32::from(bytes[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1) << b;
                let expected: u32 = (0..bits).map(bit).sum();
                assert_eq!(*w, expected as f32, "{bits} bits, column {i}");
            }
        }
    }
}
