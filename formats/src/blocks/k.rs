//! K-quants: blocks of 256 columns, whose groups of 16 or 32 have scales of a few bits.

use super::{Groups, half, low_and_high_of, no_bias};

/// Two bits of a code: of each 32 bytes the lowest pairs are the first 32 columns.
#[inline(always)]
fn pairs_of_bits(bytes: &[u8], codes: &mut [i8; 256]) {
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for (shift, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = (byte >> (2 * shift) & 3) as i8;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q2_k(b: &[u8; 84], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    pairs_of_bits(&b[16..80], codes);
    let (d, min) = (half(b, 80), half(b, 82));
    for (group, scale) in groups.iter_mut().zip(b) {
        *group = [d * f32::from(scale & 15), -(min * f32::from(scale >> 4))];
    }
}

#[inline(always)]
pub(super) fn q3_k(b: &[u8; 110], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    pairs_of_bits(&b[32..96], codes);
    // the third bit is of a code that is 4 larger
    for (bit, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(b) {
            *code += (byte >> bit & 1) as i8 * 4 - 4;
        }
    }
    let (scales, d) = (&b[96..108], half(b, 108));
    for (i, group) in groups.iter_mut().enumerate() {
        let low = scales[i % 8] >> (4 * (i / 8)) & 15;
        let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
        *group = no_bias(d * f32::from((low | high << 4) as i8 - 32));
    }
}

/// The scale and the minimum of each group of 32, of 6 bits each in 12 bytes.
#[inline(always)]
fn scales_of_6_bits(b: &[u8], groups: &mut Groups<16>) {
    let (d, min, scales) = (half(b, 0), half(b, 2), &b[4..16]);
    for i in 0..4 {
        let (scale, offset, both) = (scales[i], scales[4 + i], scales[8 + i]);
        let low = [d * f32::from(scale & 63), -(min * f32::from(offset & 63))];
        let high = [d * f32::from(both & 15 | scale >> 2 & 0x30), -(min * f32::from(both >> 4 | offset >> 2 & 0x30))];
        (groups[2 * i], groups[2 * i + 1]) = (low, low);
        (groups[8 + 2 * i], groups[9 + 2 * i]) = (high, high);
    }
}

#[inline(always)]
pub(super) fn q4_k(b: &[u8; 144], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    low_and_high_of::<32>(&b[16..], codes);
    scales_of_6_bits(b, groups);
}

#[inline(always)]
pub(super) fn q5_k(b: &[u8; 176], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    low_and_high_of::<32>(&b[48..], codes);
    for (bit, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(&b[16..48]) {
            *code |= ((byte >> bit & 1) << 4) as i8;
        }
    }
    scales_of_6_bits(b, groups);
}

#[inline(always)]
pub(super) fn q6_k(b: &[u8; 210], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    low_and_high_of::<64>(&b[..128], codes);
    for (bytes, codes) in b[128..192].as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for (shift, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = (*code | ((byte >> (2 * shift) & 3) << 4) as i8) - 32;
            }
        }
    }
    let d = half(b, 208);
    for (group, scale) in groups.iter_mut().zip(&b[192..208]) {
        *group = no_bias(d * f32::from(*scale as i8));
    }
}
