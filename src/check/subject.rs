//! What is run: recordings with random weights, at the shapes of a model and in every weight format.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::compute::ops::{Experts, Input, MatVec, Quantised, Route, RowsOf, StreamRead};
use crate::compute::shaders::Form;
use crate::compute::{Recorded, Recording, ShapeError, TensorId};
use crate::experts::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout};
use crate::formats::{ScaleType, WeightFormat};
use crate::model::{Config, LayerKind, Matrix, MatrixBlock, forward, synth};

/// Tokens of a step of a prompt: two chunks of the delta rule and a part of one, and more than a small tile for each
/// expert.
pub(super) const TOKENS: usize = 72;
/// Tokens of a short prompt: fewer than a small tile.
pub(super) const FEW_TOKENS: usize = 9;
/// Positions before a step: attention of one token splits what is longer than 512.
pub(super) const HISTORY: usize = 600;

/// A recording and what it runs with.
pub(super) struct Subject {
    /// For people.
    pub(super) name: String,
    pub(super) recording: Arc<Recording>,
    pub(super) experts: Arc<ExpertLayout>,
    /// Experts of a token.
    pub(super) top_k: usize,
    /// Whose positions are rotated, where any are.
    pub(super) config: Option<Config>,
    /// Ids that stand for a router's choice.
    pub(super) choices: Vec<TensorId>,
}

/// SplitMix64: the same numbers on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number between `-most` and `most`.
    fn within(&mut self, most: f32) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0) * most
    }

    /// `n` numbers of deviation 1.
    pub(super) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.within(1.732)).collect()
    }

    /// `count` different numbers below `n`.
    pub(super) fn distinct(&mut self, count: usize, n: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n as u32).collect();
        for i in 0..count {
            let other = i + (self.bits() % (n - i) as u64) as usize;
            all.swap(i, other);
        }
        all.truncate(count);
        all
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| self.bits().to_le_bytes()).collect();
        bytes.truncate(n);
        bytes
    }

    /// Codes, scales and biases of weights that give products of activations of deviation 1 a deviation of 1.
    fn weights(&mut self, format: WeightFormat, rows: usize, cols: usize) -> [Vec<u8>; 3] {
        let gain = 1.0 / (cols as f32).sqrt();
        let (bits, scale_type) = match format {
            WeightFormat::Affine { bits, scales, .. } => (bits, scales),
            WeightFormat::F32 => return [self.dense(ScaleType::F32, rows * cols, gain), vec![], vec![]],
            WeightFormat::F16 => return [self.dense(ScaleType::F16, rows * cols, gain), vec![], vec![]],
            WeightFormat::Bf16 => return [self.dense(ScaleType::Bf16, rows * cols, gain), vec![], vec![]],
        };
        let groups = rows * format.row_scale_bytes(cols) / scale_type.bytes();
        let levels = (1u32 << bits) as f32;
        let step = gain / ((levels * levels - 1.0) / 12.0).sqrt();
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
        for _ in 0..groups {
            let scale = step * (1.0 + self.within(0.5));
            encode(scale_type, scale, &mut scales);
            encode(scale_type, -scale * (levels - 1.0) / 2.0, &mut biases);
        }
        [self.bytes(rows * format.row_bytes(cols)), scales, biases]
    }

    fn dense(&mut self, as_type: ScaleType, n: usize, gain: f32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n * as_type.bytes());
        (0..n).for_each(|_| encode(as_type, self.within(1.732 * gain), &mut bytes));
        bytes
    }
}

fn encode(as_type: ScaleType, value: f32, out: &mut Vec<u8>) {
    match as_type {
        ScaleType::F32 => out.extend(value.to_le_bytes()),
        ScaleType::F16 => out.extend(half::f16::from_f32(value).to_le_bytes()),
        ScaleType::Bf16 => out.extend(half::bf16::from_f32(value).to_le_bytes()),
    }
}

/// A layer of each mixer at the shapes of a model, as few experts as show every size of tile, and no more of the vocabulary
/// than `vocab`. A mixer that the model does not have is that of `other`, so that no kernel is left out.
pub(super) fn cut(config: &Config, other: &Config, vocab: usize) -> Config {
    Config {
        layers: vec![LayerKind::LinearAttention, LayerKind::FullAttention],
        linear: config.linear.or(other.linear),
        experts: config.experts.min(config.top_k + 2),
        vocab: config.vocab.min(vocab),
        ..config.clone()
    }
}

/// A model of the same kind that a processor computes in seconds: narrow, with few heads of the same sizes.
pub(super) fn narrow(config: &Config) -> Config {
    let mut small = config.clone();
    small.hidden = config.hidden.min(1024);
    small.moe_intermediate = config.moe_intermediate.min(256);
    small.shared_intermediate = config.shared_intermediate.map(|width| width.min(256));
    small.kv_heads = config.kv_heads.min(2);
    small.heads = small.kv_heads * (config.heads / config.kv_heads).min(4);
    if let Some(linear) = &mut small.linear {
        let shared = linear.value_heads / linear.key_heads;
        linear.key_heads = linear.key_heads.min(4);
        linear.value_heads = linear.key_heads * shared;
    }
    small
}

/// The forward pass of a model: `config` as [`cut`] makes it, weights of `bits` bits in groups of 64.
pub(super) fn model(config: &Config, bits: u8, form: Form) -> Result<Subject, ShapeError> {
    let source = synth::with_config(PathBuf::from("check"), config.clone(), bits, bits, 1);
    let recorded = forward::record(&source.config, &source.weights, &source.experts, TOKENS, form, false)?;
    let activations = if form == Form::Int8 { "int8" } else { "f32" };
    Ok(Subject {
        name: format!("a model of {bits} bits, activations {activations}"),
        recording: Arc::new(recorded.recording),
        experts: Arc::new(source.experts),
        top_k: config.top_k,
        config: Some(source.config),
        choices: Vec::new(),
    })
}

/// Sizes of the matrices of [`formats`].
#[derive(Clone, Copy, Debug)]
pub(super) struct FormatShapes {
    /// Columns.
    pub(super) hidden: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Width of an expert.
    pub(super) intermediate: usize,
}

/// Experts of a layer of [`formats`], and of a token.
const EXPERTS: (usize, usize) = (4, 2);

/// A product and a layer of experts for each weight format, with activations in f32 and in int8, or in int8 alone; and
/// the kernel that only reads.
pub(super) fn formats(shapes: FormatShapes, forms: &[Form]) -> Result<Subject, ShapeError> {
    let FormatShapes { hidden, rows, intermediate } = shapes;
    let (experts, top_k) = EXPERTS;
    let mut random = Random::new(2);
    let mut r = Recording::new(TOKENS);
    let x = r.tensor("x", 1, hidden);
    r.input = Some(x);
    let sums = r.words("sums", 1, StreamRead::columns(hidden));
    r.push("stream_read", StreamRead { x, out: sums })?;
    let (mut files, mut layers, mut choices) = (Vec::new(), Vec::new(), Vec::new());
    for (format, form) in all_formats(forms) {
        let name = format!("{format}, {form:?}").to_lowercase();
        let [codes, scales, biases] = random.weights(format, rows, hidden).map(Bytes::from);
        let blocks = vec![MatrixBlock { rows, codes, scales, biases }];
        let matrix = r.matrix(Matrix { name: name.clone(), rows, cols: hidden, format, blocks });
        let input: Input = match format.interleave() {
            Some(interleave) if form == Form::Int8 => r.quantised(x, interleave)?.into(),
            _ => x.into(),
        };
        let out = r.tensor(format!("product, {name}"), 1, rows);
        r.push(name.clone(), MatVec { x: input, matrix, out, accumulate: false, rows: RowsOf::Tokens })?;
        let slot = SlotLayout::new(hidden, intermediate, format, format);
        let layer = layers.len();
        let ids = r.ids(format!("ids, {name}"), top_k);
        let label = format!("hidden, {name}");
        let inner: Input = match format.interleave() {
            Some(interleave) if form == Form::Int8 => {
                Quantised::tensor(&mut r, &label, top_k, intermediate, interleave).into()
            }
            _ => r.tensor(label, top_k, intermediate).into(),
        };
        let out = r.tensor(format!("experts, {name}"), top_k, hidden);
        let op = Experts { layer, slot, x: input, hidden: inner, out };
        op.check(&r)?;
        r.steps.extend([Recorded::Route(Route { layer, ids, ahead: None }), Recorded::Experts(Box::new(op))]);
        choices.push(ids.tensor);
        let bytes: Vec<u8> = (0..experts).flat_map(|_| expert(&mut random, &slot)).collect();
        let place = Place::Strided { file: layer as u32, base: 0, stride: slot.bytes as u64 };
        files.push(ExpertFile::Memory { name: "experts of a check", bytes: bytes.into() });
        layers.push(LayerExperts { slot, parts: vec![Part { place, len: slot.bytes, at: 0 }], checksums: None });
    }
    Ok(Subject {
        name: "every weight format".to_owned(),
        recording: Arc::new(r),
        experts: Arc::new(ExpertLayout { files, experts, layers }),
        top_k,
        config: None,
        choices,
    })
}

/// Every weight format with the forms of activations that it is multiplied with. Groups and types of scales differ.
fn all_formats(forms: &[Form]) -> Vec<(WeightFormat, Form)> {
    let affine = |group, scales| WeightFormat::BITS.map(|bits| WeightFormat::Affine { bits, group, scales });
    let mut all = Vec::new();
    if forms.contains(&Form::F32) {
        all.extend([WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16].map(|format| (format, Form::F32)));
        all.extend(affine(64, ScaleType::F16).map(|format| (format, Form::F32)));
    }
    if forms.contains(&Form::Int8) {
        all.extend(affine(32, ScaleType::Bf16).map(|format| (format, Form::Int8)));
    }
    all
}

/// The bytes of one expert.
fn expert(random: &mut Random, slot: &SlotLayout) -> Vec<u8> {
    let mut bytes = vec![0; slot.bytes];
    for place in [&slot.gate_up, &slot.down] {
        let [codes, scales, biases] = random.weights(place.format, place.rows, place.cols);
        for (at, section) in [(place.codes, codes), (place.scales, scales), (place.biases, biases)] {
            bytes[at..at + section.len()].copy_from_slice(&section);
        }
    }
    bytes
}
