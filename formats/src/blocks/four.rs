//! Codes of 4 bits that are looked up: `IQ4_NL`, `IQ4_XS`, `MXFP4`, `NVFP4`.

use super::{Groups, half, no_bias};
use crate::scaled::e4m3;

/// Values of the low halves of some bytes, then of the high halves.
#[inline(always)]
fn look_up<const N: usize>(bytes: &[u8], book: &[u32], codes: &mut [i8]) {
    for (bytes, codes) in bytes.as_chunks::<N>().0.iter().zip(codes.chunks_exact_mut(2 * N)) {
        let (low, high) = codes.split_at_mut(N);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            let pair = book[usize::from(*byte)];
            (*low, *high) = (pair as i8, (pair >> 8) as i8);
        }
    }
}

#[inline(always)]
pub(super) fn iq4_nl(b: &[u8; 18], codes: &mut [i8; 32], groups: &mut Groups<2>, book: &[u32]) {
    look_up::<16>(&b[2..], book, codes);
    *groups = [no_bias(half(b, 0)); 2];
}

#[inline(always)]
pub(super) fn iq4_xs(b: &[u8; 136], codes: &mut [i8; 256], groups: &mut Groups<16>, book: &[u32]) {
    look_up::<16>(&b[8..], book, codes);
    let (d, high) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (i, groups) in groups.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let low = b[4 + i / 2] >> (4 * (i % 2)) & 15;
        let scale = low | ((high >> (2 * i) & 3) << 4) as u8;
        *groups = [no_bias(d * f32::from(scale as i8 - 32)); 2];
    }
}

#[inline(always)]
pub(super) fn mxfp4(b: &[u8; 17], codes: &mut [i8; 32], groups: &mut Groups<2>, book: &[u32]) {
    look_up::<16>(&b[1..], book, codes);
    *groups = [no_bias(half_of_power(b[0])); 2];
}

/// Half of 2^(exponent - 127): the values of the codes are doubled.
#[inline(always)]
pub(crate) fn half_of_power(exponent: u8) -> f32 {
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (u32::from(exponent) - 1) << 23 })
}

#[inline(always)]
pub(super) fn nvfp4(b: &[u8; 36], codes: &mut [i8; 64], groups: &mut Groups<4>, book: &[u32]) {
    look_up::<8>(&b[4..], book, codes);
    for (group, scale) in groups.iter_mut().zip(b) {
        *group = no_bias(half_of_scale(*scale));
    }
}

/// Half of a scale, which has no sign; what would be NaN is 0.
#[inline(always)]
fn half_of_scale(byte: u8) -> f32 {
    if byte == 0x7f { 0.0 } else { 0.5 * e4m3(byte & 0x7f) }
}
