//! Vectors of 4 or 8 magnitudes from a grid, with signs of their own: 1 to 3 bits.

use super::{Groups, half, no_bias};

/// Eight magnitudes, of grid entry `index`, with the signs of `signs`.
#[inline(always)]
fn eight(book: &[u32], index: usize, signs: u8, codes: &mut [i8]) {
    let values = u64::from(book[2 * index]) | u64::from(book[2 * index + 1]) << 32;
    for (i, (code, value)) in codes.iter_mut().zip(values.to_le_bytes()).enumerate() {
        *code = if signs >> i & 1 == 1 { -(value as i8) } else { value as i8 };
    }
}

/// Twice four magnitudes.
#[inline(always)]
fn twice_four(book: &[u32], indices: [usize; 2], signs: u8, codes: &mut [i8]) {
    let values = u64::from(book[indices[0]]) | u64::from(book[indices[1]]) << 32;
    for (i, (code, value)) in codes.iter_mut().zip(values.to_le_bytes()).enumerate() {
        *code = if signs >> i & 1 == 1 { -(value as i8) } else { value as i8 };
    }
}

/// The eighth sign makes their number even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = seven & 127;
    (seven | (seven.count_ones() & 1) << 7) as u8
}

#[inline(always)]
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[inline(always)]
pub(super) fn iq2_xxs(b: &[u8; 66], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    let d = half(b, 0);
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (at, signs) = (2 + 8 * i, word(b, 6 + 8 * i));
        for (j, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            eight(book, usize::from(b[at + j]), even_signs(signs >> (7 * j)), codes);
        }
        let scale = no_bias(d * (0.5 + (signs >> 28) as f32) * 0.25);
        (groups[2 * i], groups[2 * i + 1]) = (scale, scale);
    }
}

#[inline(always)]
pub(super) fn iq2_xs(b: &[u8; 74], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let both = u32::from(b[2 + 2 * i]) | u32::from(b[3 + 2 * i]) << 8;
        eight(book, (both & 511) as usize, even_signs(both >> 9), codes);
    }
    quarters(half(b, 0), &b[66..74], groups);
}

/// Scales of 4 bits for each 16 columns, and a half more.
#[inline(always)]
fn quarters(d: f32, scales: &[u8], groups: &mut Groups<16>) {
    for (groups, scales) in groups.as_chunks_mut::<2>().0.iter_mut().zip(scales) {
        *groups =
            [no_bias(d * (0.5 + f32::from(scales & 15)) * 0.25), no_bias(d * (0.5 + f32::from(scales >> 4)) * 0.25)];
    }
}

#[inline(always)]
pub(super) fn iq2_s(b: &[u8; 82], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = usize::from(b[66 + i / 4] >> (2 * (i % 4)) & 3);
        eight(book, usize::from(b[2 + i]) | high << 8, b[34 + i], codes);
    }
    quarters(half(b, 0), &b[74..82], groups);
}

#[inline(always)]
pub(super) fn iq3_xxs(b: &[u8; 98], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    let d = half(b, 0);
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (at, signs) = (2 + 8 * i, word(b, 66 + 4 * i));
        for (j, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let indices = [usize::from(b[at + 2 * j]), usize::from(b[at + 2 * j + 1])];
            twice_four(book, indices, even_signs(signs >> (7 * j)), codes);
        }
        let scale = no_bias(d * (0.5 + (signs >> 28) as f32) * 0.5);
        (groups[2 * i], groups[2 * i + 1]) = (scale, scale);
    }
}

#[inline(always)]
pub(super) fn iq3_s(b: &[u8; 110], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    let d = half(b, 0);
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = usize::from(b[66 + i / 4] >> (2 * (i % 4)));
        let indices = [usize::from(b[2 + 2 * i]) | (high & 1) << 8, usize::from(b[3 + 2 * i]) | (high >> 1 & 1) << 8];
        twice_four(book, indices, b[74 + i], codes);
    }
    for (i, groups) in groups.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let scale = b[106 + i / 2] >> (4 * (i % 2)) & 15;
        *groups = [no_bias(d * f32::from(1 + 2 * scale)); 2];
    }
}

/// Eight values -1, 0 and 1 with an eighth more or less, in eighths.
#[inline(always)]
fn eighths(book: &[u32], index: usize, is_less: bool, codes: &mut [i8]) {
    let values = u64::from(book[2 * index]) | u64::from(book[2 * index + 1]) << 32;
    let offset = if is_less { -17 } else { -15 };
    for (code, value) in codes.iter_mut().zip(values.to_le_bytes()) {
        *code = value as i8 + offset;
    }
}

#[inline(always)]
pub(super) fn iq1_s(b: &[u8; 50], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    let d = half(b, 0);
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let high = usize::from(b[34 + 2 * i]) | usize::from(b[35 + 2 * i]) << 8;
        for (j, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let index = usize::from(b[2 + 4 * i + j]) | (high >> (3 * j) & 7) << 8;
            eighths(book, index, high >> 15 == 1, codes);
        }
        let scale = no_bias(d * (2 * (high >> 12 & 7) + 1) as f32 * 0.125);
        (groups[2 * i], groups[2 * i + 1]) = (scale, scale);
    }
}

/// The scale of a block of `IQ1_M`, as f16: four bits in each of its four words of scales.
#[inline(always)]
pub(super) fn iq1_m_scale(b: &[u8]) -> u16 {
    let part = |i: usize| u16::from(b[49 + 2 * i] >> 4) << (4 * i);
    part(0) | part(1) | part(2) | part(3)
}

#[inline(always)]
pub(super) fn iq1_m(b: &[u8; 56], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    let d = super::f16_to_f32(iq1_m_scale(b));
    for (i, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = b[32 + i / 2] >> (4 * (i % 2));
        eighths(book, usize::from(b[i]) | usize::from(high & 7) << 8, high & 8 != 0, codes);
    }
    for (i, group) in groups.iter_mut().enumerate() {
        let scales = u16::from_le_bytes([b[48 + i / 4 * 2], b[49 + i / 4 * 2]]);
        *group = no_bias(d * f32::from(2 * (scales >> (3 * (i % 4)) & 7) + 1) * 0.125);
    }
}
