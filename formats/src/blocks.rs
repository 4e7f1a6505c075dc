//! Blocks of GGUF files: some columns with their scales in one run of bytes, one stream a row.
//!
//! Every type is `w = scale * code + bias` with signed codes of 8 bits at most and a scale for 16 columns at least, so a
//! type is a function that separates codes and scales; products in f32 and shaders need nothing else, those with activations
//! in 8 bits are flashflood-vectors' own. The codes come from a [`Codebook`] where they are no numbers.
//!
//! Everything is forced inline into what the CPU's products dispatch; see `affine`.

mod four;
mod grids;
mod iq;
mod k;
mod simple;
mod ternary;

use std::fmt;

use safetensors::Dtype;

use super::dense::f16_to_f32;
use super::{Family, Fill, MOST_STREAMS, NotFinite, NotFiniteAt, Scratch, WeightRows, split_mix};
use crate::affine::multiply_add;

pub(crate) use four::half_of_power;
pub use grids::Codebook;
pub(crate) use grids::FP4;

/// Columns that share a scale, in every type.
pub(crate) const GROUP: usize = 16;

/// Scale and bias of each 16 columns.
type Groups<const N: usize> = [[f32; 2]; N];

/// A type of blocks, by the name that llama.cpp has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
#[expect(non_camel_case_types, missing_docs, reason = "the names of the field")]
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    IQ1_M,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

/// What a type is, beside how it is read.
struct Kind {
    block: Block,
    /// Its number in GGUF files.
    ggml: u32,
    suffix: &'static str,
    columns: usize,
    bytes: usize,
    /// Places of the scales in f16.
    halves: &'static [usize],
    codebook: Option<Codebook>,
}

const fn kind(
    block: Block,
    (ggml, suffix): (u32, &'static str),
    (columns, bytes): (usize, usize),
    halves: &'static [usize],
    codebook: Option<Codebook>,
) -> Kind {
    Kind { block, ggml, suffix, columns, bytes, halves, codebook }
}

/// Every type, in the order of [`Block`].
static KINDS: [Kind; 23] = [
    kind(Block::Q4_0, (2, "q4_0"), (32, 18), &[0], None),
    kind(Block::Q4_1, (3, "q4_1"), (32, 20), &[0, 2], None),
    kind(Block::Q5_0, (6, "q5_0"), (32, 22), &[0], None),
    kind(Block::Q5_1, (7, "q5_1"), (32, 24), &[0, 2], None),
    kind(Block::Q8_0, (8, "q8_0"), (32, 34), &[0], None),
    kind(Block::Q2_K, (10, "q2_k"), (256, 84), &[80, 82], None),
    kind(Block::Q3_K, (11, "q3_k"), (256, 110), &[108], None),
    kind(Block::Q4_K, (12, "q4_k"), (256, 144), &[0, 2], None),
    kind(Block::Q5_K, (13, "q5_k"), (256, 176), &[0, 2], None),
    kind(Block::Q6_K, (14, "q6_k"), (256, 210), &[208], None),
    kind(Block::IQ2_XXS, (16, "iq2_xxs"), (256, 66), &[0], Some(Codebook::Iq2Xxs)),
    kind(Block::IQ2_XS, (17, "iq2_xs"), (256, 74), &[0], Some(Codebook::Iq2Xs)),
    kind(Block::IQ3_XXS, (18, "iq3_xxs"), (256, 98), &[0], Some(Codebook::Iq3Xxs)),
    kind(Block::IQ1_S, (19, "iq1_s"), (256, 50), &[0], Some(Codebook::Iq1S)),
    kind(Block::IQ4_NL, (20, "iq4_nl"), (32, 18), &[0], Some(Codebook::Iq4)),
    kind(Block::IQ3_S, (21, "iq3_s"), (256, 110), &[0], Some(Codebook::Iq3S)),
    kind(Block::IQ2_S, (22, "iq2_s"), (256, 82), &[0], Some(Codebook::Iq2S)),
    kind(Block::IQ4_XS, (23, "iq4_xs"), (256, 136), &[0], Some(Codebook::Iq4)),
    kind(Block::IQ1_M, (29, "iq1_m"), (256, 56), &[], Some(Codebook::Iq1S)),
    kind(Block::TQ1_0, (34, "tq1_0"), (256, 54), &[52], None),
    kind(Block::TQ2_0, (35, "tq2_0"), (256, 66), &[64], None),
    kind(Block::MXFP4, (39, "mxfp4"), (32, 17), &[], None),
    kind(Block::NVFP4, (40, "nvfp4"), (64, 36), &[], None),
];

/// The f16 at byte `at`.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// A scale alone. Adding -0 changes no number, not even 0.
#[inline(always)]
fn no_bias(scale: f32) -> [f32; 2] {
    [scale, -0.0]
}

/// The low halves of 16 bytes, then the high halves.
#[inline(always)]
fn low_and_high(bytes: &[u8], codes: &mut [i8; 32]) {
    let (low, high) = codes.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = (byte & 15) as i8;
        *high = (byte >> 4) as i8;
    }
}

/// The same of each `N` bytes.
#[inline(always)]
fn low_and_high_of<const N: usize>(bytes: &[u8], codes: &mut [i8; 256]) {
    for (bytes, codes) in bytes.as_chunks::<N>().0.iter().zip(codes.chunks_exact_mut(2 * N)) {
        let (low, high) = codes.split_at_mut(N);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            *low = (byte & 15) as i8;
            *high = (byte >> 4) as i8;
        }
    }
}

/// `$read` of every block of a row. A macro, because a function as an argument may be compiled outside the dispatch.
macro_rules! each_block {
    ($row:ident, $codes:ident, $groups:ident, $bytes:literal, $columns:literal, $read:path $(, $book:expr)?) => {{
        let blocks = $row.as_chunks::<$bytes>().0.iter();
        let places = $codes.as_chunks_mut::<$columns>().0.iter_mut();
        let scales = $groups.as_chunks_mut::<{ $columns / GROUP }>().0.iter_mut();
        for ((block, codes), groups) in blocks.zip(places).zip(scales) {
            $read(block, codes, groups $(, $book)?);
        }
    }};
}

impl Block {
    /// The type that has this number in GGUF files.
    pub(crate) fn from_ggml(number: u32) -> Option<Block> {
        KINDS.iter().find(|kind| kind.ggml == number).map(|kind| kind.block)
    }

    /// Every type.
    pub fn all() -> impl Iterator<Item = Block> {
        KINDS.iter().map(|kind| kind.block)
    }

    fn kind(self) -> &'static Kind {
        &KINDS[self as usize]
    }

    /// Columns of a block.
    pub fn columns(self) -> usize {
        self.kind().columns
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.kind().bytes
    }

    /// The table that its codes are looked up in.
    pub(crate) fn codebook(self) -> Option<Codebook> {
        self.kind().codebook
    }

    /// The table of its loops on the CPU.
    pub(crate) fn grid(self) -> &'static [u32] {
        self.codebook().map_or(&[], Codebook::grid)
    }

    /// The codes of a row, and scale and bias of each 16 columns.
    #[inline(always)]
    pub(crate) fn separate(self, row: &[u8], codes: &mut [i8], groups: &mut [[f32; 2]]) {
        let book = match self {
            Block::MXFP4 | Block::NVFP4 => grids::FP4.as_slice(),
            _ => self.codebook().map_or(&[][..], Codebook::words),
        };
        match self {
            Block::Q4_0 => each_block!(row, codes, groups, 18, 32, simple::q4_0),
            Block::Q4_1 => each_block!(row, codes, groups, 20, 32, simple::q4_1),
            Block::Q5_0 => each_block!(row, codes, groups, 22, 32, simple::q5_0),
            Block::Q5_1 => each_block!(row, codes, groups, 24, 32, simple::q5_1),
            Block::Q8_0 => each_block!(row, codes, groups, 34, 32, simple::q8_0),
            Block::Q2_K => each_block!(row, codes, groups, 84, 256, k::q2_k),
            Block::Q3_K => each_block!(row, codes, groups, 110, 256, k::q3_k),
            Block::Q4_K => each_block!(row, codes, groups, 144, 256, k::q4_k),
            Block::Q5_K => each_block!(row, codes, groups, 176, 256, k::q5_k),
            Block::Q6_K => each_block!(row, codes, groups, 210, 256, k::q6_k),
            Block::IQ2_XXS => each_block!(row, codes, groups, 66, 256, iq::iq2_xxs, book),
            Block::IQ2_XS => each_block!(row, codes, groups, 74, 256, iq::iq2_xs, book),
            Block::IQ3_XXS => each_block!(row, codes, groups, 98, 256, iq::iq3_xxs, book),
            Block::IQ1_S => each_block!(row, codes, groups, 50, 256, iq::iq1_s, book),
            Block::IQ4_NL => each_block!(row, codes, groups, 18, 32, four::iq4_nl, book),
            Block::IQ3_S => each_block!(row, codes, groups, 110, 256, iq::iq3_s, book),
            Block::IQ2_S => each_block!(row, codes, groups, 82, 256, iq::iq2_s, book),
            Block::IQ4_XS => each_block!(row, codes, groups, 136, 256, four::iq4_xs, book),
            Block::IQ1_M => each_block!(row, codes, groups, 56, 256, iq::iq1_m, book),
            Block::TQ1_0 => each_block!(row, codes, groups, 54, 256, ternary::tq1_0),
            Block::TQ2_0 => each_block!(row, codes, groups, 66, 256, ternary::tq2_0),
            Block::MXFP4 => each_block!(row, codes, groups, 17, 32, four::mxfp4, book),
            Block::NVFP4 => each_block!(row, codes, groups, 36, 64, four::nvfp4, book),
        }
    }

    /// One row in f32.
    #[inline(always)]
    pub(crate) fn unpack<const FUSED: bool>(self, row: &[u8], scratch: &mut Scratch, weights: &mut [f32]) {
        let Scratch { codes, groups } = scratch;
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        self.separate(row, codes, groups);
        let groups = groups.iter().zip(codes.as_chunks::<GROUP>().0);
        for (weights, ([scale, bias], codes)) in weights.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
            for (w, code) in weights.iter_mut().zip(codes) {
                *w = multiply_add::<FUSED>(f32::from(*code), *scale, *bias);
            }
        }
    }

    /// Gives a block of random bytes a scale, and a minimum where it has one.
    fn set_scales(self, block: &mut [u8], d: f32, min: f32) {
        let half = |value: f32| half::f16::from_f32(value).to_bits();
        match self {
            // half of a power of two, to nearest
            Block::MXFP4 => block[0] = ((2.0 * d).log2().round() as i32 + 127).clamp(0, 254) as u8,
            Block::NVFP4 => {
                // 3 bits below the exponent, rounded down; twice the scale is stored
                let bits = (2.0 * d).max(2f32.powi(-6)).to_bits();
                block[..4].fill((((bits >> 23) - 120) << 3 | bits >> 20 & 7) as u8 & 0x7e);
            }
            Block::IQ1_M => {
                for i in 0..4 {
                    let place = &mut block[49 + 2 * i];
                    *place = *place & 15 | ((half(d) >> (4 * i) & 15) << 4) as u8;
                }
            }
            _ => {
                for (at, value) in self.kind().halves.iter().zip([d, min]) {
                    block[*at..at + 2].copy_from_slice(&half(value).to_le_bytes());
                }
            }
        }
    }
}

impl Family for Block {
    fn stream_names(&self) -> &'static [&'static str] {
        &["weight"]
    }

    fn stream_dtypes(&self) -> Vec<Dtype> {
        vec![Dtype::U8]
    }

    fn stream_bytes(&self, cols: usize) -> [usize; MOST_STREAMS] {
        [cols / self.columns() * self.bytes(), 0, 0]
    }

    fn column_multiple(&self) -> usize {
        self.columns()
    }

    fn interleave(&self) -> Option<usize> {
        Some(1)
    }

    fn suffix(&self) -> &'static str {
        self.kind().suffix
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    fn codebook(&self) -> Option<Codebook> {
        Block::codebook(*self)
    }

    fn first_not_finite(&self, rows: &WeightRows<'_>) -> Option<NotFiniteAt> {
        let Kind { columns, bytes, halves, .. } = *self.kind();
        if halves.is_empty() && *self != Block::IQ1_M {
            return None;
        }
        let is_bad = |half: u16| half & 0x7c00 == 0x7c00;
        let in_row = rows.cols / columns;
        let found = rows.streams[0].chunks_exact(bytes).enumerate().find_map(|(i, block)| {
            let mut scales = halves.iter().map(|at| u16::from_le_bytes([block[*at], block[at + 1]]));
            let scale = match self {
                Block::IQ1_M => Some(iq::iq1_m_scale(block)).filter(|scale| is_bad(*scale)),
                _ => scales.find(|scale| is_bad(*scale)),
            };
            scale.map(|scale| (i, f16_to_f32(scale)))
        });
        let (i, value) = found?;
        let (row, index) = (i / in_row, i % in_row);
        Some(NotFiniteAt { row, column: index * columns, stream: 0, index, byte: i * bytes, value })
    }

    fn quantise_row(&self, _: &[f32], _: [&mut [u8]; MOST_STREAMS]) -> Result<(), NotFinite> {
        unreachable!("what is quantised here becomes affine; blocks are copied as they are")
    }

    fn fills(&self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS] {
        // a prime, so that rows begin at another block each
        const PERIOD: usize = 61;
        let mut state = seed;
        let mut bytes: Vec<u8> = (0..PERIOD * self.bytes()).map(|_| (split_mix(&mut state) >> 32) as u8).collect();
        if *self == Block::TQ2_0 {
            // no code is 3
            bytes.iter_mut().for_each(|byte| *byte &= !((*byte & 0x55) << 1));
        }
        let is_signed = self.kind().halves.len() == 1 || *self == Block::IQ1_M;
        let mut measure = |d: f32, min: f32| {
            for (i, block) in bytes.chunks_exact_mut(self.bytes()).enumerate() {
                // scales of neighbours differ, in sign too where codes alone would have a mean
                let sign = if is_signed && i % 2 == 1 { -1.0 } else { 1.0 };
                let factor = sign * (0.5 + (i * 37 % PERIOD) as f32 / PERIOD as f32);
                self.set_scales(block, factor * d, factor * min);
            }
            let mut weights = vec![0.0; PERIOD * self.columns()];
            self.unpack::<false>(&bytes, &mut Scratch::new(weights.len()), &mut weights);
            let mean = weights.iter().sum::<f32>() / weights.len() as f32;
            (mean, (weights.iter().map(|w| (w - mean).powi(2)).sum::<f32>() / weights.len() as f32).sqrt())
        };
        // minima that bring the mean to 0, then a scale for the deviation
        let min = match self.kind().halves.len() {
            2 => measure(1.0, 0.0).0 / (measure(1.0, 0.0).0 - measure(1.0, 1.0).0),
            _ => 0.0,
        };
        let d = gain / (cols as f32).sqrt() / measure(1.0, min).1;
        measure(d, d * min);
        [Fill::Repeat(bytes), Fill::Nothing, Fill::Nothing]
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind().suffix.to_uppercase())
    }
}

impl From<Block> for &'static str {
    fn from(block: Block) -> Self {
        block.kind().suffix
    }
}

impl TryFrom<String> for Block {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = KINDS.iter().find(|kind| kind.suffix == name).map(|kind| kind.block);
        found.ok_or_else(|| format!("`{name}` is no type of blocks"))
    }
}

#[cfg(test)]
mod tests;
