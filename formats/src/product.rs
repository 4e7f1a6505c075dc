//! Matrix products on the CPU: rows over threads, with the widest vector instructions there are.
//!
//! A sum has the same order of additions for one token and for many, so that how a prompt is cut changes no bit.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use flashflood_vectors::{Activations, Instructions, Number, Signed};

use super::activations::Int8Rows;
use super::affine::multiply_add;
use super::blocks::GROUP;
use super::{Affine, BLOCK, Dense, Scratch, WeightFormat, WeightRows};

/// Products smaller than this many weights are not worth waking threads for.
const SERIAL: usize = 1 << 15;

/// Activations, a row for each token.
#[derive(Clone, Copy)]
pub enum TokenRows<'a> {
    /// As they are.
    F32(&'a [&'a [f32]]),
    /// In 8 bits; the weights are not dense.
    Int8(&'a Int8Rows),
}

impl TokenRows<'_> {
    /// How many rows there are.
    pub fn tokens(self) -> usize {
        match self {
            TokenRows::F32(rows) => rows.len(),
            TokenRows::Int8(rows) => rows.tokens(),
        }
    }
}

/// `[rows, tokens]`: every row of weights times every row of `x`, into `out`.
pub fn product(rows: WeightRows<'_>, x: TokenRows<'_>, out: &mut [f32]) {
    let tokens = x.tokens();
    let count = out.len() / tokens.max(1);
    let in_order;
    let run = match (x, rows.format) {
        (TokenRows::F32(x), _) => Run::F32(x),
        (TokenRows::Int8(x), WeightFormat::Affine(affine)) => Run::Affine(affine, &x.rows),
        (TokenRows::Int8(x), WeightFormat::Block(_) | WeightFormat::Scaled(_)) => {
            in_order = x.in_order();
            Run::Signed(&in_order)
        }
        (TokenRows::Int8(_), WeightFormat::Dense(_)) => {
            unreachable!("ops check that dense weights have no integer products")
        }
    };
    if count * rows.cols * tokens < SERIAL {
        run.run(rows, 0, tokens, out);
    } else {
        let threads = rayon::current_num_threads();
        let per_task = count.div_ceil(4 * threads).next_multiple_of(Instructions::ROWS);
        let tasks = out.par_chunks_mut(per_task * tokens).enumerate();
        tasks.for_each(|(i, out)| run.run(rows, i * per_task, tokens, out));
    }
}

/// How a product is taken.
#[derive(Clone, Copy)]
enum Run<'a> {
    F32(&'a [&'a [f32]]),
    Affine(Affine, &'a Activations),
    /// Of formats whose codes are signed, with activations in the order of columns.
    Signed(&'a Activations),
}

impl Run<'_> {
    fn run(self, rows: WeightRows<'_>, first: usize, tokens: usize, out: &mut [f32]) {
        match self {
            Run::F32(x) => {
                // one dispatch per run of rows: everything below is compiled for the instructions found
                let arch = Arch::new();
                let fused = cfg!(target_arch = "aarch64") || !matches!(arch, Arch::Scalar);
                if fused {
                    arch.dispatch(RunOfRows { rows, x, first, out });
                } else {
                    rows_times::<false>(rows, x, first, out);
                }
            }
            Run::Affine(affine, x) => affine.vectors(rows).times(Instructions::best(), first, x, out),
            Run::Signed(x) => signed_times_int8(rows, x, first, tokens, out),
        }
    }
}

/// What a dispatch runs. Not a closure: the compiler need not inline one, and what is not inlined into the dispatch is
/// compiled for any machine, where each `mul_add` is a function call.
struct RunOfRows<'a> {
    rows: WeightRows<'a>,
    x: &'a [&'a [f32]],
    first: usize,
    out: &'a mut [f32],
}

impl NullaryFnOnce for RunOfRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        rows_times::<true>(self.rows, self.x, self.first, self.out);
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

impl Affine {
    fn vectors(self, rows: WeightRows<'_>) -> flashflood_vectors::Affine<'_> {
        let [codes, scales, biases] = rows.streams;
        let number = match self.scales.dense() {
            Dense::Bf16 => Number::Bf16,
            Dense::F16 => Number::F16,
            Dense::F32 => Number::F32,
        };
        let (bits, group, cols) = (self.bits, usize::from(self.group), rows.cols);
        flashflood_vectors::Affine { bits, group, cols, number, codes, scales, biases }
    }
}

/// The same for formats whose codes are signed, blocks of GGUF files and floats of 4 bits: as many rows as are computed
/// together are separated into codes and scales first.
fn signed_times_int8(rows: WeightRows<'_>, x: &Activations, first: usize, tokens: usize, out: &mut [f32]) {
    let cols = rows.cols;
    let mut codes = vec![0u8; Instructions::ROWS * cols];
    let mut groups = vec![[0.0; 2]; Instructions::ROWS * cols / GROUP];
    for (i, out) in out.chunks_mut(Instructions::ROWS * tokens).enumerate() {
        let (first, count) = (first + i * Instructions::ROWS, out.len() / tokens);
        let (codes, groups) = (&mut codes[..count * cols], &mut groups[..count * cols / GROUP]);
        Arch::new().dispatch(Separate { rows, first, codes: bytemuck::cast_slice_mut(codes), groups });
        Signed { cols, codes, groups }.times(Instructions::best(), x, out);
    }
}

/// Signed codes and scales of some rows; see [`RunOfRows`].
struct Separate<'a> {
    rows: WeightRows<'a>,
    first: usize,
    codes: &'a mut [i8],
    groups: &'a mut [[f32; 2]],
}

impl NullaryFnOnce for Separate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Separate { rows, first, codes, groups } = self;
        let rows_of_codes = codes.chunks_exact_mut(rows.cols).zip(groups.chunks_exact_mut(rows.cols / GROUP));
        for (r, (codes, groups)) in rows_of_codes.enumerate() {
            let row = rows.row(first + r);
            match rows.format {
                WeightFormat::Block(block) => block.separate(row[0], codes, groups),
                WeightFormat::Scaled(scaled) => scaled.separate(row, codes, groups),
                WeightFormat::Affine(_) | WeightFormat::Dense(_) => unreachable!("these have no signed codes"),
            }
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
