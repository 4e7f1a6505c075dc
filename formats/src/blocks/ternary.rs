//! Codes -1, 0 and 1 with one scale for 256 columns.

use super::{Groups, half, no_bias};

/// Five codes are a number of base 3, multiplied so that the highest digit is the upper part of a product with 3.
#[inline(always)]
pub(super) fn tq1_0(b: &[u8; 54], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let (a, rest) = codes.split_at_mut(160);
    let (c, d) = rest.split_at_mut(80);
    digits::<32>(&b[..32], &POWERS, a);
    digits::<16>(&b[32..48], &POWERS, c);
    digits::<4>(&b[48..52], &POWERS[..4], d);
    *groups = [no_bias(half(b, 52)); 16];
}

#[inline(always)]
fn digits<const N: usize>(bytes: &[u8], powers: &[u8], codes: &mut [i8]) {
    for (power, codes) in powers.iter().zip(codes.as_chunks_mut::<N>().0) {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code = ((u16::from(byte.wrapping_mul(*power)) * 3) >> 8) as i8 - 1;
        }
    }
}

#[inline(always)]
pub(super) fn tq2_0(b: &[u8; 66], codes: &mut [i8; 256], groups: &mut Groups<16>) {
    for (bytes, codes) in b[..64].as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for (shift, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = (byte >> (2 * shift) & 3) as i8 - 1;
            }
        }
    }
    *groups = [no_bias(half(b, 64)); 16];
}
