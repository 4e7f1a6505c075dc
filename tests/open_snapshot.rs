//! The golden snapshots open, and what is bound is what the releases hold: the MLX copy of `tiny` holds the same weights
//! as `tiny` itself, to within its quantisation, expert by expert.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use flashflood::experts::{ExpertFile, ExpertLayout, MatrixPlace};
use flashflood::formats::{ScaleType, WeightFormat};
use flashflood::model::weights::{MixerWeights, ModelWeights};
use flashflood::model::{LayerKind, Matrix, ModelSource};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(name: &str) -> ModelSource {
    ModelSource::open(&golden(name)).unwrap()
}

fn bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

/// Values of a block, and per value the largest error that the format makes.
fn values(format: WeightFormat, cols: usize, codes: &[u8], scales: &[u8], biases: &[u8]) -> Vec<(f32, f32)> {
    match format {
        WeightFormat::Bf16 => bf16(codes).into_iter().map(|value| (value, 0.0)).collect(),
        WeightFormat::Affine { bits, group, scales: ScaleType::Bf16 } => {
            let (scales, biases) = (bf16(scales), bf16(biases));
            let (bits, group) = (usize::from(bits), usize::from(group));
            let per_byte = 8 / bits;
            let code = |i: usize| usize::from(codes[i / per_byte]) >> (bits * (i % per_byte)) & ((1 << bits) - 1);
            assert_eq!(codes.len() * per_byte, scales.len() * group);
            assert_eq!(cols % group, 0);
            let value = |i: usize| (scales[i / group] * code(i) as f32 + biases[i / group], scales[i / group].abs());
            (0..scales.len() * group).map(value).collect()
        }
        other => panic!("no golden snapshot holds {other}"),
    }
}

fn matrix_values(matrix: &Matrix) -> Vec<(f32, f32)> {
    let blocks = matrix.blocks.iter();
    blocks.flat_map(|b| values(matrix.format, matrix.cols, &b.codes, &b.scales, &b.biases)).collect()
}

/// MLX puts one end of a group on a code exactly and may cut the other end off by almost a step; on average elements
/// are within half a step.
fn assert_close(what: &str, exact: &[(f32, f32)], quantised: &[(f32, f32)]) {
    assert_eq!(exact.len(), quantised.len(), "{what}");
    let mut steps = 0.0;
    for (i, (&(exact, _), &(value, step))) in exact.iter().zip(quantised).enumerate() {
        let error = (exact - value).abs();
        assert!(error <= 1.1 * step + 0.01 * exact.abs(), "{what}, element {i}: {exact} against {value}, step {step}");
        steps += f64::from(error / step);
    }
    let mean = steps / exact.len() as f64;
    assert!(mean < 0.5, "{what}: {mean} steps off on average");
}

fn matrices(weights: &ModelWeights) -> Vec<&Matrix> {
    let mut all = vec![&weights.embed_tokens, &weights.lm_head];
    for layer in &weights.layers {
        all.push(&layer.router);
        match &layer.mixer {
            MixerWeights::Attention(m) => all.extend([&m.q, &m.k, &m.v, &m.o]),
            MixerWeights::DeltaNet(m) => all.extend([&m.qkv, &m.z, &m.b, &m.a, &m.out]),
        }
        let shared = layer.shared.as_ref().unwrap();
        all.extend([&shared.gate, &shared.up, &shared.down, &shared.scalar_gate]);
    }
    all
}

fn vectors(weights: &ModelWeights) -> Vec<&Vec<f32>> {
    let mut all = vec![&weights.norm];
    for layer in &weights.layers {
        all.extend([&layer.input_norm, &layer.post_norm]);
        match &layer.mixer {
            MixerWeights::Attention(m) => all.extend([&m.q_norm, &m.k_norm]),
            MixerWeights::DeltaNet(m) => all.extend([&m.conv, &m.a_log, &m.dt_bias, &m.norm]),
        }
    }
    all
}

/// The slot of one expert, filled from disk.
fn slot(layout: &ExpertLayout, layer: usize, expert: usize) -> Vec<u8> {
    let mut slot = vec![0; layout.slot_bytes()];
    for (file, offset, len, at) in layout.slices(layer, expert) {
        let ExpertFile::Path(path) = &layout.files[file as usize] else { panic!("a snapshot lies on disk") };
        let bytes = fs::read(path).unwrap();
        slot[at..at + len].copy_from_slice(&bytes[offset as usize..offset as usize + len]);
    }
    slot
}

fn place_values(place: &MatrixPlace, slot: &[u8]) -> Vec<(f32, f32)> {
    let codes = place.rows * place.format.row_bytes(place.cols);
    let scales = place.rows * place.format.row_scale_bytes(place.cols);
    let section = |at: usize, len: usize| &slot[at..at + len];
    let (scales, biases) = (section(place.scales, scales), section(place.biases, scales));
    values(place.format, place.cols, section(place.codes, codes), scales, biases)
}

#[test]
fn mlx_holds_the_same_weights() {
    let (tiny, mlx) = (open("oracle/tiny"), open("oracle/tiny_mlx4"));
    assert_eq!(tiny.config, mlx.config);
    for (a, b) in matrices(&tiny.weights).into_iter().zip(matrices(&mlx.weights)) {
        assert_eq!(a.format, WeightFormat::Bf16, "{}", a.name);
        assert_close(&b.name, &matrix_values(a), &matrix_values(b));
    }
    for (a, b) in vectors(&tiny.weights).into_iter().zip(vectors(&mlx.weights)) {
        assert_eq!(a.len(), b.len());
        // MLX rounds to bf16 after it adds the 1
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= a.abs() / 256.0), "{a:?} against {b:?}");
    }
    for layer in 0..4 {
        let (a, b) = (tiny.experts.layers[layer].slot, mlx.experts.layers[layer].slot);
        for expert in [0, 7, 15] {
            let slots = [slot(&tiny.experts, layer, expert), slot(&mlx.experts, layer, expert)];
            for (a, b) in [(a.gate_up, b.gate_up), (a.down, b.down)] {
                let what = format!("expert {expert} of layer {layer}");
                assert_close(&what, &place_values(&a, &slots[0]), &place_values(&b, &slots[1]));
            }
        }
    }
    let formats = |m: &ModelSource| (m.weights.embed_tokens.format, m.weights.layers[0].router.format);
    assert_eq!(formats(&mlx), (WeightFormat::affine(4, 64), WeightFormat::affine(8, 64)));
}

#[test]
fn real_head_sizes_open() {
    let heads = open("oracle/mini_heads");
    assert_eq!(heads.config.layers, [LayerKind::LinearAttention, LayerKind::FullAttention]);
    assert_eq!((heads.config.head_dim, heads.config.rotary_dim), (256, 64));
    assert_eq!(heads.config.linear.unwrap().key_dim, 128);
    assert!(heads.text_files.tokenizer.is_none());
}

#[test]
fn the_small_moe_opens_with_its_text_files() {
    let small = open("small-moe/snapshot-8bit");
    assert_eq!((small.config.layers.len(), small.config.experts, small.config.top_k), (8, 32, 4));
    assert_eq!(small.weights.layers[3].router.format, WeightFormat::affine(8, 64));
    assert!(small.experts.layers.iter().all(|layer| layer.slot.gate_up.format == WeightFormat::affine(8, 64)));
    let files = small.text_files;
    assert!(files.tokenizer.is_some() && files.chat_template.is_some());
    assert!(files.tokenizer_config.is_some() && files.generation_config.is_some());
}
