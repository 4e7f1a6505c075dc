//! Gate and up of different formats, in routed experts, shared ones and dense layers: what the same weights give in f32.

use std::collections::HashMap;

use flashflood::weights::{LayerExperts, WeightFormat};
use flashflood_formats::WeightRows;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Map, json};

use super::*;
use crate::packs::share_off;
use crate::snapshot::Draft;

/// Types of ggml whose blocks have 32 columns, or 64: hidden sizes here are no more.
const F16: u32 = 1;
const Q4_0: u32 = 2;
const Q4_1: u32 = 3;
const Q5_0: u32 = 6;
const Q5_1: u32 = 7;
const Q8_0: u32 = 8;
const IQ4_NL: u32 = 20;
const BF16: u32 = 30;
const MXFP4: u32 = 39;
const NVFP4: u32 = 40;

/// What a model is made of: the streams of a matrix of random weights, and its numbers.
fn random(format: WeightFormat, rows: usize, cols: usize, seed: u64) -> ([Vec<u8>; 3], Vec<f32>) {
    let streams = format.random(rows, cols, 1.0, seed);
    let weights = WeightRows { format, cols, streams: [&streams[0], &streams[1], &streams[2]] };
    let mut values = vec![0.0; rows * cols];
    values.chunks_mut(cols).enumerate().for_each(|(row, out)| weights.unpack(row, out));
    (streams, values)
}

fn in_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Gives the tensors `names` of layer `layer` random weights of the types `kinds`; `plain` gets the same numbers in F32.
fn replace<const N: usize>(file: &mut GgufFile, plain: &mut GgufFile, layer: usize, names: [&str; N], kinds: [u32; N]) {
    for (name, kind) in names.into_iter().zip(kinds) {
        let name = format!("blk.{layer}.{name}.weight");
        let tensor = file.tensor(&name);
        let (rows, cols) = (tensor.dims[1..].iter().product::<u64>() as usize, tensor.dims[0] as usize);
        let format = WeightFormat::from_ggml(kind).unwrap();
        let (streams, values) = random(format, rows, cols, 1 + u64::from(kind) + 100 * layer as u64);
        (tensor.kind, tensor.bytes) = (kind, streams.concat());
        let tensor = plain.tensor(&name);
        (tensor.kind, tensor.bytes) = (0, in_f32(&values));
    }
}

fn with_int8(path: &Path, device: Device, tokens: &[u32]) -> Computed {
    let activations = Activations::Int8;
    let options =
        EngineOptions { device, activations, context: Some(128), kv: KvFormat::F32, ..EngineOptions::default() };
    run(&mut Engine::open(path, &options).unwrap().session().unwrap(), &[tokens])
}

/// `path` computes what `plain` does: on both devices, at once and token by token; as well as can be with activations in
/// 8 bits; and, to the bit, as a pack.
fn check_mixed(path: &Path, plain: &Path, what: &str, tokens: &[u32]) {
    let expected = computed(plain, Device::Cpu, tokens).logits;
    for device in BOTH {
        check_file(path, what, device, tokens, &expected);
        let found = with_int8(path, device, tokens);
        let share = share_off(&found.logits, &expected);
        println!("{what} on {device:?} with activations in 8 bits: logits off by {share:.4}");
        assert!((1e-5..0.1).contains(&share), "{what} on {device:?}: logits off by {share}");
    }
    let pack = tempfile::tempdir().unwrap();
    let options = PackOptions { bits: 0, resident_bits: 0, ..PackOptions::default() };
    let source = ModelSource::open(path).unwrap();
    source.write_pack(Some(path), pack.path(), &options, &|_| {}).unwrap();
    pack::verify(pack.path(), &|_| {}).unwrap();
    let formats = |source: &ModelSource| -> Vec<String> {
        source.experts().layers.iter().map(|layer| layer.slot.formats()).collect()
    };
    assert_eq!(formats(&ModelSource::open(pack.path()).unwrap()), formats(&source), "{what}: the pack");
    let difference = largest_difference(&computed(pack.path(), Device::Gpu, tokens).logits, &expected);
    assert!(difference <= TOLERANCE, "{what} as a pack on the GPU: logits differ by {difference}");
    assert!(
        computed(pack.path(), Device::Cpu, tokens) == computed(path, Device::Cpu, tokens),
        "{what}: the pack has other bits"
    );
}

const ROUTED: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

#[test]
fn of_routed_experts() {
    let (golden, tokens, _) = golden("mixtral");
    let (mut file, mut plain) = (golden.gguf(Form::PLAIN), golden.gguf(Form::PLAIN));
    let kinds = [[Q4_0, Q8_0, Q5_1], [IQ4_NL, NVFP4, Q8_0], [BF16, Q4_1, F16], [Q5_0, Q5_0, MXFP4]];
    for (layer, kinds) in kinds.into_iter().enumerate() {
        replace(&mut file, &mut plain, layer, ROUTED, kinds);
    }
    let ((_a, path), (_b, plain)) = (write(&file), write(&plain));
    let source = ModelSource::open(&path).unwrap();
    assert_eq!(source.experts().layers[0].slot.formats(), "gate Q4_0, up Q8_0; down Q5_1");
    check_mixed(&path, &plain, "mixtral", &tokens);
}

#[test]
fn of_shared_experts_and_of_dense_layers() {
    for (name, names) in
        [("tiny", ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"]), ("qwen3", ["ffn_gate", "ffn_up", "ffn_down"])]
    {
        let (golden, tokens, _) = golden(name);
        let (mut file, mut plain) = (golden.gguf(Form::PLAIN), golden.gguf(Form::PLAIN));
        for layer in 0..2 {
            replace(&mut file, &mut plain, layer, names, [[Q8_0, Q4_0, Q5_0], [F16, IQ4_NL, Q4_1]][layer]);
            if name == "tiny" {
                replace(&mut file, &mut plain, layer, ROUTED, [Q5_1, BF16, Q8_0]);
            }
        }
        let ((_a, path), (_b, plain)) = (write(&file), write(&plain));
        check_mixed(&path, &plain, name, &tokens);
    }
}

/// Bits of gate, up and down by layer; 16 are BF16. Groups of 32 columns in the first, of 64 in the others.
const BITS: [[u8; 3]; 4] = [[4, 8, 4], [3, 2, 6], [16, 4, 16], [5, 5, 8]];

/// A snapshot as mlx-lm quantises with a width for each module, and the same numbers as a GGUF file in F32.
fn mlx() -> (tempfile::TempDir, GgufFile) {
    let (golden, _, _) = golden("mixtral");
    let (mut plain, mut draft) = (golden.gguf(Form::PLAIN), Draft::of("mixtral"));
    let mut tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)> = HashMap::new();
    for (name, tensor) in draft.files.values().flatten().filter(|(name, _)| !name.contains(".experts.")) {
        tensors.insert(name.clone(), (Dtype::BF16, tensor.shape.clone(), tensor.bytes.clone()));
    }
    let mut modules = Map::from_iter([("bits".to_owned(), json!(4)), ("group_size".to_owned(), json!(64))]);
    for (layer, bits) in BITS.into_iter().enumerate() {
        for (i, bits) in bits.into_iter().enumerate() {
            let tensor = plain.tensor(&format!("blk.{layer}.{}.weight", ROUTED[i]));
            let [cols, rows, experts] = tensor.dims[..] else { panic!("{:?}", tensor.dims) };
            let [cols, rows, experts] = [cols, rows, experts].map(|dim| dim as usize);
            let group: u16 = if layer == 0 { 32 } else { 64 };
            let format = if bits == 16 { WeightFormat::Bf16 } else { WeightFormat::affine(bits, group) };
            let (streams, values) = random(format, experts * rows, cols, (layer * 3 + i) as u64);
            tensor.bytes = in_f32(&values);
            let module = format!("model.layers.{layer}.block_sparse_moe.switch_mlp.{}_proj", ["gate", "up", "down"][i]);
            let how = if bits == 16 { json!(false) } else { json!({ "bits": bits, "group_size": group }) };
            modules.insert(module.clone(), how);
            let parts = format.stream_names().iter().zip(format.stream_dtypes()).zip(streams);
            for ((part, dtype), bytes) in parts {
                let width = bytes.len() * 8 / dtype.bitsize() / (experts * rows);
                tensors.insert(format!("{module}.{part}"), (dtype, vec![experts, rows, width], bytes));
            }
        }
    }
    draft.config["quantization"] = modules.into();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), draft.config.to_string()).unwrap();
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    (folder, plain)
}

#[test]
fn of_a_snapshot_of_mlx() {
    let ((folder, plain), (_, tokens, _)) = (mlx(), golden("mixtral"));
    let (_kept, plain) = write(&plain);
    check_mixed(folder.path(), &plain, "MLX", &tokens);
}

/// A pack in 8 bits has gate and up as one matrix, whatever they were.
#[test]
fn of_a_snapshot_that_is_quantised_again() {
    let ((folder, plain), (_, tokens, _)) = (mlx(), golden("mixtral"));
    let (_kept, plain) = write(&plain);
    let pack = tempfile::tempdir().unwrap();
    let source = ModelSource::open(folder.path()).unwrap();
    let warnings = std::sync::Mutex::new(Vec::new());
    let keep = |progress: pack::Progress<'_>| {
        if let pack::Progress::Warning(text) = progress {
            warnings.lock().unwrap().push(text.to_owned());
        }
    };
    let options = PackOptions { bits: 8, ..PackOptions::default() };
    source.write_pack(Some(folder.path()), pack.path(), &options, &keep).unwrap();
    let again = ModelSource::open(pack.path()).unwrap();
    let gate_up = |layer: &LayerExperts| layer.slot.gate_up().map(|place| place.format);
    assert!(again.experts().layers.iter().all(|layer| gate_up(layer) == Some(WeightFormat::affine(8, 64))));
    let expected = computed(&plain, Device::Cpu, &tokens).logits;
    let share = share_off(&computed(pack.path(), Device::Cpu, &tokens).logits, &expected);
    println!("in 8 bits: logits off by {share:.4}");
    assert!((1e-5..0.05).contains(&share), "logits off by {share}");
    let warnings = warnings.into_inner().unwrap();
    assert!(warnings[0].contains("gate and up projections go from 4 to 8 bits"), "{warnings:?}");
}
