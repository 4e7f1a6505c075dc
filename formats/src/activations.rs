//! Activations in 8 bits, to the bit as `wgsl/shared/quantise.wgsl` makes them.

use flashflood_vectors::{Activations, Block};

/// Columns that share a scale.
pub(super) const GROUP: usize = 32;

/// Packs a row: codes, then pairs (scale, scale * sum of the codes). `out` may be longer.
pub fn pack_row(x: &[f32], interleave: usize, out: &mut [f32]) {
    match interleave {
        1 => pack::<1>(x, out),
        2 => pack::<2>(x, out),
        4 => pack::<4>(x, out),
        _ => pack::<8>(x, out),
    }
}

/// The same for an order of columns that the compiler knows.
fn pack<const INTERLEAVE: usize>(x: &[f32], out: &mut [f32]) {
    // adding this rounds to a whole number, to even from the middle, and leaves it in the lowest bits
    const ROUND: f32 = 12_582_912.0;
    let (words, pairs) = out.split_at_mut(x.len() / 4);
    let blocks = x.as_chunks::<GROUP>().0.iter().zip(words.as_chunks_mut::<8>().0);
    for ((x, words), pair) in blocks.zip(pairs.as_chunks_mut::<2>().0) {
        let (scale, inverse) = scale_of(x);
        let mut codes = [0u8; GROUP];
        // what is no number has no code
        if inverse != 0.0 {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * inverse + ROUND).to_bits() as u8;
            }
        }
        for (j, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            for (b, byte) in bytes.iter_mut().enumerate() {
                *byte = codes[column(INTERLEAVE, j, b)];
            }
            *word = f32::from_bits(u32::from_le_bytes(bytes));
        }
        let sum: i32 = codes.iter().map(|code| i32::from(*code as i8)).sum();
        *pair = [scale, scale * sum as f32];
    }
}

/// Scale of a group, and what numbers are multiplied with for their codes.
fn scale_of(x: &[f32; GROUP]) -> (f32, f32) {
    // of bits, as in the shader: infinity and NaN are larger than all numbers
    let largest = x.iter().fold(0, |most, v| v.abs().to_bits().max(most));
    let exponent = largest >> 23;
    if exponent >= 227 {
        return (f32::NAN, 0.0);
    }
    let scale = f32::from_bits(largest) * (1.0 / 127.0);
    if exponent < 27 {
        return (scale, 0.0);
    }
    // 127 / largest to 15 bits, never more
    let quotient = (127 << 24) / ((largest >> 8 & 0x7fff) + 0x8001);
    (scale, quotient as f32 * f32::from_bits((245 - exponent) << 23))
}

/// The column of a group that byte `b` of word `j` holds.
#[inline(always)]
fn column(interleave: usize, j: usize, b: usize) -> usize {
    let words = 8 / interleave;
    4 * interleave * (j % words) + interleave * b + j / words
}

/// Rows of activations, a row for each token, as products read them.
pub struct Int8Rows {
    pub(super) rows: Activations,
    cols: usize,
    interleave: usize,
}

impl Int8Rows {
    /// Of packed rows of `cols` activations.
    pub fn new(packed: &[&[f32]], cols: usize, interleave: usize) -> Self {
        let mut rows = Activations::new(packed.len(), cols / GROUP);
        for (token, packed) in packed.iter().enumerate() {
            let (words, pairs) = packed.split_at(cols / 4);
            let pairs = pairs.as_chunks::<2>().0;
            for (b, (words, [scale, sum])) in words.as_chunks::<8>().0.iter().zip(pairs).enumerate() {
                let words = words.map(f32::to_bits);
                *rows.block_mut(token, b) = Block { words, scale: *scale, sum: *sum, ..Block::default() };
            }
        }
        Int8Rows { rows, cols, interleave }
    }

    /// How many rows there are.
    pub fn tokens(&self) -> usize {
        self.rows.tokens()
    }

    /// What the codes stand for: rows in f32, for weights that are no integers.
    pub(super) fn in_f32(&self) -> Vec<Vec<f32>> {
        let in_order = self.in_order(0);
        let mut rows = vec![vec![0.0; self.cols]; self.tokens()];
        for b in 0..self.cols / GROUP {
            for (row, block) in rows.iter_mut().zip(in_order.of_block(b)) {
                let codes = block.words.iter().flat_map(|word| word.to_le_bytes());
                for (x, code) in row[b * GROUP..].iter_mut().zip(codes) {
                    *x = f32::from(code as i8) * block.scale;
                }
            }
        }
        rows
    }

    /// Codes in the order of columns, for weights whose codes become unsigned when `offset` is added.
    pub(super) fn in_order(&self, offset: i32) -> Activations {
        self.arranged(|j, b| 4 * j + b, offset)
    }

    /// The same in an order of its own: `place` is the column of byte `b` of word `j`.
    #[inline]
    pub(super) fn arranged(&self, place: impl Fn(usize, usize) -> usize, offset: i32) -> Activations {
        let mut rows = Activations::new(self.tokens(), self.cols / GROUP);
        for b in 0..self.cols / GROUP {
            for (token, from) in self.rows.of_block(b).iter().enumerate() {
                let mut codes = [0u8; GROUP];
                for (j, word) in from.words.iter().enumerate() {
                    for (b, code) in word.to_le_bytes().into_iter().enumerate() {
                        codes[column(self.interleave, j, b)] = code;
                    }
                }
                let sums =
                    [0, 16].map(|first| codes[first..first + 16].iter().map(|c| i32::from(*c as i8)).sum::<i32>());
                *rows.block_mut(token, b) = Block {
                    words: std::array::from_fn(|j| u32::from_le_bytes([0, 1, 2, 3].map(|b| codes[place(j, b)]))),
                    halves: sums.map(|sum| sum as f32),
                    lost: [sums[0], sums[1], sums[0] + sums[1]].map(|sum| -offset * sum),
                    ..*from
                };
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, largest: f32) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 * largest - largest).collect()
    }

    #[test]
    fn codes_are_within_half_a_step_whatever_the_order() {
        for interleave in [1, 2, 4, 8] {
            for largest in [1.0, 3.7e-20, 8.1e20] {
                let x = numbers(96, largest);
                let mut packed = vec![0.0; 96 / 4 + 96 / 16];
                pack_row(&x, interleave, &mut packed);
                let rows = Int8Rows::new(&[&packed, &packed], 96, interleave);
                assert_eq!(rows.tokens(), 2);
                let rows = rows.in_order(128);
                let blocks: Vec<Block> = (0..3).map(|b| rows.of_block(b)[1]).collect();
                let codes: Vec<i8> = blocks
                    .iter()
                    .flat_map(|block| block.words.map(u32::to_le_bytes))
                    .flatten()
                    .map(|c| c as i8)
                    .collect();
                for (i, x) in x.iter().enumerate() {
                    let scale = blocks[i / GROUP].scale;
                    let found = f32::from(codes[i]) * scale;
                    assert!((x - found).abs() <= 0.51 * scale, "column {i}, interleave {interleave}: {x} {found}");
                }
                for (block, codes) in blocks.iter().zip(codes.chunks(GROUP)) {
                    let sums = [&codes[..16], &codes[16..]].map(|half| half.iter().map(|c| f32::from(*c)).sum::<f32>());
                    assert_eq!(block.sum, block.scale * (sums[0] + sums[1]));
                    let lost = [sums[0], sums[1], sums[0] + sums[1]].map(|sum| -128 * sum as i32);
                    assert_eq!((block.halves, block.lost), (sums, lost));
                }
                assert!(codes.iter().any(|c| c.abs() >= 126), "all 8 bits are used");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for odd in [f32::NAN, f32::INFINITY, -1e38] {
            let mut x = numbers(64, 1.0);
            x[40] = odd;
            let mut packed = vec![0.0; 64 / 4 + 64 / 16];
            pack_row(&x, 2, &mut packed);
            assert!(!packed[16].is_nan() && packed[18].is_nan(), "{odd}: its group, and only that");
        }
        let mut packed = vec![1.0; 10];
        pack_row(&[0.0; 32], 1, &mut packed);
        assert_eq!(packed, [0.0; 10]);
    }
}
