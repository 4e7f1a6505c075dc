//! The golden snapshots open, and what is bound is what the releases hold: the MLX copy of `tiny` holds the same weights
//! as `tiny` itself, to within its quantisation, expert by expert.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::{Mixer, ModelSource};
use crate::weights::{Affine, ExpertFile, ExpertLayout, Listed, Listing, Matrix, MatrixPlace, ScaleType, WeightFormat};

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
fn values(format: WeightFormat, cols: usize, [codes, scales, biases]: [&[u8]; 3]) -> Vec<(f32, f32)> {
    match format {
        WeightFormat::Bf16 => bf16(codes).into_iter().map(|value| (value, 0.0)).collect(),
        WeightFormat::Affine(Affine { bits, group, scales: ScaleType::Bf16 }) => {
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
    blocks.flat_map(|b| values(matrix.format, matrix.cols, b.streams.each_ref().map(|bytes| &bytes[..]))).collect()
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

fn matrices(weights: &Listing) -> Vec<(&str, &Matrix)> {
    let all = weights.resident.iter().filter_map(|listed| match listed {
        Listed::Matrix { name, matrix, .. } => Some((&name[..], matrix)),
        Listed::Vector { .. } => None,
    });
    all.collect()
}

fn vectors(weights: &Listing) -> Vec<(&str, &Vec<f32>)> {
    let all = weights.resident.iter().filter_map(|listed| match listed {
        Listed::Vector { name, values, .. } => Some((&name[..], values)),
        Listed::Matrix { .. } => None,
    });
    all.collect()
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
    values(place.format, place.cols, place.rows_in(slot).streams)
}

#[test]
fn mlx_holds_the_same_weights() {
    let (tiny, mlx) = (open("oracle/tiny"), open("oracle/tiny_mlx4"));
    assert_eq!(tiny.shape, mlx.shape);
    let [a, b] = [&tiny, &mlx].map(|source| matrices(&source.weights));
    // three delta-nets of 5 projections, attention of 4, and router and shared expert of each of 4 layers
    assert_eq!((a.len(), b.len()), (2 + 3 * 5 + 4 + 4 * (1 + 4), a.len()));
    for ((name, a), (same, b)) in a.into_iter().zip(b) {
        assert_eq!(name, same);
        assert_eq!(a.format, WeightFormat::Bf16, "{}", a.name);
        assert_close(&b.name, &matrix_values(a), &matrix_values(b));
    }
    let [a, b] = [&tiny, &mlx].map(|source| vectors(&source.weights));
    assert_eq!((a.len(), b.len()), (1 + 3 * 4 + 2 + 4 * 2, a.len()));
    for ((name, a), (same, b)) in a.into_iter().zip(b) {
        assert_eq!((name, a.len()), (same, b.len()));
        // MLX rounds to bf16 after it adds the 1
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= a.abs() / 256.0), "{a:?} against {b:?}");
    }
    for layer in 0..4 {
        let (a, b) = (tiny.experts().layers[layer].slot, mlx.experts().layers[layer].slot);
        for expert in [0, 7, 15] {
            let slots = [slot(tiny.experts(), layer, expert), slot(mlx.experts(), layer, expert)];
            for (a, b) in [(a.gate, b.gate), (a.up, b.up), (a.down, b.down)] {
                let what = format!("expert {expert} of layer {layer}");
                assert_close(&what, &place_values(&a, &slots[0]), &place_values(&b, &slots[1]));
            }
        }
    }
    let formats = ["embed_tokens", "layers.0.router"].map(|name| mlx.weights.matrix(name).unwrap().format);
    assert_eq!(formats, [WeightFormat::affine(4, 64), WeightFormat::affine(8, 64)]);
}

#[test]
fn real_head_sizes_open() {
    let heads = open("oracle/mini_heads");
    let [linear, full] = &heads.shape.layers[..] else { panic!("{:?}", heads.shape) };
    let (Mixer::DeltaNet(linear), Mixer::Attention(full)) = (linear.mixer, full.mixer) else {
        panic!("{:?}", heads.shape)
    };
    assert_eq!((full.head_dim, full.rotary_dim), (256, 64));
    assert_eq!(linear.key_dim, 128);
    assert!(heads.text_files.tokenizer.is_none());
}

#[test]
fn the_small_moe_opens_with_its_text_files() {
    let small = open("small-moe/snapshot-8bit");
    let moe = small.shape.moe().unwrap();
    assert_eq!((small.shape.layers.len(), moe.experts, moe.top_k), (8, 32, 4));
    assert_eq!(small.weights.matrix("layers.3.router").unwrap().format, WeightFormat::affine(8, 64));
    assert!(small.experts().layers.iter().all(|layer| layer.slot.gate.format == WeightFormat::affine(8, 64)));
    let files = small.text_files;
    assert!(files.tokenizer.is_some() && files.chat_template.is_some());
    assert!(files.tokenizer_config.is_some() && files.generation_config.is_some());
}
