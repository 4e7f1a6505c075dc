//! Matrix products on the CPU: rows over threads, with the widest vector instructions there are.
//!
//! A sum has the same order of additions for one token and for many, so that how a prompt is cut changes no bit; and for all
//! instructions, so that it is the same on every machine.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use flashflood_vectors::{Activations, BlockKind, Blocks, Instructions, Number, SmallFloats, prefetch};

use super::activations::Int8Rows;
use super::affine::separate;
use super::scaled::Number::E4m3;
use super::{Affine, Block, Dense, MOST_STREAMS, Scaled, Scratch, WeightFormat, WeightRows};

/// Products of fewer multiplications than this are not worth waking a thread for, which takes 5 to 10 us: in 8 bits, and in
/// f32.
const SERIAL: [usize; 2] = [1 << 18, 1 << 16];

/// Bytes of weights in a task, but for 16 rows more: 0.1 ms for one token at 20 GB/s.
const TASK_BYTES: usize = 2 << 20;

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
    if tokens == 0 {
        return;
    }
    let count = out.len() / tokens;
    let arranged;
    let (in_f32, slices): (Vec<Vec<f32>>, Vec<&[f32]>);
    let run = match (x, rows.format) {
        (TokenRows::F32(x), _) => Run::F32(x),
        (TokenRows::Int8(x), WeightFormat::Affine(affine)) => Run::Affine(affine, &x.rows),
        (TokenRows::Int8(x), WeightFormat::Block(block)) => {
            arranged = x.in_order(block.vectors().offset());
            Run::Blocks(block, &arranged)
        }
        (TokenRows::Int8(x), WeightFormat::Scaled(Scaled { number: E4m3, .. })) => {
            in_f32 = x.in_f32();
            slices = in_f32.iter().map(Vec::as_slice).collect();
            Run::F32(&slices)
        }
        (TokenRows::Int8(x), WeightFormat::Scaled(scaled)) => {
            arranged = x.arranged(SmallFloats::column, SmallFloats::OFFSET);
            Run::SmallFloats(scaled, &arranged)
        }
        (TokenRows::Int8(_), WeightFormat::Dense(_)) => {
            unreachable!("ops check that dense weights have no integer products")
        }
    };
    if count * rows.cols * tokens < SERIAL[usize::from(matches!(run, Run::F32(_)))] {
        run.run(rows, 0, out);
    } else {
        let threads = rayon::current_num_threads();
        let row_bytes: usize = rows.format.stream_bytes(rows.cols).iter().sum();
        // other programs may hold a thread up: the rest then wait for one small task, not for a quarter of its share
        let per_task = count.div_ceil(4 * threads).min(TASK_BYTES / row_bytes.max(1) + 1);
        let per_task = per_task.next_multiple_of(Instructions::ROWS);
        let tasks = out.par_chunks_mut(per_task * tokens).enumerate();
        tasks.for_each(|(i, out)| run.run(rows, i * per_task, out));
    }
}

/// How a product is taken.
#[derive(Clone, Copy)]
enum Run<'a> {
    F32(&'a [&'a [f32]]),
    Affine(Affine, &'a Activations),
    /// With activations in the order of columns.
    Blocks(Block, &'a Activations),
    /// Of 4 bits, with activations in their own order.
    SmallFloats(Scaled, &'a Activations),
}

impl Run<'_> {
    fn run(self, rows: WeightRows<'_>, first: usize, out: &mut [f32]) {
        match self {
            Run::F32(x) => rows_times(rows, x, first, out),
            Run::Affine(affine, x) => affine.vectors(rows).times(Instructions::best(), first, x, out),
            Run::Blocks(block, x) => {
                let weights =
                    Blocks { kind: block.vectors(), cols: rows.cols, bytes: rows.streams[0], grid: block.grid() };
                weights.times(Instructions::best(), first, x, out);
            }
            Run::SmallFloats(scaled, x) => scaled.vectors(rows).times(Instructions::best(), first, x, out),
        }
    }
}

/// Rows that are unpacked before they are multiplied with all tokens: of most models they stay in the nearest cache.
const AT_ONCE: usize = 4;

/// How many rows before a row is unpacked it is asked for.
const AHEAD: usize = 4;

/// Unpacks each row once and multiplies it with all tokens.
fn rows_times(rows: WeightRows<'_>, x: &[&[f32]], first: usize, out: &mut [f32]) {
    let (cols, vectors) = (rows.cols, Instructions::best());
    if let (WeightFormat::F32, Ok(weights)) = (rows.format, bytemuck::try_cast_slice(rows.streams[0]))
        && cfg!(target_endian = "little")
    {
        return vectors.product_of_rows(&weights[first * cols..][..out.len() / x.len() * cols], cols, x, out);
    }
    let arch = Arch::new();
    let is_fused = cfg!(target_arch = "aarch64") || !matches!(arch, Arch::Scalar);
    let mut scratch = Scratch::new(cols);
    let mut weights = vec![0.0; AT_ONCE * cols];
    for (i, out) in out.chunks_mut(AT_ONCE * x.len()).enumerate() {
        let weights = &mut weights[..out.len() / x.len() * cols];
        for (r, weights) in weights.chunks_exact_mut(cols).enumerate() {
            let row = first + i * AT_ONCE + r;
            if row + AHEAD < rows.count() {
                rows.row(row + AHEAD).into_iter().for_each(prefetch);
            }
            match rows.format {
                WeightFormat::Affine(affine) => affine.unpack_row(rows.row(row), &mut scratch, weights),
                WeightFormat::Scaled(scaled) if scaled.number == E4m3 => {
                    scaled.scales_of_row(rows.row(row), &mut scratch.groups);
                    vectors.scale_small_floats(rows.row(row)[0], &scratch.groups, weights);
                }
                _ if is_fused => arch.dispatch(Unpack { rows, row, scratch: &mut scratch, weights }),
                _ => rows.unpack_inline::<false>(row, &mut scratch, weights),
            }
        }
        vectors.product_of_rows(weights, cols, x, out);
    }
}

/// What a dispatch runs. Not a closure: the compiler need not inline one, and what is not inlined into the dispatch is
/// compiled for any machine, where each `mul_add` is a function call.
struct Unpack<'a> {
    rows: WeightRows<'a>,
    row: usize,
    scratch: &'a mut Scratch,
    weights: &'a mut [f32],
}

impl NullaryFnOnce for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.rows.unpack_inline::<true>(self.row, self.scratch, self.weights);
    }
}

/// The codes of a row of affine weights, one a byte; see [`Unpack`].
struct Codes<'a> {
    bits: u8,
    bytes: &'a [u8],
    codes: &'a mut [u8],
}

impl<'a> NullaryFnOnce for Codes<'a> {
    type Output = &'a [u8];

    #[inline(always)]
    fn call(self) -> &'a [u8] {
        separate(self.bits, self.bytes, self.codes)
    }
}

impl Block {
    /// Its loops.
    fn vectors(self) -> BlockKind {
        BlockKind::ALL[self as usize]
    }
}

impl Scaled {
    /// Numbers of 4 bits for their loops.
    fn vectors(self, rows: WeightRows<'_>) -> SmallFloats<'_> {
        let [numbers, scales, row_scales] = rows.streams;
        SmallFloats { cols: rows.cols, numbers, scales, by_16: self.group == 16, row_scales }
    }
}

impl Affine {
    /// One row in f32, as [`Affine::unpack`] with products that are fused.
    fn unpack_row(self, [bytes, scales, biases]: [&[u8]; MOST_STREAMS], scratch: &mut Scratch, weights: &mut [f32]) {
        let (group, number) = (usize::from(self.group), self.scales.dense());
        let Scratch { codes, groups } = scratch;
        let groups = &mut groups[..weights.len() / group];
        for (g, group) in groups.iter_mut().enumerate() {
            *group = [number.at(scales, g), number.at(biases, g)];
        }
        let codes = Arch::new().dispatch(Codes { bits: self.bits, bytes, codes });
        Instructions::best().scale_codes(codes, group, groups, weights);
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ScaleType, pack_row};

    /// Products with activations in 8 bits and in f32 against sums in f64 of what rows are unpacked to, of every format.
    #[test]
    fn products_are_those_of_unpacked_rows() {
        let affine = Affine::BITS.into_iter().flat_map(|bits| {
            Affine::GROUPS.map(|group| WeightFormat::Affine(Affine { bits, group, scales: ScaleType::F16 }))
        });
        let blocks = Block::all().map(WeightFormat::Block);
        let scaled = Scaled::KINDS.map(WeightFormat::Scaled);
        let dense = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];
        for format in affine.chain(blocks).chain(scaled).chain(dense) {
            // more rows than one thread takes
            let (rows, cols, tokens) = (131, 768, 3);
            let streams = format.random(rows, cols, 1.0, 5);
            let streams = [&streams[0][..], &streams[1], &streams[2]];
            let weights = WeightRows { format, cols, streams };
            let x: Vec<Vec<f32>> = (0..tokens)
                .map(|t| (0..cols).map(|i| ((i * 7919 + t * 31) % 1009) as f32 / 504.5 - 1.0).collect())
                .collect();
            let unpacked: Vec<Vec<f32>> = (0..rows)
                .map(|r| {
                    let mut row = vec![0.0; cols];
                    weights.unpack(r, &mut row);
                    row
                })
                .collect();
            let mut out = vec![f32::NAN; rows * tokens];
            let slices: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
            product(weights, TokenRows::F32(&slices), &mut out);
            compare(&out, &unpacked, &x, 1e-6, &format!("{format} in f32"));
            let Some(interleave) = format.interleave() else { continue };
            let packed: Vec<Vec<f32>> = x
                .iter()
                .map(|x| {
                    let mut packed = vec![0.0; cols / 4 + cols / 16];
                    pack_row(x, interleave, &mut packed);
                    packed
                })
                .collect();
            let slices: Vec<&[f32]> = packed.iter().map(Vec::as_slice).collect();
            let int8 = Int8Rows::new(&slices, cols, interleave);
            product(weights, TokenRows::Int8(&int8), &mut out);
            // the numbers that the codes stand for
            let in_order = int8.in_order(0);
            let coded: Vec<Vec<f32>> = (0..tokens)
                .map(|t| {
                    let blocks = (0..cols / 32).map(|b| in_order.of_block(b)[t]);
                    let numbers = blocks.flat_map(|block| {
                        let codes = block.words.into_iter().flat_map(u32::to_le_bytes);
                        codes.map(move |code| f32::from(code as i8) * block.scale)
                    });
                    numbers.collect()
                })
                .collect();
            compare(&out, &unpacked, &coded, 1e-6, &format!("{format} in 8 bits"));
        }
    }

    /// Within a share of what is added.
    fn compare(found: &[f32], rows: &[Vec<f32>], x: &[Vec<f32>], share: f64, what: &str) {
        let tokens = x.len();
        for (r, row) in rows.iter().enumerate() {
            for (t, x) in x.iter().enumerate() {
                let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), v: f64| (sum + v, all + v.abs()));
                let found = f64::from(found[r * tokens + t]);
                assert!((found - sum).abs() <= share * magnitude, "{what}, row {r}, token {t}: {found} for {sum}");
            }
        }
    }
}
