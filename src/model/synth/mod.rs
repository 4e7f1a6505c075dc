//! Models of real shapes with random weights, so that a machine can be measured before 200 GB are downloaded.
//!
//! All codes are windows into one block of random bytes, so a model of any size takes some megabytes of memory on its
//! way to a pack. Scales keep every product at unit variance and the router's logits spread, so activations stay finite
//! and all experts are chosen. What such a model writes means nothing; what it costs is what the real one costs.

mod shapes;
mod tokenizer;

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;

pub use shapes::Shape;

use super::weights::{AttentionWeights, DeltaNetWeights, LayerWeights, MixerWeights, SharedExpertWeights};
use super::{Config, LayerKind, Matrix, MatrixBlock, ModelSource, ModelWeights, TextFiles};
use crate::experts::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
use crate::formats::WeightFormat;

/// Bytes of random codes that all matrices share.
const RANDOM: usize = 64 << 20;
/// Columns that share a scale and a bias.
const GROUP: u16 = 64;
/// Deviation of the router's logits: enough that experts differ from token to token.
const ROUTER_GAIN: f32 = 2.0;

/// A model of `shape` with its first `layers` layers (all when `None`), experts of `bits` bits and everything else of
/// `resident_bits`.
pub fn synthesise(shape: Shape, layers: Option<usize>, bits: u8, resident_bits: u8, seed: u64) -> ModelSource {
    with_config(PathBuf::from(shape.name()), shape.config(layers), bits, resident_bits, seed)
}

/// A model of any config with random weights: experts of `bits` bits and everything else of `resident_bits`. `root` names it.
pub(crate) fn with_config(root: PathBuf, config: Config, bits: u8, resident_bits: u8, seed: u64) -> ModelSource {
    let mut make = Maker { random: random_bytes(seed), next: seed, bits: resident_bits, constants: HashMap::new() };
    let layers = config.layers.iter().map(|kind| make.layer(&config, *kind)).collect();
    let weights = ModelWeights {
        embed_tokens: make.matrix("embed_tokens", config.vocab, config.hidden, (config.hidden as f32).sqrt()),
        lm_head: make.matrix("lm_head", config.vocab, config.hidden, 1.0),
        norm: vec![1.0; config.hidden],
        layers,
    };
    let experts = make.experts(&config, bits);
    let text_files = TextFiles { tokenizer: Some(tokenizer::byte_level()), ..TextFiles::default() };
    ModelSource { root, config, weights, experts, text_files }
}

struct Maker {
    random: Bytes,
    next: u64,
    bits: u8,
    /// Scales and biases by format and value.
    constants: HashMap<(u8, u32), (Bytes, Bytes)>,
}

fn random_bytes(seed: u64) -> Bytes {
    let mut state = seed;
    let words = (0..RANDOM / 8).flat_map(|_| split_mix(&mut state).to_le_bytes());
    words.collect::<Vec<u8>>().into()
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Maker {
    /// Where a window of `bytes` random bytes begins.
    fn window(&mut self, bytes: usize) -> usize {
        let windows = (RANDOM - bytes) / 64 + 1;
        (split_mix(&mut self.next) % windows as u64) as usize * 64
    }

    /// Scale and bias, as bf16 bytes, that give uniform codes of `bits` bits a deviation of `gain / sqrt(cols)`.
    fn scale(bits: u8, cols: usize, gain: f32) -> ([u8; 2], [u8; 2]) {
        let levels = (1u32 << bits) as f32;
        let deviation = ((levels * levels - 1.0) / 12.0).sqrt();
        let scale = half::bf16::from_f32(gain / (cols as f32).sqrt() / deviation);
        let bias = half::bf16::from_f32(-scale.to_f32() * (levels - 1.0) / 2.0);
        (scale.to_le_bytes(), bias.to_le_bytes())
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, gain: f32) -> Matrix {
        let format = WeightFormat::affine(self.bits, GROUP);
        let (row, scale_row) = (format.row_bytes(cols), format.row_scale_bytes(cols));
        let most = (RANDOM / 2 / row).max(1);
        let (scale, bias) = Self::scale(self.bits, cols, gain);
        let key = (self.bits, u32::from(u16::from_le_bytes(scale)) << 16 | u32::from(u16::from_le_bytes(bias)));
        let needed = most.min(rows) * scale_row;
        let constants = self.constants.entry(key).or_default();
        if constants.0.len() < needed {
            *constants = (scale.repeat(needed / 2).into(), bias.repeat(needed / 2).into());
        }
        let (scales, biases) = constants.clone();
        let blocks = (0..rows).step_by(most).map(|first| {
            let rows = most.min(rows - first);
            let at = self.window(rows * row);
            MatrixBlock {
                rows,
                codes: self.random.slice(at..at + rows * row),
                scales: scales.slice(..rows * scale_row),
                biases: biases.slice(..rows * scale_row),
            }
        });
        let blocks = blocks.collect();
        Matrix { name: name.to_owned(), rows, cols, format, blocks }
    }

    /// Values between `low` and `high`.
    fn vector(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        let unit = |v: u64| (v >> 40) as f32 / (1u32 << 24) as f32;
        (0..len).map(|_| low + (high - low) * unit(split_mix(&mut self.next))).collect()
    }

    fn layer(&mut self, c: &Config, kind: LayerKind) -> LayerWeights {
        let mixer = match (kind, c.linear) {
            (LayerKind::LinearAttention, Some(l)) => {
                let (keys, values) = (l.key_heads * l.key_dim, l.value_heads * l.value_dim);
                MixerWeights::DeltaNet(DeltaNetWeights {
                    qkv: self.matrix("qkv", 2 * keys + values, c.hidden, 1.0),
                    z: self.matrix("z", values, c.hidden, 1.0),
                    b: self.matrix("b", l.value_heads, c.hidden, 1.0),
                    a: self.matrix("a", l.value_heads, c.hidden, 1.0),
                    conv: self.vector(l.channels() * l.conv_kernel, -0.7, 0.7),
                    a_log: self.vector(l.value_heads, -0.7, 2.0),
                    dt_bias: self.vector(l.value_heads, -5.0, -1.0),
                    norm: vec![1.0; l.value_dim],
                    out: self.matrix("out", c.hidden, values, 1.0),
                })
            }
            _ => {
                let gate = if c.attention_gate { 2 } else { 1 };
                MixerWeights::Attention(AttentionWeights {
                    q: self.matrix("q", c.heads * c.head_dim * gate, c.hidden, 1.0),
                    k: self.matrix("k", c.kv_heads * c.head_dim, c.hidden, 1.0),
                    v: self.matrix("v", c.kv_heads * c.head_dim, c.hidden, 1.0),
                    o: self.matrix("o", c.hidden, c.heads * c.head_dim, 1.0),
                    q_norm: vec![1.0; c.head_dim],
                    k_norm: vec![1.0; c.head_dim],
                })
            }
        };
        let shared = c.shared_intermediate.map(|width| SharedExpertWeights {
            gate: self.matrix("gate", width, c.hidden, 1.0),
            up: self.matrix("up", width, c.hidden, 1.0),
            down: self.matrix("down", c.hidden, width, 1.0),
            scalar_gate: self.matrix("scalar_gate", 1, c.hidden, 1.0),
        });
        LayerWeights {
            input_norm: vec![1.0; c.hidden],
            post_norm: vec![1.0; c.hidden],
            mixer,
            router: self.matrix("router", c.experts, c.hidden, ROUTER_GAIN),
            shared,
        }
    }

    fn experts(&mut self, c: &Config, bits: u8) -> ExpertLayout {
        let format = WeightFormat::affine(bits, GROUP);
        let slot = SlotLayout::new(c.hidden, c.moe_intermediate, format, format);
        // one file of scales and biases beside the random codes: the same for every expert
        let mut constants = Vec::new();
        let mut sections = Vec::new();
        for place in [&slot.gate_up, &slot.down] {
            let bytes = place.rows * format.row_scale_bytes(place.cols);
            let (scale, bias) = Self::scale(bits, place.cols, 1.0);
            for (value, at) in [(scale, place.scales), (bias, place.biases)] {
                let place = Place::Strided { file: 1, base: constants.len() as u64, stride: 0 };
                sections.push(Part { place, len: bytes, at });
                constants.extend(value.repeat(bytes / 2));
            }
        }
        let mut codes = |place: &MatrixPlace| {
            let len = place.rows * format.row_bytes(place.cols);
            let places = (0..c.experts).map(|_| (0, self.window(len) as u64)).collect();
            Part { place: Place::Listed(places), len, at: place.codes }
        };
        let layers = c
            .layers
            .iter()
            .map(|_| {
                let mut parts = vec![codes(&slot.gate_up), codes(&slot.down)];
                parts.extend(sections.iter().cloned());
                LayerExperts { slot, parts, checksums: None }
            })
            .collect();
        let file = |name, bytes| ExpertFile::Memory { name, bytes };
        let files = vec![file("random codes", self.random.clone()), file("scales", constants.into())];
        ExpertLayout { files, experts: c.experts, layers }
    }
}
