//! A small random model as a snapshot on disk, and what reads weights back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::ModelSource;
use crate::weights::pack::{Observer, PackOptions};
use crate::weights::{ExpertFile, ExpertLayout, Listed, Matrix, MatrixPlace, WeightFormat};
use flashflood_backends::positioned::read_exact_at;
use flashflood_formats::WeightRows;
use flashflood_formats::quantise_row;
use half::bf16;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const QUIET: &Observer<'static> = &|_| {};

pub(crate) const HIDDEN: usize = 128;
pub(crate) const VOCAB: usize = 100;
pub(crate) const EXPERTS: usize = 6;
/// Not a multiple of 64: down projections fall back to groups of 32.
const WIDTH: usize = 96;

/// Uniform weights in -1..1 from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Qwen3-Next, because its projections of a delta-net come in several blocks of rows.
pub(crate) fn config() -> Value {
    json!({
        "model_type": "qwen3_next",
        "hidden_size": HIDDEN,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "partial_rotary_factor": 0.25,
        "rope_theta": 1e7,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "norm_topk_prob": true,
        "moe_intermediate_size": WIDTH,
        "shared_expert_intermediate_size": 64,
        "tie_word_embeddings": false,
    })
}

/// A safetensors file whose tensors lie in the order in which they are added.
struct File<'a> {
    random: &'a mut Random,
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl<'a> File<'a> {
    fn new(random: &'a mut Random) -> Self {
        File { random, header: Map::new(), data: Vec::new() }
    }

    fn add(&mut self, name: String, dtype: &str, shape: &[usize], bytes: impl Iterator<Item = u8>) {
        let start = self.data.len();
        self.data.extend(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()] });
        self.header.insert(name, entry);
    }

    fn bf16(&mut self, name: impl Into<String>, shape: &[usize]) {
        let count = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| bf16::from_f32(self.random.next()).to_le_bytes()).collect();
        self.add(name.into(), "BF16", shape, bytes.into_iter());
    }

    fn f32(&mut self, name: impl Into<String>, shape: &[usize]) {
        let count = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|_| self.random.next().to_le_bytes()).collect();
        self.add(name.into(), "F32", shape, bytes.into_iter());
    }

    /// Writes the file; `index` learns what is in it.
    fn write(self, folder: &Path, name: &str, index: &mut Map<String, Value>) {
        index.extend(self.header.keys().map(|tensor| (tensor.clone(), name.into())));
        let header = Value::Object(self.header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        fs::write(folder.join(name), [&length, header.as_bytes(), &self.data].concat()).unwrap();
    }
}

fn resident(file: &mut File<'_>, has_head: bool) {
    file.bf16("model.embed_tokens.weight", &[VOCAB, HIDDEN]);
    if has_head {
        file.bf16("lm_head.weight", &[VOCAB, HIDDEN]);
    }
    file.f32("model.norm.weight", &[HIDDEN]);
    for layer in 0..3 {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        file.f32(name("input_layernorm.weight"), &[HIDDEN]);
        file.f32(name("post_attention_layernorm.weight"), &[HIDDEN]);
        if layer == 1 {
            for (projection, shape) in
                [("q", [256, HIDDEN]), ("k", [64, HIDDEN]), ("v", [64, HIDDEN]), ("o", [HIDDEN, 128])]
            {
                file.bf16(name(&format!("self_attn.{projection}_proj.weight")), &shape);
            }
            file.f32(name("self_attn.q_norm.weight"), &[32]);
            file.f32(name("self_attn.k_norm.weight"), &[32]);
        } else {
            file.bf16(name("linear_attn.in_proj_qkvz.weight"), &[256, HIDDEN]);
            file.bf16(name("linear_attn.in_proj_ba.weight"), &[4, HIDDEN]);
            file.bf16(name("linear_attn.out_proj.weight"), &[HIDDEN, 64]);
            file.f32(name("linear_attn.conv1d.weight"), &[192, 1, 4]);
            file.f32(name("linear_attn.A_log"), &[2]);
            file.f32(name("linear_attn.dt_bias"), &[2]);
            file.f32(name("linear_attn.norm.weight"), &[32]);
        }
        file.bf16(name("mlp.gate.weight"), &[EXPERTS, HIDDEN]);
        file.bf16(name("mlp.shared_expert.gate_proj.weight"), &[64, HIDDEN]);
        file.bf16(name("mlp.shared_expert.up_proj.weight"), &[64, HIDDEN]);
        file.bf16(name("mlp.shared_expert.down_proj.weight"), &[HIDDEN, 64]);
        file.bf16(name("mlp.shared_expert_gate.weight"), &[1, HIDDEN]);
    }
}

/// The experts of a layer in one of the forms that snapshots have: fused, stacked, and one tensor each (backwards).
fn experts(file: &mut File<'_>, layer: usize) {
    let shapes = [("gate_proj", [WIDTH, HIDDEN]), ("up_proj", [WIDTH, HIDDEN]), ("down_proj", [HIDDEN, WIDTH])];
    let mlp = format!("model.layers.{layer}.mlp");
    match layer {
        0 => {
            file.bf16(format!("{mlp}.experts.gate_up_proj"), &[EXPERTS, 2 * WIDTH, HIDDEN]);
            file.bf16(format!("{mlp}.experts.down_proj"), &[EXPERTS, HIDDEN, WIDTH]);
        }
        1 => {
            for (projection, [rows, cols]) in shapes {
                file.bf16(format!("{mlp}.switch_mlp.{projection}.weight"), &[EXPERTS, rows, cols]);
            }
        }
        _ => {
            for expert in (0..EXPERTS).rev() {
                for (projection, shape) in shapes {
                    file.bf16(format!("{mlp}.experts.{expert}.{projection}.weight"), &shape);
                }
            }
        }
    }
}

/// Writes a small random model into `folder` and opens it.
pub(crate) fn source_of(folder: &Path, seed: u64, config: &Value) -> ModelSource {
    let (random, mut index) = (&mut Random(seed), Map::new());
    let mut file = File::new(random);
    resident(&mut file, config["tie_word_embeddings"] == false);
    file.write(folder, "resident.safetensors", &mut index);
    for layer in 0..3 {
        let mut file = File::new(random);
        experts(&mut file, layer);
        file.write(folder, &format!("experts-{layer}.safetensors"), &mut index);
    }
    let index = json!({ "metadata": {}, "weight_map": index });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    ModelSource::open(folder).unwrap()
}

/// A small random model whose weights lie in `folder`.
pub(crate) fn source(folder: &Path, seed: u64) -> ModelSource {
    source_of(folder, seed, &config())
}

/// Puts `matrix` in the place of the resident matrix `name`.
pub(crate) fn replace(source: &mut ModelSource, name: &str, matrix: Matrix) {
    let listed = source.weights.resident.iter_mut().find(|listed| listed.name() == name);
    let Some(Listed::Matrix { matrix: place, .. }) = listed else { panic!("no matrix {name}") };
    *place = matrix;
}

/// The file that an expert's first slice lies in.
pub(crate) fn file_of(experts: &ExpertLayout, layer: usize, expert: usize) -> &Path {
    let (file, ..) = experts.slices(layer, expert).next().unwrap();
    let ExpertFile::Path(path) = &experts.files[file as usize] else { panic!("on disk") };
    path
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

fn rows_of(rows: WeightRows<'_>) -> Vec<Vec<f32>> {
    let row = |row: usize| {
        let mut out = vec![f32::NAN; rows.cols];
        rows.unpack(row, &mut out);
        out
    };
    (0..rows.count()).map(row).collect()
}

pub(crate) fn expert_rows(place: &MatrixPlace, image: &[u8]) -> Vec<Vec<f32>> {
    let rows = rows_of(place.rows_in(image));
    assert_eq!(rows.len(), place.rows);
    rows
}

pub(crate) fn matrix_rows(matrix: &Matrix) -> Vec<Vec<f32>> {
    let row = |row: usize| {
        let mut out = vec![f32::NAN; matrix.cols];
        matrix.unpack_row(row, &mut out);
        out
    };
    (0..matrix.rows).map(row).collect()
}

/// Rows as the quantiser gives them back.
pub(crate) fn quantised(rows: &[Vec<f32>], bits: u8, group: u16) -> Vec<Vec<f32>> {
    let format = WeightFormat::affine(bits, group);
    let row = |row: &Vec<f32>| {
        let [mut codes, mut scales, mut biases] = format.stream_bytes(row.len()).map(|bytes| vec![0; bytes]);
        quantise_row(bits, group, row, &mut codes, &mut scales, &mut biases).unwrap();
        let rows = WeightRows { format, cols: row.len(), streams: [&codes, &scales, &biases] };
        rows_of(rows).remove(0)
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
    source(&model, 1).write_pack(None, &out, &options(4), QUIET).unwrap();
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

/// That two models have the same weights: every resident one by name, role, shape and bytes, and every expert.
pub(crate) fn assert_same(found: &ModelSource, expected: &ModelSource) {
    assert_eq!(found.shape, expected.shape);
    assert_eq!(found.weights.resident.len(), expected.weights.resident.len());
    for (found, expected) in found.weights.resident.iter().zip(&expected.weights.resident) {
        let name = expected.name();
        assert_eq!(found.name(), name);
        match (found, expected) {
            (Listed::Matrix { role, matrix, .. }, Listed::Matrix { role: as_role, matrix: as_matrix, .. }) => {
                assert_eq!((role, matrix.rows, matrix.cols), (as_role, as_matrix.rows, as_matrix.cols), "{name}");
                assert_same_bytes(matrix, as_matrix);
            }
            (
                Listed::Vector { role, shape, values, .. },
                Listed::Vector { role: as_role, shape: as_shape, values: as_values, .. },
            ) => assert_eq!((role, shape, values), (as_role, as_shape, as_values), "{name}"),
            _ => panic!("{name}: a matrix and a vector"),
        }
    }
    assert_same_experts(found.experts(), expected.experts());
}

pub(crate) fn assert_same_bytes(found: &Matrix, expected: &Matrix) {
    assert_eq!(found.format, expected.format, "{}", found.name);
    assert_eq!(found.blocks.len(), expected.blocks.len(), "{}", found.name);
    for (found_block, expected) in found.blocks.iter().zip(&expected.blocks) {
        assert!(found_block.streams == expected.streams, "{}", found.name);
    }
}

pub(crate) fn assert_same_experts(found: &ExpertLayout, expected: &ExpertLayout) {
    assert_eq!(found.layers.len(), expected.layers.len());
    for (n, (layer, as_layer)) in found.layers.iter().zip(&expected.layers).enumerate() {
        assert_eq!((layer.experts, layer.top_k), (as_layer.experts, as_layer.top_k), "layer {n}");
        assert_eq!((layer.slot, &layer.checksums), (as_layer.slot, &as_layer.checksums), "layer {n}");
        for expert in 0..layer.experts {
            assert!(image(found, n, expert) == image(expected, n, expert), "layer {n}, expert {expert}");
        }
    }
}
