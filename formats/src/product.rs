//! Matrix products on the CPU: rows over threads, 32 columns at a time with the widest vector instructions there are.
//!
//! A sum has the same order of additions for one token and for many, so that how a prompt is cut changes no bit.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::activations::Int8Row;
use super::affine::multiply_add;
use super::{Affine, BLOCK, Scratch, WeightFormat, WeightRows};

/// Products smaller than this many weights are not worth waking threads for.
const SERIAL: usize = 1 << 15;

/// Activations, a row for each token.
#[derive(Clone, Copy)]
pub enum TokenRows<'a> {
    /// As they are.
    F32(&'a [&'a [f32]]),
    /// In 8 bits; the weights are affine.
    Int8(&'a [Int8Row]),
}

impl TokenRows<'_> {
    /// How many rows there are.
    pub fn tokens(self) -> usize {
        match self {
            TokenRows::F32(rows) => rows.len(),
            TokenRows::Int8(rows) => rows.len(),
        }
    }
}

/// `[rows, tokens]`: every row of weights times every row of `x`, into `out`.
pub fn product(rows: WeightRows<'_>, x: TokenRows<'_>, out: &mut [f32]) {
    let tokens = x.tokens();
    let count = out.len() / tokens.max(1);
    let run = |first: usize, out: &mut [f32]| {
        // one dispatch per run of rows: everything below is compiled for the instructions found
        let arch = Arch::new();
        let fused = cfg!(target_arch = "aarch64") || !matches!(arch, Arch::Scalar);
        if fused {
            arch.dispatch(RunOfRows { rows, x, first, out });
        } else {
            RunOfRows { rows, x, first, out }.run::<false>();
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

/// What a dispatch runs. Not a closure: the compiler need not inline one, and what is not inlined into the dispatch is
/// compiled for any machine, where each `mul_add` is a function call.
struct RunOfRows<'a> {
    rows: WeightRows<'a>,
    x: TokenRows<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl NullaryFnOnce for RunOfRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.run::<true>();
    }
}

impl RunOfRows<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        match self.x {
            TokenRows::F32(x) => rows_times::<FUSED>(self.rows, x, self.first, self.out),
            TokenRows::Int8(x) => rows_times_int8::<FUSED>(self.rows, x, self.first, self.out),
        }
    }
}

/// Unpacks each row once, into a buffer that stays in the nearest cache, and multiplies it with all tokens.
#[inline(always)]
fn rows_times<const FUSED: bool>(rows: WeightRows<'_>, x: &[&[f32]], first: usize, out: &mut [f32]) {
    let mut scratch = Scratch::new(rows.cols);
    let mut weights = vec![0.0; rows.cols];
    for (r, out) in out.chunks_exact_mut(x.len()).enumerate() {
        rows.unpack_inline::<FUSED>(first + r, &mut scratch, &mut weights);
        for (x, out) in x.chunks(2).zip(out.chunks_mut(2)) {
            match *x {
                [x, y] => out.copy_from_slice(&two_dots::<FUSED>(&weights, x, y)),
                [x] => out[0] = dot::<FUSED>(&weights, x),
                _ => {}
            }
        }
    }
}

/// The same with activations in 8 bits: integers within a block, then a sum of blocks in f32.
#[inline(always)]
fn rows_times_int8<const FUSED: bool>(rows: WeightRows<'_>, x: &[Int8Row], first: usize, out: &mut [f32]) {
    let affine = match rows.format {
        WeightFormat::Affine(affine) => affine,
        WeightFormat::Block(_) | WeightFormat::Scaled(_) => return signed_times_int8::<FUSED>(rows, x, first, out),
        WeightFormat::Dense(_) => unreachable!("ops check that dense weights have no integer products"),
    };
    let Affine { bits, group, .. } = affine;
    let blocks_per_group = usize::from(group) / BLOCK;
    // the GPU multiplies signed bytes: codes of 8 bits lose 128, which the bias gives back
    let lost = if bits == 8 { 128 } else { 0 };
    let mut scratch = vec![0; rows.cols];
    let mut groups = vec![[0.0; 2]; rows.cols / usize::from(group)];
    for (r, out) in out.chunks_exact_mut(x.len()).enumerate() {
        let codes = affine.row_codes(rows.row(first + r), &mut scratch, &mut groups);
        for (x, out) in x.iter().zip(out) {
            let blocks = codes.as_chunks::<BLOCK>().0.iter().zip(x.codes.as_chunks::<BLOCK>().0).zip(&x.groups);
            let mut sum = 0.0;
            for (b, ((codes, x), [x_scale, x_sum])) in blocks.enumerate() {
                let mut products = 0;
                for (code, x) in codes.iter().zip(x) {
                    products += (i32::from(*code) - lost) * i32::from(*x);
                }
                let [scale, bias] = groups[b / blocks_per_group];
                let bias = multiply_add::<FUSED>(lost as f32, scale, bias);
                sum += multiply_add::<FUSED>(scale, products as f32 * x_scale, bias * x_sum);
            }
            *out = sum;
        }
    }
}

/// The same for formats whose codes are signed, blocks of GGUF files and floats of 4 bits: a sum of integers for each 16
/// columns.
#[inline(always)]
fn signed_times_int8<const FUSED: bool>(rows: WeightRows<'_>, x: &[Int8Row], first: usize, out: &mut [f32]) {
    let Scratch { mut codes, mut groups } = Scratch::new(rows.cols);
    let codes: &mut [i8] = bytemuck::cast_slice_mut(&mut codes);
    for (r, out) in out.chunks_exact_mut(x.len()).enumerate() {
        match rows.format {
            WeightFormat::Block(block) => block.separate(rows.row(first + r)[0], codes, &mut groups),
            WeightFormat::Scaled(scaled) => scaled.separate(rows.row(first + r), codes, &mut groups),
            WeightFormat::Affine(_) | WeightFormat::Dense(_) => unreachable!("these have no signed codes"),
        }
        for (x, out) in x.iter().zip(out) {
            let blocks = codes.as_chunks::<BLOCK>().0.iter().zip(x.codes.as_chunks::<BLOCK>().0);
            let scales = groups.as_chunks::<2>().0.iter().zip(&x.groups);
            let mut sum = 0.0;
            for ((codes, x), ([low, high], [x_scale, _])) in blocks.zip(scales) {
                let (mut products, mut sums) = ([0; 2], [0; 2]);
                for half in 0..2 {
                    for i in 16 * half..16 * half + 16 {
                        products[half] += i32::from(codes[i]) * i32::from(x[i]);
                        sums[half] += i32::from(x[i]);
                    }
                }
                let low = multiply_add::<FUSED>(low[0], products[0] as f32, low[1] * sums[0] as f32);
                let high = multiply_add::<FUSED>(high[0], products[1] as f32, high[1] * sums[1] as f32);
                sum = multiply_add::<FUSED>(low + high, *x_scale, sum);
            }
            *out = sum;
        }
    }
}

/// One row times one token: 32 running sums, added up at the end.
#[inline(always)]
fn dot<const FUSED: bool>(weights: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0.0; BLOCK];
    for (w, x) in weights.as_chunks::<BLOCK>().0.iter().zip(x.as_chunks::<BLOCK>().0) {
        add_products::<FUSED>(&mut sums, w, x);
    }
    total(sums)
}

/// The same for two tokens, which share the reads of the row.
#[inline(always)]
fn two_dots<const FUSED: bool>(weights: &[f32], x: &[f32], y: &[f32]) -> [f32; 2] {
    let (mut x_sums, mut y_sums) = ([0.0; BLOCK], [0.0; BLOCK]);
    let tokens = x.as_chunks::<BLOCK>().0.iter().zip(y.as_chunks::<BLOCK>().0);
    for (w, (x, y)) in weights.as_chunks::<BLOCK>().0.iter().zip(tokens) {
        add_products::<FUSED>(&mut x_sums, w, x);
        add_products::<FUSED>(&mut y_sums, w, y);
    }
    [total(x_sums), total(y_sums)]
}

#[inline(always)]
fn add_products<const FUSED: bool>(sums: &mut [f32; BLOCK], w: &[f32; BLOCK], x: &[f32; BLOCK]) {
    for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
        *sum = multiply_add::<FUSED>(*w, *x, *sum);
    }
}

#[inline(always)]
fn total(mut sums: [f32; BLOCK]) -> f32 {
    let mut n = BLOCK / 2;
    while n > 0 {
        for i in 0..n {
            sums[i] += sums[i + n];
        }
        n /= 2;
    }
    sums[0]
}
