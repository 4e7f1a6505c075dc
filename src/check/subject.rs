//! What is run: recordings with random weights, at the shapes of a model and in every weight format.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flashflood_formats::{Block, Scaled};
use serde_json::{Value, json};

use super::CheckError;
use crate::compute::ops::{
    Combine, CombineNorm, DeltaNetShape, ExpertDown, Experts, GateUpApart, Input, Matmul, MatmulNorm, Quantised,
    RmsNorm, Route, RowsOf, StreamRead, Swiglu, Unscaled,
};
use crate::compute::shaders::Form;
use crate::compute::{KvFormat, Lowering, Recorded, Recording, ShapeError, TensorId, View, lower};
use crate::model::published::random_model;
use crate::model::{AttentionShape, MoeShape, Shape};
use crate::weights::random::RandomFormats;
use crate::weights::{
    Affine, ExpertFile, ExpertLayout, LayerExperts, Matrix, MatrixBlock, Part, Place, ScaleType, SlotLayout,
    WeightFormat,
};

/// Tokens of a step of a prompt: two chunks of the delta rule and a part of one, and a tile of the largest for each expert.
pub(super) const TOKENS: usize = 72;
/// Tokens of a short prompt: fewer than the smallest tile of a matrix has.
pub(super) const FEW_TOKENS: usize = 14;
/// Tokens of prompts for experts: with those above all have pairs for each size of tile, as all but two are chosen.
pub(super) const FOR_TILES: [usize; 2] = [8, 24];
/// Positions before a step: attention of one token splits what is longer than 512.
pub(super) const HISTORY: usize = 600;

/// A recording and what it runs with.
pub(super) struct Subject {
    /// For people.
    pub(super) name: String,
    pub(super) recording: Arc<Recording>,
    pub(super) experts: Arc<ExpertLayout>,
    /// Whose positions are rotated, where any are.
    pub(super) shape: Option<Shape>,
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
}

/// Shapes that kernels run at.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedShape {
    pub(super) hidden: usize,
    pub(super) vocab: usize,
    pub(super) attention: AttentionShape,
    pub(super) delta_net: DeltaNetShape,
    pub(super) moe: MoeShape,
}

impl CheckedShape {
    /// A layer of each mixer at the shapes of a model, as few experts as show every size of tile, and no more of the
    /// vocabulary than `vocab`. What the model does not have is that of `other`, so that no kernel is left out; `None` where
    /// that does not have it either.
    pub(super) fn cut(shape: &Shape, other: &Shape, vocab: usize) -> Option<CheckedShape> {
        let moe = shape.moe().or(other.moe())?;
        Some(CheckedShape {
            hidden: shape.hidden,
            vocab: shape.vocab.min(vocab),
            attention: shape.attention().or(other.attention())?,
            delta_net: shape.delta_net().or(other.delta_net())?,
            moe: MoeShape { experts: moe.experts.min(moe.top_k + 2), shared: moe.shared.or(Some(moe.width)), ..moe },
        })
    }

    /// A model of the same kind that a processor computes in seconds: narrow, with few heads of the same sizes.
    pub(super) fn narrow(mut self) -> CheckedShape {
        let CheckedShape { attention, delta_net, moe, .. } = &mut self;
        moe.width = moe.width.min(256);
        moe.shared = moe.shared.map(|width| width.min(256));
        let kv_heads = attention.kv_heads.min(2);
        attention.heads = kv_heads * (attention.heads / attention.kv_heads).min(4);
        attention.kv_heads = kv_heads;
        let shared = delta_net.value_heads / delta_net.key_heads;
        delta_net.key_heads = delta_net.key_heads.min(4);
        delta_net.value_heads = delta_net.key_heads * shared;
        self.hidden = self.hidden.min(1024);
        self
    }

    /// As the `config.json` of a family that has all of it.
    fn config(&self) -> Value {
        let CheckedShape { hidden, vocab, attention, delta_net, moe } = self;
        json!({
            "model_type": "qwen3_5_moe", "hidden_size": hidden, "vocab_size": vocab, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 262_144, "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": attention.heads, "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head_dim, "rope_theta": attention.rope_theta,
            "partial_rotary_factor": attention.rotary_dim as f64 / attention.head_dim as f64,
            "linear_num_key_heads": delta_net.key_heads, "linear_num_value_heads": delta_net.value_heads,
            "linear_key_head_dim": delta_net.key_dim, "linear_value_head_dim": delta_net.value_dim,
            "linear_conv_kernel_dim": delta_net.conv_kernel, "linear_value_heads_in_turn": delta_net.in_turn, "num_experts": moe.experts,
            "num_experts_per_tok": moe.top_k, "moe_intermediate_size": moe.width,
            "shared_expert_intermediate_size": moe.shared, "norm_topk_prob": moe.renormalise
        })
    }
}

/// The forward pass of a model: weights of `bits` bits in groups of 64.
pub(super) fn model(shape: &CheckedShape, bits: u8, form: Form) -> Result<Subject, CheckError> {
    let formats = RandomFormats::Affine { bits, resident_bits: bits };
    let source = random_model(Path::new("check"), shape.config(), formats, 1).map_err(CheckError::Source)?;
    let how = Lowering { activations: form, look_ahead: false, unscaled: true, kv: KvFormat::default() };
    let mut recording = lower(source.recording, how)?;
    recording.max_tokens = TOKENS;
    let activations = if form == Form::Int8 { "int8" } else { "f32" };
    Ok(Subject {
        name: format!("a model of {bits} bits, activations {activations}"),
        recording: Arc::new(recording),
        experts: Arc::new(source.weights.experts),
        shape: Some(source.shape),
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

/// A product and a layer of experts for each weight format, with activations in f32 and in int8, or in int8 alone; a layer
/// whose gate and up have different formats; and the kernel that only reads.
pub(super) fn formats(shapes: FormatShapes, forms: &[Form]) -> Result<Subject, CheckError> {
    let FormatShapes { hidden, rows, intermediate } = shapes;
    let (experts, top_k) = EXPERTS;
    let mut random = Random::new(2);
    let mut r = Recording::new(TOKENS);
    let x = r.tensor("x", 1, hidden);
    r.input = Some(x);
    let sums = r.words("sums", 1, StreamRead::columns(hidden));
    r.push("stream_read", StreamRead { x, out: sums })?;
    swiglu(&mut r, x, forms)?;
    let sum = r.tensor("sum", 1, hidden);
    let (mut files, mut layers, mut choices) = (Vec::new(), Vec::new(), Vec::new());
    let alike = all_formats(forms).into_iter().map(|(format, form)| ([format; 3], form));
    let [four, eight] = [4, 8].map(|bits| WeightFormat::affine(bits, 64));
    let apart = forms.iter().map(|form| ([four, eight, four], *form));
    for (formats, form) in alike.chain(apart) {
        let [format, of_up, _] = formats;
        let slot = SlotLayout::new(hidden, intermediate, formats);
        let name = format!("{}, {form:?}", slot.formats()).to_lowercase();
        let packed = |r: &mut Recording, format: WeightFormat| match format.interleave() {
            Some(interleave) if form == Form::Int8 => r.quantised(x, interleave).map(Input::from),
            _ => Ok(x.into()),
        };
        let input = packed(&mut r, format)?;
        let apart = match slot.gate_up() {
            Some(_) => {
                let streams = format.random(rows, hidden, 1.0, random.bits()).map(Bytes::from);
                let blocks = vec![MatrixBlock { rows, streams }];
                let matrix = r.matrix(Matrix { name: name.clone(), rows, cols: hidden, format, blocks });
                let out = r.tensor(format!("product, {name}"), 1, rows);
                let (accumulate, exact, rows) = (false, false, RowsOf::Tokens);
                let product = Matmul { x: input, matrix, out, accumulate, exact, rows, unscaled: None };
                r.push(name.clone(), product.clone())?;
                matmul_norm(&mut r, &name, product, form)?;
                None
            }
            None => {
                let products = r.tensor(format!("gate and up, {name}"), top_k, 2 * intermediate);
                Some(GateUpApart { x: packed(&mut r, of_up)?, products })
            }
        };
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
        let op = Experts { layer, slot, x: input, apart, hidden: inner, out, unscaled: None, combined: false };
        op.check(&r)?;
        r.steps.extend([Recorded::Route(Route { layer, ids, ahead: None }), Recorded::Experts(Box::new(op))]);
        // weights, the shared expert and its gate may be any numbers
        let shared = (layer > 0).then(|| (x, (layer > 1).then(|| x.columns(top_k, 1))));
        let weights = x.columns(0, top_k);
        r.push(format!("sum, {name}"), Combine { x: sum, routed: out, weights, shared })?;
        if let Input::Int8(hidden) = inner {
            let name = format!("down, {name}");
            let down = ExpertDown { layer, place: slot.down, hidden };
            combine_norm(&mut r, &name, Combine { x: sum, routed: out, weights, shared }, down)?;
        }
        choices.push(ids.tensor);
        let bytes: Vec<u8> = (0..experts).flat_map(|_| expert(&mut random, &slot)).collect();
        let place = Place::Strided { file: layer as u32, base: 0, stride: slot.bytes as u64 };
        files.push(ExpertFile::Memory { name: "experts of a check", bytes: bytes.into() });
        let parts = vec![Part { place, len: slot.bytes, at: 0 }];
        layers.push(LayerExperts { experts, top_k, slot, parts, rewritten: Vec::new(), checksums: None });
    }
    Ok(Subject {
        name: "every weight format".to_owned(),
        recording: Arc::new(r),
        experts: Arc::new(ExpertLayout { files, layers }),
        shape: None,
        choices,
    })
}

/// What combines experts, the norm of that, and the last product of theirs.
fn combine_norm(r: &mut Recording, name: &str, combine: Combine, down: ExpertDown) -> Result<(), ShapeError> {
    let Combine { x, routed, weights, shared } = combine;
    let norm = r.vector("norm", &vec![1.0; x.width]);
    let out = r.tensor(format!("normed, {name}"), 1, x.width);
    let packed = Some(Quantised::tensor(r, &format!("packed, {name}"), 1, x.width, 4));
    let eps = 1e-6;
    // groups of 32 columns, as sizes of a check are
    let Some(unscaled) = Unscaled::new(r, &out, eps) else { return Ok(()) };
    let (unscaled, down) = (Some(unscaled), Some(down));
    r.push(name, CombineNorm { x, routed, weights, shared, norm, out, packed, eps, unscaled, down })
}

/// `product` onto a residual stream, and the norm of that.
fn matmul_norm(r: &mut Recording, name: &str, product: Matmul, form: Form) -> Result<(), ShapeError> {
    let width = product.out.width;
    let [x, out] = ["stream", "normed"].map(|what| r.tensor(format!("{what}, {name}"), 1, width));
    let weight = r.vector("norm", &vec![1.0; width]);
    let packed = (form == Form::Int8).then(|| Quantised::tensor(r, &format!("normed, {name}"), 1, width, 4));
    let norm = RmsNorm { x, weight, out, packed, eps: 1e-6 };
    // groups of 32 rows, as sizes of a check are
    let Some(unscaled) = Unscaled::new(r, &out, norm.eps) else { return Ok(()) };
    let product = Matmul { out: x, accumulate: true, ..product };
    r.push(format!("{name}, norm"), MatmulNorm { product, norm, unscaled })
}

/// SwiGLU of the columns of `x`, whose result a product in one of `forms` could take.
fn swiglu(r: &mut Recording, x: View, forms: &[Form]) -> Result<(), ShapeError> {
    let width = x.width / 2;
    for form in forms {
        let out: Input = match form {
            Form::F32 => r.tensor("gated", 1, width).into(),
            Form::Int8 => Quantised::tensor(r, "gated", 1, width, 2).into(),
        };
        r.push("swiglu", Swiglu { gate_up: x, out })?;
    }
    Ok(())
}

/// Every weight format with the forms of activations that it is multiplied with. Groups and types of scales differ.
fn all_formats(forms: &[Form]) -> Vec<(WeightFormat, Form)> {
    let affine = |group, scales| Affine::BITS.map(|bits| WeightFormat::Affine(Affine { bits, group, scales }));
    let mut all: Vec<_> =
        forms.iter().flat_map(|form| Block::all().map(|block| (WeightFormat::Block(block), *form))).collect();
    if forms.contains(&Form::F32) {
        all.extend([WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16].map(|format| (format, Form::F32)));
        all.extend(affine(64, ScaleType::F16).map(|format| (format, Form::F32)));
        all.extend(Scaled::KINDS.map(|floats| (WeightFormat::Scaled(floats), Form::F32)));
    }
    if forms.contains(&Form::Int8) {
        all.extend(affine(32, ScaleType::Bf16).map(|format| (format, Form::Int8)));
        let floats = Scaled::KINDS.map(WeightFormat::Scaled).into_iter();
        all.extend(floats.filter(|format| format.interleave().is_some()).map(|format| (format, Form::Int8)));
    }
    all
}

/// The bytes of one expert.
fn expert(random: &mut Random, slot: &SlotLayout) -> Vec<u8> {
    let mut bytes = vec![0; slot.bytes];
    for (_, place) in slot.matrices() {
        let streams = place.format.random(place.rows, place.cols, 1.0, random.bits());
        for ((at, len), stream) in place.sections().zip(streams) {
            bytes[at..at + len].copy_from_slice(&stream);
        }
    }
    bytes
}
