//! The definition, for every processor: lanes are elements of arrays, which compilers turn into what vectors there are.

use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{dot_words, kernels, one_token_in_tiles};
use crate::table_kernels::table_kernels;

const LANES: usize = 8;
const TILE: [usize; 2] = [1, 2];

type Words = [u32; LANES];
type Floats = [f32; LANES];

/// An IEEE half, exactly.
#[inline]
pub(crate) fn f16(half: u32) -> f32 {
    let (sign, rest) = ((half & 0x8000) << 16, (half & 0x7fff) << 13);
    // the exponent's bias grows from 15 to 127; a product makes normal numbers of those that are not
    let number = (f32::from_bits(rest) * f32::from_bits((127 + 127 - 15) << 23)).to_bits();
    let special = if rest >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(sign | number | special)
}

/// Words of rows, from byte `first` of each on: `[word, row]`.
fn transpose(rows: &[&[u8]; LANES], first: usize, out: &mut [[u32; LANES]]) {
    for (lane, row) in rows.iter().enumerate() {
        let words = row[first..].as_chunks::<4>().0.iter();
        for (out, word) in out.iter_mut().zip(words) {
            out[lane] = u32::from_le_bytes(*word);
        }
    }
}

/// Four words of rows, from byte `at` of each on.
///
/// # Safety
/// Every row has 16 bytes from there on. Not needed here; the vector forms read without looking.
unsafe fn fours(rows: &[&[u8]; LANES], at: usize) -> [Words; 4] {
    let mut out = [[0; LANES]; 4];
    transpose(rows, at, &mut out);
    out
}

#[inline(always)]
fn each<A: Copy, B: Copy>(a: [A; LANES], of: impl Fn(A) -> B) -> [B; LANES] {
    a.map(of)
}

#[inline(always)]
fn both<A: Copy, B: Copy, C: Copy + Default>(a: [A; LANES], b: [B; LANES], of: impl Fn(A, B) -> C) -> [C; LANES] {
    let mut out = [C::default(); LANES];
    for i in 0..LANES {
        out[i] = of(a[i], b[i]);
    }
    out
}

#[inline(always)]
fn load(from: &[u32; LANES]) -> Words {
    *from
}

#[inline(always)]
fn load_floats(from: &[f32; LANES]) -> Floats {
    *from
}

#[inline(always)]
fn store(values: Floats, to: &mut [f32; LANES]) {
    *to = values;
}

#[inline(always)]
fn spread(word: u32) -> Words {
    [word; LANES]
}

#[inline(always)]
fn spread_float(number: f32) -> Floats {
    [number; LANES]
}

#[inline(always)]
fn and(a: Words, mask: u32) -> Words {
    each(a, |a| a & mask)
}

#[inline(always)]
fn or(a: Words, b: Words) -> Words {
    both(a, b, |a, b| a | b)
}

/// Signed bytes as unsigned ones that are 128 larger.
#[inline(always)]
fn flip(a: Words) -> Words {
    each(a, |a| a ^ 0x8080_8080)
}

#[inline(always)]
fn left(a: Words, bits: u32) -> Words {
    each(a, |a| a << bits)
}

#[inline(always)]
fn right(a: Words, bits: u32) -> Words {
    each(a, |a| a >> bits)
}

/// Adds the products of the four unsigned bytes of `codes`, of `BITS` bits, with the four signed ones of `x`.
#[inline(always)]
fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
    let of = |codes: u32, x: u32| {
        let products = codes.to_le_bytes().into_iter().zip(x.to_le_bytes());
        products.map(|(code, x)| i32::from(code) * i32::from(x as i8)).sum::<i32>() as u32
    };
    both(sums, both(codes, x, of), u32::wrapping_add)
}

#[inline(always)]
fn as_floats(a: Words) -> Floats {
    each(a, f32::from_bits)
}

#[inline(always)]
fn to_floats(a: Words) -> Floats {
    each(a, |a| a as i32 as f32)
}

#[inline(always)]
fn product(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| a * b)
}

#[inline(always)]
fn sum(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| a + b)
}

/// `a * b + c`, rounded once. Where no instruction does so, `mul_add` is the call of a function, a hundred times slower: in f64
/// the product is exact, and a sum that is rounded to odd is right when it is rounded again.
#[inline(always)]
fn fused_number(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return a.mul_add(b, c);
    }
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // what the sum has lost
    let of_c = sum - product;
    let lost = (product - (sum - of_c)) + (c - of_c);
    let bits = sum.to_bits();
    let is_even = bits & 1 == 0;
    // NaN, which is not above 0, where the sum is infinite
    let odd =
        if is_even && lost.abs() > 0.0 { if (lost > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 } } else { bits };
    f64::from_bits(odd) as f32
}

/// `a * b + c`, rounded once.
#[inline(always)]
fn fused(a: Floats, b: Floats, c: Floats) -> Floats {
    both(both(a, b, |a, b| (a, b)), c, |(a, b), c| fused_number(a, b, c))
}

/// IEEE halves, each in the lower half of a word.
#[inline(always)]
fn from_halves(a: Words) -> Floats {
    each(a, f16)
}

#[inline(always)]
fn widen(bytes: &[u8; LANES]) -> Words {
    each(*bytes, u32::from)
}

/// Numbers of 8 bits (E4M3; what would be NaN is 480) divided by 256: as IEEE halves, whose exponents begin 8 lower.
#[inline(always)]
fn from_e4m3(bytes: &[u8; LANES]) -> Floats {
    each(*bytes, |byte| f16(u32::from(byte & 0x7f) << 7 | u32::from(byte & 0x80) << 8))
}

#[inline(always)]
fn as_words(a: Floats) -> Words {
    each(a, f32::to_bits)
}

#[inline(always)]
fn add_words(a: Words, b: Words) -> Words {
    both(a, b, u32::wrapping_add)
}

#[inline(always)]
fn difference(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| a - b)
}

#[inline(always)]
fn quotient(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| a / b)
}

/// The lowest 32 bits of products.
#[inline(always)]
fn times(a: Words, b: u32) -> Words {
    each(a, |a| a.wrapping_mul(b))
}

#[inline(always)]
fn xor(a: Words, b: Words) -> Words {
    both(a, b, |a, b| a ^ b)
}

/// Each byte, which is below 16, as its entry.
#[inline(always)]
fn look_up(table: &[u8; 16], at: Words) -> Words {
    each(at, |at| u32::from_le_bytes(at.to_le_bytes().map(|at| table[usize::from(at & 15)])))
}

/// Entries; of a word the lowest bits count, as many as there are entries for.
#[inline(always)]
fn gather<const N: usize>(table: &[u32; N], at: Words) -> Words {
    const { assert!(N.is_power_of_two()) };
    each(at, |at| table[at as usize % N])
}

/// Byte `i` of each word as all four.
#[inline(always)]
fn spread_byte(a: Words, i: usize) -> Words {
    each(a, |a| (a >> (8 * i) & 0xff) * 0x0101_0101)
}

/// Bytes, where the bit of `of` is set in `signs` taken from those of `sum`.
#[inline(always)]
fn mirrored(a: Words, signs: Words, of: u32, sum: u32) -> Words {
    both(a, signs, |a, signs| {
        let bytes = a.to_le_bytes().into_iter().zip((signs & of).to_le_bytes()).zip(sum.to_le_bytes());
        bytes
            .rev()
            .fold(0, |word, ((a, sign), sum)| word << 8 | u32::from(if sign == 0 { a } else { sum.wrapping_sub(a) }))
    })
}

/// The larger; `b` where one is NaN.
#[inline(always)]
fn larger(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| if a > b { a } else { b })
}

/// The smaller; `b` where one is NaN.
#[inline(always)]
fn smaller(a: Floats, b: Floats) -> Floats {
    both(a, b, |a, b| if a < b { a } else { b })
}

dot_words!();
add_by_token!();
kernels!();
one_token_in_tiles!();
float_kernels!();
block_kernels!();
table_kernels!();

#[cfg(test)]
mod tests {
    use super::fused_number;

    /// Against the definition, where rounding twice would show: sums near the middle of two floats, tiny and huge ones.
    #[test]
    fn a_sum_is_rounded_once() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 32) as u32
        };
        for i in 0..300_000 {
            let [mut a, mut b, mut c] = [(); 3].map(|()| f32::from_bits(next()));
            if i % 2 == 0 {
                // of like sizes, with few bits, so that middles are frequent
                [a, b, c] =
                    [(); 3].map(|()| f32::from_bits(0x3f80_0000 | (next() & 0x8000_0007) | (next() & 0x007f_f000)));
                c *= f32::from_bits((103 + next() % 50) << 23);
            }
            let (found, expected) = (fused_number(a, b, c), a.mul_add(b, c));
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{a} * {b} + {c}");
        }
    }
}
