//! Matrix products on the CPU: rows over threads, 32 columns at a time with the widest vector instructions there are.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::experts::MatrixPlace;
use crate::formats::{ScaleType, WeightFormat};
use crate::model::Matrix;

/// Columns that are unpacked and multiplied at a time.
const BLOCK: usize = 32;
/// Tokens that share one unpacking of a block.
const TILE: usize = 4;
/// Products smaller than this many weights are not worth waking threads for.
const SERIAL: usize = 1 << 15;

/// Rows of one format that lie one after the other.
#[derive(Clone, Copy)]
struct RowsOf<'a> {
    format: WeightFormat,
    cols: usize,
    codes: &'a [u8],
    scales: &'a [u8],
    biases: &'a [u8],
}

/// `[rows, tokens]`: every row of the matrix times every row of `x`.
pub(crate) fn matrix_product(matrix: &Matrix, x: &[&[f32]]) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows * x.len()];
    let mut rest = out.as_mut_slice();
    for block in &matrix.blocks {
        let (now, later) = rest.split_at_mut(block.rows * x.len());
        rest = later;
        let rows = RowsOf {
            format: matrix.format,
            cols: matrix.cols,
            codes: &block.codes,
            scales: &block.scales,
            biases: &block.biases,
        };
        product(rows, x, now);
    }
    out
}

/// The same for one matrix of an expert in its slot.
pub(crate) fn expert_product(place: &MatrixPlace, slot: &[u8], x: &[&[f32]]) -> Vec<f32> {
    let mut out = vec![0.0; place.rows * x.len()];
    let scale_bytes = place.rows * place.format.row_scale_bytes(place.cols);
    let rows = RowsOf {
        format: place.format,
        cols: place.cols,
        codes: &slot[place.codes..][..place.rows * place.format.row_bytes(place.cols)],
        scales: &slot[place.scales..][..scale_bytes],
        biases: &slot[place.biases..][..scale_bytes],
    };
    product(rows, x, &mut out);
    out
}

fn product(rows: RowsOf<'_>, x: &[&[f32]], out: &mut [f32]) {
    let tokens = x.len();
    let count = out.len() / tokens.max(1);
    let run = |first: usize, out: &mut [f32]| {
        // one dispatch per run of rows: everything below is compiled for the instructions found
        let arch = Arch::new();
        if cfg!(target_arch = "aarch64") || !matches!(arch, Arch::Scalar) {
            arch.dispatch(Fused { rows, x, first, out });
        } else {
            rows_times::<false>(rows, x, first, out);
        }
    };
    if count * rows.cols * tokens < SERIAL {
        run(0, out);
    } else {
        let threads = rayon::current_num_threads();
        let per_task = count.div_ceil(4 * threads).max(8);
        out.par_chunks_mut(per_task * tokens).enumerate().for_each(|(i, out)| run(i * per_task, out));
    }
}

/// A product with fused multiply-add. Not a closure: those are not always inlined into the function that has the
/// instructions, and then every multiply-add is a call (measured: 40 times slower).
struct Fused<'a> {
    rows: RowsOf<'a>,
    x: &'a [&'a [f32]],
    first: usize,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Fused<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        rows_times::<true>(self.rows, self.x, self.first, self.out);
    }
}

#[inline(always)]
fn rows_times<const FUSED: bool>(rows: RowsOf<'_>, x: &[&[f32]], first: usize, out: &mut [f32]) {
    match rows.format {
        WeightFormat::F32 => tiles::<FUSED, 128>(rows, x, first, out, unpack_f32),
        WeightFormat::F16 => tiles::<FUSED, 64>(rows, x, first, out, unpack_f16),
        WeightFormat::Bf16 => tiles::<FUSED, 64>(rows, x, first, out, unpack_bf16),
        WeightFormat::Affine { bits: 2, .. } => tiles::<FUSED, 8>(rows, x, first, out, unpack_bits::<2, 8>),
        WeightFormat::Affine { bits: 3, .. } => tiles::<FUSED, 12>(rows, x, first, out, unpack_bits::<3, 12>),
        WeightFormat::Affine { bits: 4, .. } => tiles::<FUSED, 16>(rows, x, first, out, unpack_q4),
        WeightFormat::Affine { bits: 5, .. } => tiles::<FUSED, 20>(rows, x, first, out, unpack_bits::<5, 20>),
        WeightFormat::Affine { bits: 6, .. } => tiles::<FUSED, 24>(rows, x, first, out, unpack_bits::<6, 24>),
        WeightFormat::Affine { .. } => tiles::<FUSED, 32>(rows, x, first, out, unpack_q8),
    }
}

/// Runs `dots` over tiles of tokens. A token's sum does not depend on which tile it is in.
#[inline(always)]
fn tiles<const FUSED: bool, const BYTES: usize>(
    rows: RowsOf<'_>,
    x: &[&[f32]],
    first: usize,
    out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES]) -> [f32; BLOCK] + Copy,
) {
    let tokens = x.len();
    for (r, out) in out.chunks_exact_mut(tokens).enumerate() {
        for (x, out) in x.chunks(TILE).zip(out.chunks_mut(TILE)) {
            match *x {
                [a] => out.copy_from_slice(&dots::<FUSED, BYTES, 1>(rows, first + r, [a], unpack)),
                [a, b] => out.copy_from_slice(&dots::<FUSED, BYTES, 2>(rows, first + r, [a, b], unpack)),
                [a, b, c] => out.copy_from_slice(&dots::<FUSED, BYTES, 3>(rows, first + r, [a, b, c], unpack)),
                [a, b, c, d] => {
                    out.copy_from_slice(&dots::<FUSED, BYTES, 4>(rows, first + r, [a, b, c, d], unpack));
                }
                _ => {}
            }
        }
    }
}

/// One row times `N` tokens: 32 running sums a token, added up at the end.
#[inline(always)]
fn dots<const FUSED: bool, const BYTES: usize, const N: usize>(
    rows: RowsOf<'_>,
    r: usize,
    x: [&[f32]; N],
    unpack: impl Fn(&[u8; BYTES]) -> [f32; BLOCK] + Copy,
) -> [f32; N] {
    let row_bytes = rows.format.row_bytes(rows.cols);
    let codes = &rows.codes[r * row_bytes..][..row_bytes];
    let scale_bytes = rows.format.row_scale_bytes(rows.cols);
    let scales = &rows.scales[r * scale_bytes..][..scale_bytes];
    let biases = &rows.biases[r * scale_bytes..][..scale_bytes];
    let x = x.map(|x| x.as_chunks::<BLOCK>().0);
    let mut sums = [[0.0f32; BLOCK]; N];
    for (b, codes) in codes.as_chunks::<BYTES>().0.iter().enumerate() {
        let mut w = unpack(codes);
        if let WeightFormat::Affine { group, scales: kind, .. } = rows.format {
            let g = b * BLOCK / usize::from(group);
            let (scale, bias) = (scale_at(scales, kind, g), scale_at(biases, kind, g));
            for w in &mut w {
                *w = multiply_add::<FUSED>(*w, scale, bias);
            }
        }
        for (sums, x) in sums.iter_mut().zip(x) {
            for ((sum, w), x) in sums.iter_mut().zip(&w).zip(&x[b]) {
                *sum = multiply_add::<FUSED>(*w, *x, *sum);
            }
        }
    }
    sums.map(|mut sums| {
        let mut n = BLOCK / 2;
        while n > 0 {
            for i in 0..n {
                sums[i] += sums[i + n];
            }
            n /= 2;
        }
        sums[0]
    })
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // without the instruction mul_add is a function call a hundred times slower
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn scale_at(bytes: &[u8], kind: ScaleType, i: usize) -> f32 {
    let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    match kind {
        ScaleType::Bf16 => f32::from_bits(u32::from(half(i)) << 16),
        ScaleType::F16 => half::f16::from_bits(half(i)).to_f32(),
        ScaleType::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
    }
}

#[inline(always)]
fn unpack_f32(bytes: &[u8; 128]) -> [f32; BLOCK] {
    let words = bytes.as_chunks::<4>().0;
    std::array::from_fn(|i| f32::from_le_bytes(words[i]))
}

#[inline(always)]
fn unpack_f16(bytes: &[u8; 64]) -> [f32; BLOCK] {
    let words = bytes.as_chunks::<2>().0;
    std::array::from_fn(|i| half::f16::from_le_bytes(words[i]).to_f32())
}

#[inline(always)]
fn unpack_bf16(bytes: &[u8; 64]) -> [f32; BLOCK] {
    let words = bytes.as_chunks::<2>().0;
    std::array::from_fn(|i| f32::from_bits(u32::from(u16::from_le_bytes(words[i])) << 16))
}

#[inline(always)]
fn unpack_q8(bytes: &[u8; 32]) -> [f32; BLOCK] {
    std::array::from_fn(|i| f32::from(bytes[i]))
}

#[inline(always)]
fn unpack_q4(bytes: &[u8; 16]) -> [f32; BLOCK] {
    std::array::from_fn(|i| f32::from((bytes[i / 2] >> (4 * (i % 2))) & 15))
}

/// Codes of any width as one stream of bits, lowest first.
#[inline(always)]
fn unpack_bits<const BITS: usize, const BYTES: usize>(bytes: &[u8; BYTES]) -> [f32; BLOCK] {
    std::array::from_fn(|i| {
        let (byte, shift) = (i * BITS / 8, i * BITS % 8);
        let high = if byte + 1 < BYTES { bytes[byte + 1] } else { 0 };
        let pair = u16::from_le_bytes([bytes[byte], high]);
        f32::from((pair >> shift) & ((1 << BITS) - 1))
    })
}
