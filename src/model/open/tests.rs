#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::model::{FeedForward, Mixer, shape_of_config};
use crate::weights::{Part, Place, Vector};
use flashflood_formats::{Affine, ScaleType, WeightFormat};

/// A safetensors file in the making.
#[derive(Default)]
struct File {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn put(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let begin = self.data.len();
        self.data.extend(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, self.data.len()] });
        self.header.insert(name.to_owned(), entry);
    }

    /// An F32 tensor whose element `i` is `first + i`.
    fn floats(&mut self, name: &str, shape: &[usize], first: f32) {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
        self.put(name, "F32", shape, &bytes);
    }

    /// A matrix whose rows hold their own number.
    fn numbered(&mut self, name: &str, rows: usize, cols: usize) {
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| ((i / cols) as f32).to_le_bytes()).collect();
        self.put(name, "F32", &[rows, cols], &bytes);
    }

    /// A quantised triple with scales of 1; the codes are the bytes `fill`.
    fn triple(&mut self, module: &str, lead: &[usize], (rows, cols): (usize, usize), (bits, group): (usize, usize)) {
        let shape = |last: usize| [lead, &[rows, last]].concat();
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let (codes, scales) = (shape(cols * bits / 32), shape(cols / group));
        self.put(&format!("{module}.weight"), "U32", &codes, &vec![7; count(&codes) * 4]);
        let ones = [0x80, 0x3f].repeat(count(&scales));
        self.put(&format!("{module}.scales"), "BF16", &scales, &ones);
        self.put(&format!("{module}.biases"), "BF16", &scales, &vec![0; ones.len()]);
    }

    fn remove(&mut self, name: &str) {
        // the bytes stay, under a name that nobody asks for
        let entry = self.header.shift_remove(name).unwrap();
        self.header.insert(format!("removed {name}"), entry);
    }

    fn set(&self) -> TensorSet {
        let header = Value::Object(self.header.clone()).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&self.data);
        TensorSet::from_bytes("model.safetensors", Bytes::from(bytes)).unwrap()
    }
}

const HIDDEN: usize = 64;
const WIDTH: usize = 32;
const EXPERTS: usize = 3;

fn config(model_type: &str, layer_types: &[&str]) -> Value {
    json!({
        "model_type": model_type, "hidden_size": HIDDEN, "num_hidden_layers": layer_types.len(), "vocab_size": 10,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 100, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "rope_theta": 1e6, "partial_rotary_factor": 0.25, "layer_types": layer_types,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4, "num_experts": EXPERTS, "num_experts_per_tok": 2,
        "moe_intermediate_size": WIDTH, "shared_expert_intermediate_size": WIDTH
    })
}

fn open(set: TensorSet, config: &Value, quantization: Option<Quantization>) -> Result<ModelSource, SourceError> {
    let text = config.to_string();
    let names = families::read(Path::new("config.json"), &text)?.names();
    let snapshot = Snapshot::new(set, quantization, names)?;
    ModelSource::of_source(Path::new("snapshot"), text, &snapshot, TextFiles::default())
}

/// Everything of a dense text-only snapshot but the experts and the delta-nets' projections.
fn resident(config: &Value, trunk: &str) -> File {
    let shape = shape_of_config(Path::new("config.json"), &config.to_string()).unwrap();
    let mut file = File::default();
    file.floats("lm_head.weight", &[10, HIDDEN], 0.0);
    file.floats(&format!("{trunk}embed_tokens.weight"), &[10, HIDDEN], 1.0);
    file.floats(&format!("{trunk}norm.weight"), &[HIDDEN], 0.5);
    for (i, layer) in shape.layers.iter().enumerate() {
        let at = format!("{trunk}layers.{i}.");
        file.floats(&format!("{at}input_layernorm.weight"), &[HIDDEN], 2.0);
        file.floats(&format!("{at}post_attention_layernorm.weight"), &[HIDDEN], 3.0);
        file.floats(&format!("{at}mlp.gate.weight"), &[EXPERTS, HIDDEN], 0.0);
        if matches!(layer.feed_forward, FeedForward::Moe(moe) if moe.shared.is_some()) {
            file.floats(&format!("{at}mlp.shared_expert.gate_proj.weight"), &[WIDTH, HIDDEN], 0.0);
            file.floats(&format!("{at}mlp.shared_expert.up_proj.weight"), &[WIDTH, HIDDEN], 0.0);
            file.floats(&format!("{at}mlp.shared_expert.down_proj.weight"), &[HIDDEN, WIDTH], 0.0);
            file.floats(&format!("{at}mlp.shared_expert_gate.weight"), &[1, HIDDEN], 0.0);
        }
        if let Mixer::Attention(attention) = layer.mixer {
            let q = if attention.gate { 128 } else { 64 };
            file.floats(&format!("{at}self_attn.q_proj.weight"), &[q, HIDDEN], 0.0);
            file.floats(&format!("{at}self_attn.k_proj.weight"), &[32, HIDDEN], 0.0);
            file.floats(&format!("{at}self_attn.v_proj.weight"), &[32, HIDDEN], 0.0);
            file.floats(&format!("{at}self_attn.o_proj.weight"), &[HIDDEN, 64], 0.0);
            file.floats(&format!("{at}self_attn.q_norm.weight"), &[16], 4.0);
            file.floats(&format!("{at}self_attn.k_norm.weight"), &[16], 5.0);
        } else {
            file.floats(&format!("{at}linear_attn.conv1d.weight"), &[96, 1, 4], 0.0);
            file.floats(&format!("{at}linear_attn.A_log"), &[4], 0.0);
            file.floats(&format!("{at}linear_attn.dt_bias"), &[4], 0.0);
            file.floats(&format!("{at}linear_attn.norm.weight"), &[16], 6.0);
            file.floats(&format!("{at}linear_attn.out_proj.weight"), &[HIDDEN, 64], 0.0);
        }
    }
    file
}

fn each_expert(file: &mut File, at: &str, mut put: impl FnMut(&mut File, &str, usize, usize)) {
    for expert in 0..EXPERTS {
        for (name, rows, cols) in
            [("gate_proj", WIDTH, HIDDEN), ("up_proj", WIDTH, HIDDEN), ("down_proj", HIDDEN, WIDTH)]
        {
            put(file, &format!("{at}mlp.experts.{expert}.{name}"), rows, cols);
        }
    }
}

/// Qwen3-MoE with one layer.
fn qwen3_moe() -> (Value, File) {
    let config = config("qwen3_moe", &["full_attention"]);
    let mut file = resident(&config, "model.");
    each_expert(&mut file, "model.layers.0.", |file, module, rows, cols| {
        file.floats(&format!("{module}.weight"), &[rows, cols], 0.0);
    });
    (config, file)
}

/// Qwen3-Next with one linear layer, split projections left out.
fn qwen3_next() -> (Value, File) {
    let config = config("qwen3_next", &["linear_attention"]);
    let mut file = resident(&config, "model.");
    file.numbered("model.layers.0.linear_attn.in_proj_qkvz.weight", 160, HIDDEN);
    file.numbered("model.layers.0.linear_attn.in_proj_ba.weight", 8, HIDDEN);
    file.floats("model.layers.0.mlp.experts.gate_up_proj", &[EXPERTS, 2 * WIDTH, HIDDEN], 0.0);
    file.floats("model.layers.0.mlp.experts.down_proj", &[EXPERTS, HIDDEN, WIDTH], 0.0);
    (config, file)
}

fn refused(file: &File, config: &Value, parts: &[&str]) {
    let message = open(file.set(), config, None).err().unwrap().to_string();
    for part in ["model.safetensors"].iter().chain(parts) {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

/// The number that each row of a [`File::numbered`] matrix holds.
fn row_numbers(matrix: &Matrix) -> Vec<usize> {
    let row = matrix.cols * 4;
    let blocks = matrix.blocks.iter();
    let first = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
    blocks.flat_map(|block| block.streams[0].chunks_exact(row).map(first).collect::<Vec<_>>()).collect()
}

#[test]
fn lists_the_rows_of_qwen3_next_in_qwen3_5_order() {
    let (config, file) = qwen3_next();
    let bound = open(file.set(), &config, None).unwrap();
    let matrix = |name: &str| bound.weights.matrix(&format!("layers.0.delta_net.{name}")).unwrap();
    let (qkv, z, b, a) = (matrix("qkv"), matrix("z"), matrix("b"), matrix("a"));
    // per key head: q 8, k 8, two v heads 32, two z heads 32
    let (head, rows) = (|h: usize| h * 80, |from: usize, count: usize| from..from + count);
    let expected =
        [rows(0, 8), rows(head(1), 8), rows(8, 8), rows(head(1) + 8, 8), rows(16, 32), rows(head(1) + 16, 32)];
    assert_eq!(row_numbers(qkv), expected.into_iter().flatten().collect::<Vec<_>>());
    assert_eq!(row_numbers(z), (48..80).chain(128..160).collect::<Vec<_>>());
    assert_eq!(row_numbers(b), [0, 1, 4, 5]);
    assert_eq!(row_numbers(a), [2, 3, 6, 7]);
    assert_eq!((qkv.rows, z.rows, b.rows, a.rows), (96, 64, 4, 4));
}

#[test]
fn adds_the_one_of_norms_where_the_release_lacks_it() {
    let (config, mut file) = qwen3_next();
    let norms = |file: &File, config: &Value| {
        let bound = open(file.set(), config, None).unwrap();
        let vector = |name: &str| bound.weights.vector(&format!("layers.0.{name}")).map(|values: &Vector| values[0]);
        let inner = vector("delta_net.norm").or(vector("attention.q_norm")).unwrap();
        (vector("input_norm").unwrap(), vector("post_norm").unwrap(), inner)
    };
    assert_eq!(norms(&file, &config), (3.0, 4.0, 6.0));
    // MLX moves the axes of the convolution when it adds the 1
    file.header["model.layers.0.linear_attn.conv1d.weight"]["shape"] = json!([96, 4, 1]);
    assert_eq!(norms(&file, &config), (2.0, 3.0, 6.0));
    let (config, file) = qwen3_moe();
    assert_eq!(norms(&file, &config), (2.0, 3.0, 4.0));
}

#[test]
fn lays_experts_out_behind_one_another() {
    let (config, file) = qwen3_next();
    let set = file.set();
    let layer = open(file.set(), &config, None).unwrap().weights.experts.layers.remove(0);
    let bytes = WIDTH * HIDDEN * 4;
    let offset = |name: &str| set.get(name).unwrap().offset;
    let strided = |part: &Part| match part.place {
        Place::Strided { file, base, stride } => (file, base, stride),
        Place::Listed(_) => panic!("one tensor for all experts"),
    };
    assert_eq!(layer.parts.len(), 2);
    let gate_up = offset("model.layers.0.mlp.experts.gate_up_proj");
    assert_eq!(strided(&layer.parts[0]), (0, gate_up, 2 * bytes as u64));
    assert_eq!((layer.parts[0].at, layer.parts[0].len), (layer.slot.gate.streams[0], 2 * bytes));
    assert_eq!((layer.parts[1].at, layer.parts[1].len), (layer.slot.down.streams[0], bytes));

    let (config, file) = qwen3_moe();
    let (set, experts) = (file.set(), open(file.set(), &config, None).unwrap().weights.experts);
    let slices: Vec<_> = experts.slices(0, 2).collect();
    let up = set.get("model.layers.0.mlp.experts.2.up_proj.weight").unwrap().offset;
    assert_eq!(slices.len(), 3);
    assert_eq!(slices[1], (0, up, bytes, bytes));
    assert_eq!(experts.layers[0].slot.gate.format, WeightFormat::F32);
}

#[test]
fn lays_the_streams_of_quantised_experts_out() {
    let config = config("qwen3_moe", &["full_attention"]);
    for (bits, group) in [(2, 32), (3, 64), (4, 64), (5, 32), (6, 64), (8, 32)] {
        let mut stacked = resident(&config, "model.");
        let at = "model.layers.0.mlp.switch_mlp.";
        stacked.triple(&format!("{at}gate_proj"), &[EXPERTS], (WIDTH, HIDDEN), (bits, group));
        stacked.triple(&format!("{at}up_proj"), &[EXPERTS], (WIDTH, HIDDEN), (bits, group));
        stacked.triple(&format!("{at}down_proj"), &[EXPERTS], (HIDDEN, WIDTH), (bits, 32));
        let mut listed = resident(&config, "model.");
        each_expert(&mut listed, "model.layers.0.", |file, module, rows, cols| {
            file.triple(module, &[], (rows, cols), (bits, group.min(cols)));
        });
        for file in [&stacked, &listed] {
            let experts = open(file.set(), &config, None).unwrap().weights.experts;
            let slot = experts.layers[0].slot;
            let format = |group: u16| WeightFormat::affine(bits as u8, group);
            assert_eq!((slot.gate.format, slot.down.format), (format(group as u16), format(32)));
            for expert in 0..EXPERTS {
                let slices: Vec<_> = experts.slices(0, expert).map(|(_, _, len, at)| (at, len)).collect();
                let (codes, scales) = (WIDTH * HIDDEN * bits / 8, WIDTH * HIDDEN / group * 2);
                let down_scales = WIDTH * HIDDEN / 32 * 2;
                let (gu, down) = (slot.gate, slot.down);
                assert_eq!(
                    slices,
                    [
                        (gu.streams[0], codes),
                        (gu.streams[1], scales),
                        (gu.streams[2], scales),
                        (gu.streams[0] + codes, codes),
                        (gu.streams[1] + scales, scales),
                        (gu.streams[2] + scales, scales),
                        (down.streams[0], codes),
                        (down.streams[1], down_scales),
                        (down.streams[2], down_scales)
                    ]
                );
            }
        }
        let (a, b) = (open(stacked.set(), &config, None).unwrap(), stacked.set());
        let second: Vec<_> = a.weights.experts.slices(0, 1).collect();
        let up = b.get(&format!("{at}up_proj.scales")).unwrap();
        assert_eq!(second[4].1, up.offset + (WIDTH * HIDDEN / group * 2) as u64);
    }
}

#[test]
fn refuses_experts_that_are_incomplete_or_unlike() {
    let (config, mut file) = qwen3_moe();
    let name = "model.layers.0.mlp.experts.1.up_proj.weight";
    file.remove(name);
    refused(&file, &config, &["expert 1 of layer 0", name, "0 to 2"]);

    let (config, mut file) = qwen3_moe();
    file.header[name]["dtype"] = json!("I32");
    refused(&file, &config, &[name, "BF16, F16 or F32 [32, 64]", "found I32 [32, 64]"]);

    let (config, mut file) = qwen3_moe();
    file.remove(name);
    file.put(name, "BF16", &[WIDTH, HIDDEN], &[0; WIDTH * HIDDEN * 2]);
    refused(&file, &config, &[name, "the format of `model.layers.0.mlp.experts.0.up_proj.weight`: f32", "found BF16"]);

    let (config, mut file) = qwen3_moe();
    for expert in 0..EXPERTS {
        let name = format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
        file.remove(&name);
        file.put(&name, "BF16", &[WIDTH, HIDDEN], &[0; WIDTH * HIDDEN * 2]);
    }
    // gate and up of different formats have sections of their own
    let layer = open(file.set(), &config, None).unwrap().weights.experts.layers.remove(0);
    let slot = layer.slot;
    assert_eq!((slot.formats().as_str(), slot.gate_up()), ("gate f32, up bf16; down f32", None));
    let parts: Vec<_> = layer.parts.iter().map(|part| (part.at, part.len)).collect();
    let (gate, up) = (WIDTH * HIDDEN * 4, WIDTH * HIDDEN * 2);
    assert_eq!(parts, [(0, gate), (gate, up), (gate + up, gate)]);

    let (config, mut file) = qwen3_next();
    file.header["model.layers.0.mlp.experts.down_proj"]["shape"] = json!([EXPERTS, WIDTH, HIDDEN]);
    refused(&file, &config, &["experts.down_proj`", "F32 [3, 64, 32]", "found F32 [3, 32, 64]"]);

    file.remove("model.layers.0.mlp.experts.down_proj");
    refused(&file, &config, &["experts.down_proj` is missing", "[3, 64, 32]"]);
    file.remove("model.layers.0.mlp.experts.gate_up_proj");
    refused(&file, &config, &["experts.gate_up_proj` is missing", "layer 0", "switch_mlp.gate_proj.weight"]);
}

/// Qwen3-MoE whose router is quantised.
fn quantised_router(bits: usize, group: usize) -> (Value, File) {
    let (config, mut file) = qwen3_moe();
    file.remove("model.layers.0.mlp.gate.weight");
    file.triple("model.layers.0.mlp.gate", &[], (EXPERTS, HIDDEN), (bits, group));
    (config, file)
}

fn router(source: &ModelSource) -> WeightFormat {
    source.weights.matrix("layers.0.router").unwrap().format
}

#[test]
fn takes_bits_from_the_config_or_from_shapes() {
    let (config, file) = quantised_router(6, 32);
    let read = |text: Value| Quantization::from_json(Path::new("config.json"), &text.to_string()).unwrap();
    let format =
        |quantization: Option<Quantization>| open(file.set(), &config, quantization).map(|bound| router(&bound));
    assert_eq!(format(None).unwrap(), WeightFormat::affine(6, 32));
    let over = json!({ "quantization": { "bits": 4, "group_size": 64,
        "language_model.model.layers.0.mlp.gate": { "bits": 6, "group_size": 32 } } });
    assert_eq!(format(read(over)).unwrap(), WeightFormat::affine(6, 32));
    let wrong = read(json!({ "quantization": { "bits": 4, "group_size": 32 } }));
    let message = format(wrong).unwrap_err().to_string();
    for part in ["mlp.gate.weight", "U32 [3, 8] (4-bit affine, group 32, as config.json says)", "found U32 [3, 12]"] {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
    let wrong = read(json!({ "quantization": { "bits": 6, "group_size": 128 } }));
    let message = format(wrong).unwrap_err().to_string();
    assert!(message.contains("groups that divide 64 columns"), "{message}");
}

#[test]
fn refuses_damaged_triples() {
    let module = "model.layers.0.mlp.gate";
    let (config, mut file) = quantised_router(4, 32);
    file.remove(&format!("{module}.biases"));
    refused(&file, &config, &["mlp.gate.biases` is missing", "the biases of"]);
    file.remove(&format!("{module}.scales"));
    refused(&file, &config, &["mlp.gate.scales` is missing", "the scales of"]);

    for (stream, at) in [("scales", 5), ("biases", 3)] {
        for bad in [half::bf16::NAN, half::bf16::INFINITY] {
            let (config, mut file) = quantised_router(4, 32);
            let begin = file.header[&format!("{module}.{stream}")]["data_offsets"][0].as_u64().unwrap() as usize;
            file.data[begin + 2 * at..begin + 2 * at + 2].copy_from_slice(&bad.to_le_bytes());
            let (tensor, row) = (format!("{module}.{stream}"), format!("row {}", at / 2));
            refused(&file, &config, &[&tensor, &row, "finite", &format!("found {bad}")]);
        }
    }

    let (config, mut file) = quantised_router(4, 32);
    file.header[&format!("{module}.scales")]["dtype"] = json!("U16");
    refused(&file, &config, &["mlp.gate.scales", "BF16, F16 or F32", "found U16 [3, 2]"]);
    let (config, mut file) = quantised_router(4, 32);
    file.header[&format!("{module}.weight")]["shape"] = json!([8, 3]);
    refused(&file, &config, &["mlp.gate.weight", "codes of 64 columns", "found U32 [8, 3]"]);
}

#[test]
fn scales_may_have_any_float_type() {
    let (config, mut file) = quantised_router(8, 64);
    for stream in ["scales", "biases"] {
        file.remove(&format!("model.layers.0.mlp.gate.{stream}"));
        file.floats(&format!("model.layers.0.mlp.gate.{stream}"), &[EXPERTS, 1], 1.0);
    }
    let format = router(&open(file.set(), &config, None).unwrap());
    assert_eq!(format, WeightFormat::Affine(Affine { bits: 8, group: 64, scales: ScaleType::F32 }));
}

#[test]
fn takes_the_embedding_for_a_tied_head() {
    let (mut config, mut file) = qwen3_moe();
    config["tie_word_embeddings"] = json!(true);
    let own = open(file.set(), &config, None).unwrap();
    assert!(!own.shape.tied_embeddings);
    assert_eq!(own.weights.matrix("lm_head").unwrap().name, "lm_head.weight");
    file.remove("lm_head.weight");
    let tied = open(file.set(), &config, None).unwrap();
    assert!(tied.shape.tied_embeddings && tied.weights.matrix("lm_head").is_none());
    config["tie_word_embeddings"] = json!(false);
    refused(&file, &config, &["`lm_head.weight` is missing", "[10, 64]"]);
}

#[test]
fn refuses_what_is_not_the_model_of_the_config() {
    let (config, mut file) = qwen3_moe();
    file.header["model.norm.weight"]["shape"] = json!([1, HIDDEN]);
    refused(&file, &config, &["`model.norm.weight`", "BF16, F16 or F32 [64]", "found F32 [1, 64]"]);

    let (config, mut file) = qwen3_moe();
    let begin = file.header["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    file.data[begin + 8..begin + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&file, &config, &["`model.norm.weight`", "element 2", "found NaN"]);

    let (config, mut file) = qwen3_next();
    file.header["model.layers.0.linear_attn.conv1d.weight"]["shape"] = json!([4, 96]);
    refused(&file, &config, &["conv1d.weight", "[96, 1, 4] or [96, 4, 1]", "found F32 [4, 96]"]);

    // a gate in q_proj is not Qwen3-MoE's
    let (config, mut file) = qwen3_moe();
    file.remove("model.layers.0.self_attn.q_proj.weight");
    file.floats("model.layers.0.self_attn.q_proj.weight", &[128, HIDDEN], 0.0);
    let message = open(file.set(), &config, None).err().map(|error| error.to_string());
    assert!(message.is_some_and(|m| m.contains("q_proj") && m.contains("[64, 64]") && m.contains("[128, 64]")));

    let mut other = File::default();
    other.floats("transformer.wte.weight", &[10, HIDDEN], 0.0);
    refused(&other, &config, &["`model.language_model.embed_tokens.weight`", "among 1 tensors"]);
}
