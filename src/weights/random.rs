//! Random numbers as a source of weights, so that a machine can be measured before 200 GB are downloaded.
//!
//! All random bytes are windows into one block, and scales repeat, so a model of any size takes some megabytes of memory
//! on its way to a pack. Products have unit variance and the router's logits are spread, so activations stay finite and
//! all experts are chosen. What such a model writes means nothing; what it costs is what the real one costs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::layout::{ExpertFile, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
use super::matrix::{Matrix, MatrixBlock, Vector};
use super::source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
use crate::file_error::FileError;
use flashflood_formats::{Fill, MOST_STREAMS, ScaleType, Scaled, WeightFormat, random_bytes, split_mix};

/// Bytes of random codes that all matrices share.
const RANDOM: usize = 64 << 20;
/// Columns that share a scale and a bias, where they divide a matrix.
const GROUP: u16 = 64;
/// Deviation of the router's logits: enough that experts differ from token to token.
const ROUTER_GAIN: f32 = 2.0;

/// Weights of any model, made as it asks for them: the same for the same seed and names.
pub(crate) struct RandomSource {
    seed: u64,
    random: Bytes,
    formats: RandomFormats,
    made: Mutex<Made>,
}

/// What matrices are stored as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RandomFormats {
    /// Affine codes.
    Affine {
        /// Bits of experts.
        bits: u8,
        /// Bits of everything else.
        resident_bits: u8,
    },
    /// As official FP8 releases: E4M3 with a scale for 128 columns, and bf16 for what these leave as it is.
    Fp8,
}

impl RandomFormats {
    fn of_experts(self, cols: usize) -> WeightFormat {
        match self {
            RandomFormats::Affine { bits, .. } => affine(bits, cols),
            RandomFormats::Fp8 => FP8,
        }
    }

    fn of_matrix(self, role: MatrixRole, cols: usize) -> WeightFormat {
        match self {
            RandomFormats::Affine { resident_bits, .. } => affine(resident_bits, cols),
            RandomFormats::Fp8 if role.is_kept() => WeightFormat::Bf16,
            RandomFormats::Fp8 if matches!(role, MatrixRole::Embedding | MatrixRole::Head) => WeightFormat::Bf16,
            RandomFormats::Fp8 => FP8,
        }
    }
}

/// Scales as Qwen's releases store them.
const FP8: WeightFormat = WeightFormat::Scaled(Scaled::fp8(128, ScaleType::Bf16));

/// What was made so far and is used again.
#[derive(Default)]
struct Made {
    /// Streams that repeat, by format, columns and gain.
    repeated: HashMap<(WeightFormat, usize, u32), [Bytes; MOST_STREAMS]>,
    /// Files of experts behind the random bytes.
    files: Vec<Bytes>,
}

impl RandomSource {
    /// Of these formats.
    pub(crate) fn new(formats: RandomFormats, seed: u64) -> Self {
        let random = random_bytes(seed, RANDOM).into();
        RandomSource { seed, random, formats, made: Mutex::default() }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the numbers for `name`.
    fn state(&self, name: &str) -> u64 {
        self.seed ^ xxh3_64(name.as_bytes())
    }

    /// Where a window of `bytes` random bytes begins.
    fn window(state: &mut u64, bytes: usize) -> usize {
        let windows = (RANDOM - bytes) / 64 + 1;
        (split_mix(state) % windows as u64) as usize * 64
    }

    /// The streams that repeat of `rows` rows.
    fn repeated(&self, format: WeightFormat, cols: usize, gain: f32, rows: usize) -> [Bytes; MOST_STREAMS] {
        let mut made = self.made();
        let known = made.repeated.entry((format, cols, gain.to_bits())).or_default();
        let fills = format.fills(cols, gain, self.seed);
        for ((known, fill), row) in known.iter_mut().zip(fills).zip(format.stream_bytes(cols)) {
            if matches!(fill, Fill::Repeat(_)) && known.len() < rows * row {
                *known = fill.bytes(rows * row, self.seed).into();
            }
        }
        known.clone()
    }

    /// The bytes of a stream that repeats as a file of experts, and its number.
    fn file(&self, bytes: Bytes) -> u32 {
        let files = &mut self.made().files;
        let known = files.iter().position(|file| file.as_ptr() == bytes.as_ptr() && file.len() == bytes.len());
        let index = known.unwrap_or_else(|| {
            files.push(bytes);
            files.len() - 1
        });
        #[expect(clippy::cast_possible_truncation, reason = "a few formats and widths")]
        let number = index as u32 + 1;
        number
    }

    /// What to read into the sections of `place` for each of `experts` experts.
    fn parts(&self, place: &MatrixPlace, experts: usize, state: &mut u64) -> Vec<Part> {
        let repeated = self.repeated(place.format, place.cols, 1.0, place.rows);
        let fills = place.format.fills(place.cols, 1.0, self.seed);
        let part = |(((at, len), fill), repeated): (((usize, usize), Fill), Bytes)| {
            let place = match fill {
                Fill::Repeat(_) => Place::Strided { file: self.file(repeated.slice(..len)), base: 0, stride: 0 },
                _ => Place::Listed((0..experts).map(|_| (0, Self::window(state, len) as u64)).collect()),
            };
            Part { place, len, at }
        };
        place.sections().zip(fills).zip(repeated).map(part).collect()
    }
}

/// Deviation of a product with a matrix of `cols` columns whose input has a deviation of 1.
pub(super) fn gain(role: MatrixRole, cols: usize) -> f32 {
    match role {
        MatrixRole::Embedding => (cols as f32).sqrt(),
        MatrixRole::Router => ROUTER_GAIN,
        _ => 1.0,
    }
}

/// The format of `bits` bits for `cols` columns.
fn affine(bits: u8, cols: usize) -> WeightFormat {
    WeightFormat::affine(bits, if cols.is_multiple_of(usize::from(GROUP)) { GROUP } else { 32 })
}

impl WeightSource for RandomSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize, role: MatrixRole) -> Result<Matrix, FileError> {
        let format = self.formats.of_matrix(role, cols);
        let gain = gain(role, cols);
        let bytes = format.stream_bytes(cols);
        let most = (RANDOM / 2 / bytes[0]).max(1);
        let repeated = self.repeated(format, cols, gain, most.min(rows));
        let mut state = self.state(name);
        let blocks = (0..rows).step_by(most).map(|first| {
            let rows = most.min(rows - first);
            let fills = format.fills(cols, gain, self.seed);
            let mut streams: [Bytes; MOST_STREAMS] = Default::default();
            for (((stream, fill), repeated), row) in streams.iter_mut().zip(fills).zip(&repeated).zip(bytes) {
                *stream = match fill {
                    Fill::Nothing => Bytes::new(),
                    Fill::Repeat(_) => repeated.slice(..rows * row),
                    Fill::Random => {
                        let at = Self::window(&mut state, rows * row);
                        self.random.slice(at..at + rows * row)
                    }
                };
            }
            MatrixBlock { rows, streams }
        });
        Ok(Matrix { name: name.to_owned(), rows, cols, format, blocks: blocks.collect() })
    }

    fn vector(&self, name: &str, shape: &[usize], role: VectorRole) -> Result<Vector, FileError> {
        let (low, high) = match role {
            VectorRole::Norm | VectorRole::PlainNorm => (1.0, 1.0),
            VectorRole::Taps => (-0.7, 0.7),
            VectorRole::Decay => (-0.7, 2.0),
            VectorRole::DecayBias => (-5.0, -1.0),
        };
        let mut state = self.state(name);
        let unit = |v: u64| (v >> 40) as f32 / (1u32 << 24) as f32;
        let count: usize = shape.iter().product();
        Ok((0..count).map(|_| low + (high - low) * unit(split_mix(&mut state))).collect())
    }

    /// Nothing beside what a model must have: a tied lm_head is the embedding.
    fn has(&self, _: &str) -> bool {
        false
    }

    fn experts(&self, layer: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError> {
        let &ExpertShape { experts, top_k, hidden, width } = shape;
        let gate_up = self.formats.of_experts(hidden);
        let slot = SlotLayout::new(hidden, width, [gate_up, gate_up, self.formats.of_experts(width)]);
        let mut state = self.state(&format!("experts of layer {layer}"));
        let parts = slot.matrices().flat_map(|(_, place)| self.parts(&place, experts, &mut state)).collect();
        Ok(LayerExperts { experts, top_k, slot, parts, rewritten: Vec::new(), checksums: None })
    }

    fn files(&self) -> Vec<ExpertFile> {
        let file = |name, bytes: &Bytes| ExpertFile::Memory { name, bytes: bytes.clone() };
        let mut files = vec![file("random codes", &self.random)];
        files.extend(self.made().files.iter().map(|bytes| file("scales", bytes)));
        files
    }
}
