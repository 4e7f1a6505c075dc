//! Random inputs that a seed repeats.

use crate::weights::{Affine, Dense, Matrix, MatrixBlock, ScaleType, WeightFormat};
use bytes::Bytes;
use flashflood_formats::{Block, Scaled};

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Another sequence for every key, whatever was drawn before.
    pub(crate) fn keyed(&self, key: u64) -> Self {
        let mut random = Random(self.0 ^ key.wrapping_mul(0xd134_2543_de82_ef95));
        Random(random.bits())
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(crate) fn uniform(&mut self, from: f32, to: f32) -> f32 {
        from + (self.bits() >> 40) as f32 / (1 << 24) as f32 * (to - from)
    }

    pub(crate) fn floats(&mut self, n: usize, from: f32, to: f32) -> Vec<f32> {
        (0..n).map(|_| self.uniform(from, to)).collect()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits() as u8).collect()
    }

    /// Distinct numbers below `n`, in any order.
    pub(crate) fn distinct(&mut self, count: usize, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in 0..count {
            let other = i + self.below(n - i);
            all.swap(i, other);
        }
        all.truncate(count);
        all
    }

    /// Codes, scales and biases of weights between -1.5 and 1.5.
    pub(crate) fn weights(&mut self, format: WeightFormat, rows: usize, cols: usize) -> [Vec<u8>; 3] {
        match format {
            WeightFormat::Dense(dense) => [encode(dense, &self.floats(rows * cols, -1.0, 1.0)), Vec::new(), Vec::new()],
            WeightFormat::Affine(Affine { bits, scales, .. }) => {
                let [row, row_scales, _] = format.stream_bytes(cols);
                let codes = self.bytes(rows * row);
                let groups = rows * row_scales / scales.bytes();
                let step = 1.0 / f32::from((1u16 << bits) - 1);
                [
                    codes,
                    encode(scales.dense(), &self.floats(groups, -step, step)),
                    encode(scales.dense(), &self.floats(groups, -0.5, 0.5)),
                ]
            }
            WeightFormat::Block(_) | WeightFormat::Scaled(_) => {
                format.random(rows, cols, 0.5 * (cols as f32).sqrt(), self.bits())
            }
        }
    }

    /// A matrix in one to three blocks.
    pub(crate) fn matrix(&mut self, format: WeightFormat, rows: usize, cols: usize) -> Matrix {
        let mut blocks = Vec::new();
        let mut left = rows;
        while left > 0 {
            let rows = if blocks.len() == 2 { left } else { 1 + self.below(left) };
            blocks.push(MatrixBlock { rows, streams: self.weights(format, rows, cols).map(Bytes::from) });
            left -= rows;
        }
        Matrix { name: format!("{format} [{rows}, {cols}]"), rows, cols, format, blocks }
    }
}

/// Little-endian numbers.
pub(crate) fn encode(as_type: Dense, values: &[f32]) -> Vec<u8> {
    match as_type {
        Dense::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dense::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Dense::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

/// Every weight format: dense, affine of all group sizes and scale types for each number of bits, blocks, and small floats.
pub(crate) fn formats(suffix: &str) -> Vec<WeightFormat> {
    let mut all = vec![WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];
    for bits in Affine::BITS {
        for group in Affine::GROUPS {
            for scales in [ScaleType::Bf16, ScaleType::F16, ScaleType::F32] {
                all.push(WeightFormat::Affine(Affine { bits, group, scales }));
            }
        }
    }
    all.extend(Block::all().map(WeightFormat::Block));
    all.extend(Scaled::KINDS.map(WeightFormat::Scaled));
    all.retain(|format| suffix.is_empty() || format.suffix() == suffix);
    all
}
