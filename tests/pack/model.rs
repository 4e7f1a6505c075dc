//! A small random model as a BF16 snapshot would open, and what reads weights back.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flashflood::experts::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
use flashflood::formats::WeightFormat;
use flashflood::formats::pack::{Observer, Pack, PackOptions, write_pack};
use flashflood::formats::quantise::{dequantise_row, quantise_row};
use flashflood::model::config::LinearConfig;
use flashflood::model::weights::{AttentionWeights, DeltaNetWeights, LayerWeights, MixerWeights, SharedExpertWeights};
use flashflood::model::{Config, LayerKind, Matrix, MatrixBlock, ModelSource, ModelType, ModelWeights, TextFiles};
use flashflood_backends::positioned::read_exact_at;
use half::bf16;
use tempfile::TempDir;

pub(crate) const QUIET: &Observer<'static> = &|_| {};

/// Uniform weights in -1..1 from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    fn bf16(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| bf16::from_f32(self.next()).to_le_bytes()).collect()
    }

    /// A BF16 matrix of two blocks.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Matrix {
        let format = WeightFormat::Bf16;
        let block =
            |rows, bytes| MatrixBlock { rows, codes: Bytes::from(bytes), scales: Bytes::new(), biases: Bytes::new() };
        let first = rows / 3;
        let blocks = [first, rows - first].into_iter().filter(|rows| *rows > 0);
        let blocks = blocks.map(|rows| block(rows, self.bf16(rows * cols))).collect();
        Matrix { name: name.to_owned(), rows, cols, format, blocks }
    }
}

pub(crate) fn config() -> Config {
    Config {
        model_type: ModelType::Qwen35Moe,
        hidden: 128,
        layers: vec![LayerKind::LinearAttention, LayerKind::FullAttention, LayerKind::LinearAttention],
        vocab: 100,
        rms_eps: 1e-6,
        max_positions: 4096,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        rotary_dim: 8,
        rope_theta: 1e7,
        attention_gate: true,
        norm_plus_one: true,
        linear: Some(LinearConfig { key_heads: 1, value_heads: 2, key_dim: 32, value_dim: 32, conv_kernel: 4 }),
        experts: 6,
        top_k: 2,
        renormalise: true,
        // not a multiple of 64: down projections fall back to groups of 32
        moe_intermediate: 96,
        shared_intermediate: Some(64),
        tied_embeddings: false,
    }
}

pub(crate) fn weights(config: &Config, random: &mut Random) -> ModelWeights {
    let hidden = config.hidden;
    let linear = config.linear.unwrap();
    let (inner, shared) = (linear.value_heads * linear.value_dim, config.shared_intermediate.unwrap());
    let layers = config.layers.iter().map(|kind| LayerWeights {
        input_norm: random.vector(hidden),
        post_norm: random.vector(hidden),
        mixer: match kind {
            LayerKind::LinearAttention => MixerWeights::DeltaNet(DeltaNetWeights {
                qkv: random.matrix("in_proj_qkv", linear.channels(), hidden),
                z: random.matrix("in_proj_z", inner, hidden),
                b: random.matrix("in_proj_b", linear.value_heads, hidden),
                a: random.matrix("in_proj_a", linear.value_heads, hidden),
                conv: random.vector(linear.channels() * linear.conv_kernel),
                a_log: random.vector(linear.value_heads),
                dt_bias: random.vector(linear.value_heads),
                norm: random.vector(linear.value_dim),
                out: random.matrix("out_proj", hidden, inner),
            }),
            LayerKind::FullAttention => MixerWeights::Attention(AttentionWeights {
                q: random.matrix("q_proj", 2 * config.heads * config.head_dim, hidden),
                k: random.matrix("k_proj", config.kv_heads * config.head_dim, hidden),
                v: random.matrix("v_proj", config.kv_heads * config.head_dim, hidden),
                o: random.matrix("o_proj", hidden, config.heads * config.head_dim),
                q_norm: random.vector(config.head_dim),
                k_norm: random.vector(config.head_dim),
            }),
        },
        router: random.matrix("mlp.gate", config.experts, hidden),
        shared: Some(SharedExpertWeights {
            gate: random.matrix("shared.gate", shared, hidden),
            up: random.matrix("shared.up", shared, hidden),
            down: random.matrix("shared.down", hidden, shared),
            scalar_gate: random.matrix("shared_expert_gate", 1, hidden),
        }),
    });
    let layers = layers.collect();
    ModelWeights {
        embed_tokens: random.matrix("embed_tokens", config.vocab, hidden),
        lm_head: random.matrix("lm_head", config.vocab, hidden),
        norm: random.vector(hidden),
        layers,
    }
}

/// Experts as a BF16 snapshot has them: gate and up stacked in one file per layer, down one tensor per expert.
pub(crate) fn experts(config: &Config, folder: &Path, random: &mut Random) -> ExpertLayout {
    let slot = SlotLayout::new(config.hidden, config.moe_intermediate, WeightFormat::Bf16, WeightFormat::Bf16);
    let half = slot.gate_up.rows / 2 * config.hidden * 2;
    let down = slot.down.rows * config.moe_intermediate * 2;
    let mut files = Vec::new();
    let layers = config.layers.iter().enumerate().map(|(n, _)| {
        let path = folder.join(format!("model-{n}.bin"));
        fs::write(&path, random.bf16(config.experts * (2 * half + down) / 2)).unwrap();
        let file = files.len() as u32;
        files.push(ExpertFile::Path(path));
        let stacked = |at: u64| Place::Strided { file, base: at, stride: 2 * half as u64 };
        let downs = (2 * half * config.experts) as u64;
        let listed = (0..config.experts as u64).rev().map(|e| (file, downs + e * down as u64)).collect();
        LayerExperts {
            slot,
            parts: vec![
                Part { place: stacked(0), len: half, at: slot.gate_up.codes },
                Part { place: stacked(half as u64), len: half, at: slot.gate_up.codes + half },
                Part { place: Place::Listed(listed), len: down, at: slot.down.codes },
            ],
            checksums: None,
        }
    });
    let layers = layers.collect();
    ExpertLayout { files, experts: config.experts, layers }
}

pub(crate) fn source_of(config: Config, weights: ModelWeights, experts: ExpertLayout) -> ModelSource {
    ModelSource { root: PathBuf::new(), config, weights, experts, text_files: TextFiles::default() }
}

/// A small random model whose experts lie in `folder`.
pub(crate) fn source(folder: &Path, seed: u64) -> ModelSource {
    let (config, random) = (config(), &mut Random(seed));
    let weights = weights(&config, random);
    let experts = experts(&config, folder, random);
    source_of(config, weights, experts)
}

pub(crate) fn repack(pack: Pack) -> ModelSource {
    source_of(pack.config, pack.weights, pack.experts)
}

/// The slot image of an expert.
pub(crate) fn image(layout: &ExpertLayout, layer: usize, expert: usize) -> Vec<u8> {
    let mut image = vec![0; layout.layers[layer].slot.bytes];
    for (file, offset, len, at) in layout.slices(layer, expert) {
        let out = &mut image[at..at + len];
        match &layout.files[file as usize] {
            ExpertFile::Path(path) => read_exact_at(&fs::File::open(path).unwrap(), out, offset).unwrap(),
            ExpertFile::Memory { bytes, .. } => out.copy_from_slice(&bytes[offset as usize..][..len]),
        }
    }
    image
}

pub(crate) fn expert_rows(place: &MatrixPlace, image: &[u8]) -> Vec<Vec<f32>> {
    let (rb, sb) = (place.format.row_bytes(place.cols), place.format.row_scale_bytes(place.cols));
    let row = |row: usize| {
        let mut out = vec![0.0; place.cols];
        let (codes, scales) = (&image[place.codes + row * rb..][..rb], &image[place.scales + row * sb..][..sb]);
        dequantise_row(place.format, place.cols, codes, scales, &image[place.biases + row * sb..][..sb], &mut out);
        out
    };
    (0..place.rows).map(row).collect()
}

pub(crate) fn matrix_rows(matrix: &Matrix) -> Vec<Vec<f32>> {
    (0..matrix.rows)
        .map(|row| {
            let block = &matrix.slice_rows(row..row + 1).blocks[0];
            let mut out = vec![0.0; matrix.cols];
            dequantise_row(matrix.format, matrix.cols, &block.codes, &block.scales, &block.biases, &mut out);
            out
        })
        .collect()
}

/// Rows as the quantiser gives them back.
pub(crate) fn quantised(rows: &[Vec<f32>], bits: u8, group: u16) -> Vec<Vec<f32>> {
    let row = |row: &Vec<f32>| {
        let format = WeightFormat::affine(bits, group);
        let mut codes = vec![0; format.row_bytes(row.len())];
        let mut scales = vec![0; format.row_scale_bytes(row.len())];
        let mut biases = scales.clone();
        quantise_row(bits, group, row, &mut codes, &mut scales, &mut biases).unwrap();
        let mut out = vec![0.0; row.len()];
        dequantise_row(format, row.len(), &codes, &scales, &biases, &mut out);
        out
    };
    rows.iter().map(row).collect()
}

pub(crate) fn options(bits: u8) -> PackOptions {
    PackOptions { bits, ..PackOptions::default() }
}

/// Model folder, pack folder (not made yet), and what holds both.
pub(crate) fn folders() -> (TempDir, PathBuf, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let (model, out) = (temp.path().join("model"), temp.path().join("pack"));
    fs::create_dir(&model).unwrap();
    (temp, model, out)
}

/// A pack of 4 bits in its own folder.
pub(crate) fn made() -> (TempDir, PathBuf) {
    let (temp, model, out) = folders();
    write_pack(&source(&model, 1), None, &out, &options(4), QUIET).unwrap();
    (temp, out)
}

/// Every file of the folder by name.
pub(crate) fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => files.extend(contents(&path)),
            false => files.push((name, fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}
