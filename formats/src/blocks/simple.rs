//! Blocks of 32 columns with one scale: the first formats of GGUF.

use super::{Groups, half, low_and_high, no_bias};

#[inline(always)]
pub(super) fn q4_0(b: &[u8; 18], codes: &mut [i8; 32], groups: &mut Groups<2>) {
    low_and_high(&b[2..], codes);
    for code in codes.iter_mut() {
        *code -= 8;
    }
    *groups = [no_bias(half(b, 0)); 2];
}

#[inline(always)]
pub(super) fn q4_1(b: &[u8; 20], codes: &mut [i8; 32], groups: &mut Groups<2>) {
    low_and_high(&b[4..], codes);
    *groups = [[half(b, 0), half(b, 2)]; 2];
}

/// Adds the fifth bit of each code.
#[inline(always)]
fn fifth_bits(bits: &[u8], codes: &mut [i8; 32]) {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) << 4) as i8;
    }
}

#[inline(always)]
pub(super) fn q5_0(b: &[u8; 22], codes: &mut [i8; 32], groups: &mut Groups<2>) {
    low_and_high(&b[6..], codes);
    fifth_bits(&b[2..], codes);
    for code in codes.iter_mut() {
        *code -= 16;
    }
    *groups = [no_bias(half(b, 0)); 2];
}

#[inline(always)]
pub(super) fn q5_1(b: &[u8; 24], codes: &mut [i8; 32], groups: &mut Groups<2>) {
    low_and_high(&b[8..], codes);
    fifth_bits(&b[4..], codes);
    *groups = [[half(b, 0), half(b, 2)]; 2];
}

#[inline(always)]
pub(super) fn q8_0(b: &[u8; 34], codes: &mut [i8; 32], groups: &mut Groups<2>) {
    for (code, byte) in codes.iter_mut().zip(&b[2..]) {
        *code = *byte as i8;
    }
    *groups = [no_bias(half(b, 0)); 2];
}
