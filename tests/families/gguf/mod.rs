//! GGUF files of the golden models, as llama.cpp's converter lays them out: the same logits as from the snapshot.

mod convert;
mod damaged;
mod gate_up;
mod program;
mod refused;
mod stores;
mod text;
#[allow(dead_code, reason = "the tests of headers write more")]
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use flashflood::engine::ExpertBudget;
use flashflood::experts::Reads;
use flashflood::model::ModelSource;
use flashflood::weights::pack::{self, PackOptions};
use flashflood::weights::safetensors::TensorSet;

use super::snapshot::Oracle;
use super::*;
use convert::{Form, Golden};
pub(super) use writer::Value as Number;
use writer::{GgufFile, Numbers};

fn oracle_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oracle").join(name)
}

/// A golden model, its tokens, and their logits.
fn golden(name: &str) -> (Golden, Vec<u32>, Vec<f32>) {
    if FAMILIES.iter().any(|family| name.starts_with(family)) {
        let oracle = Oracle::of(name);
        return (Golden::family(name), oracle.ids("tokens").unwrap(), oracle.logits());
    }
    let (tokens, logits) = of_oracle(name);
    (Golden::oracle(&oracle_folder(name)), tokens, logits)
}

fn of_oracle(name: &str) -> (Vec<u32>, Vec<f32>) {
    let oracle = TensorSet::open_file(&oracle_folder(name).join("oracle.safetensors")).unwrap();
    let tokens = oracle.get("tokens").unwrap().bytes.chunks_exact(4);
    let tokens = tokens.map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    (tokens, oracle.get("logits_prefill").unwrap().to_f32().unwrap())
}

/// `path` gives the logits that transformers has, at once and token by token.
fn check_file(path: &Path, what: &str, device: Device, tokens: &[u32], expected: &[f32]) {
    let mut engine = open(path, device);
    let mut parts = vec![&tokens[..50], &tokens[50..91]];
    parts.extend(tokens[91..].chunks(1));
    for parts in [vec![tokens], parts] {
        let found = run(&mut engine.session().unwrap(), &parts);
        let difference = largest_difference(&found.logits, expected);
        assert!(difference <= TOLERANCE, "{what} on {device:?}: logits differ by {difference}");
        println!("{what} on {device:?}: logits within {difference:.1e}");
    }
}

fn write(file: &GgufFile) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    (folder, path)
}

/// The file of a golden model whose rotary positions are stretched; `more` are keys of the scaling.
pub(super) fn with_yarn(
    name: &str,
    factor: f32,
    original: u32,
    more: &[(&str, Number)],
) -> (tempfile::TempDir, PathBuf) {
    let mut file = golden(name).0.gguf(Form::PLAIN);
    let (_, architecture) = file.keys.iter().find(|(key, _)| key == "general.architecture").unwrap();
    let writer::Value::Text(architecture) = architecture.clone() else { panic!("a text") };
    file.put(&format!("{architecture}.rope.scaling.type"), "yarn");
    file.put(&format!("{architecture}.rope.scaling.factor"), writer::Value::F32(factor));
    file.put(&format!("{architecture}.rope.scaling.original_context_length"), writer::Value::U32(original));
    for (key, value) in more {
        file.put(&format!("{architecture}.rope.scaling.{key}"), value.clone());
    }
    write(&file)
}

fn check(name: &str, form: Form, devices: &[Device]) {
    let (golden, tokens, expected) = golden(name);
    let (_folder, path) = write(&golden.gguf(form));
    for device in devices {
        check_file(&path, name, *device, &tokens, &expected);
    }
}

const BOTH: [Device; 2] = [Device::Cpu, Device::Gpu];
const CPU: [Device; 1] = [Device::Cpu];

macro_rules! models {
    ($($test:ident: $name:literal)*) => { $(
        #[test]
        fn $test() {
            check($name, Form::PLAIN, &BOTH);
            for numbers in [Numbers::F16, Numbers::Bf16] {
                check($name, Form { numbers, ..Form::PLAIN }, &CPU);
            }
            check($name, Form { fused: true, ..Form::PLAIN }, &CPU);
            check($name, Form { legacy: true, ..Form::PLAIN }, &CPU);
        }
    )* };
}
models! {
    qwen35moe: "tiny"
    qwen35moe_with_real_heads: "mini_heads"
    qwen3next: "mini_next"
    qwen3moe: "mini_q3moe"
    qwen35: "qwen3_5_text"
    qwen3: "qwen3"
    mixtral: "mixtral"
    qwen35_in_other_dimensions: "qwen3_5_text-alt"
    mixtral_in_other_dimensions: "mixtral-alt"
}

/// Each tensor in another type than the one before it, down of the experts in another than gate and up.
#[test]
fn types_that_differ_by_tensor() {
    for name in ["tiny", "mixtral"] {
        let (golden, tokens, expected) = golden(name);
        let files =
            [Numbers::F32, Numbers::F16, Numbers::Bf16].map(|numbers| golden.gguf(Form { numbers, ..Form::PLAIN }));
        let mut mixed = files[0].clone();
        for (i, tensor) in mixed.tensors.iter_mut().enumerate() {
            let is_gate_up = ["gate_exps", "up_exps"].iter().any(|part| tensor.name.contains(part));
            *tensor = files[if is_gate_up { 2 } else { i % 3 }].tensors[i].clone();
        }
        let (_folder, path) = write(&mixed);
        for device in BOTH {
            check_file(&path, name, device, &tokens, &expected);
        }
    }
}

/// Matrices and experts in blocks: as near to the model as 8 bits allow, the same on both devices and in a pack.
#[test]
fn blocks_of_8_bits() {
    for name in FAMILIES {
        let (golden, tokens, expected) = golden(name);
        let (folder, path) = write(&golden.gguf(Form { numbers: Numbers::Q8, ..Form::PLAIN }));
        let on_cpu = computed(&path, Device::Cpu, &tokens);
        let share = crate::packs::share_off(&on_cpu.logits, &expected);
        println!("{name} in blocks of 8 bits: logits off by {share:.4}");
        assert!((0.001..=0.06).contains(&share), "{name}: logits off by {share}");
        let on_gpu = computed(&path, Device::Gpu, &tokens);
        let difference = largest_difference(&on_gpu.logits, &on_cpu.logits);
        assert!(difference <= TOLERANCE, "{name}: CPU and GPU differ by {difference}");
        let pack = folder.path().join("pack");
        let source = ModelSource::open(&path).unwrap();
        source.write_pack(Some(&path), &pack, &PackOptions::default(), &|_| {}).unwrap();
        pack::verify(&pack, &|_| {}).unwrap();
        assert!(computed(&pack, Device::Cpu, &tokens) == on_cpu, "{name}: the pack has other bits");
    }
}

/// The same model over several files, opened by any of them.
#[test]
fn split_over_files() {
    let (golden, tokens, expected) = golden("qwen3");
    let folder = tempfile::tempdir().unwrap();
    for (n, part) in golden.gguf(Form::PLAIN).split(3).iter().enumerate() {
        fs::write(folder.path().join(format!("model-{:05}-of-00003.gguf", n + 1)), part.bytes()).unwrap();
    }
    for n in 1..=3 {
        let path = folder.path().join(format!("model-{n:05}-of-00003.gguf"));
        check_file(&path, "a part", Device::Cpu, &tokens, &expected);
    }
    check_file(folder.path(), "the folder of the parts", Device::Cpu, &tokens, &expected);
}

/// Experts through the page cache or past it, where they begin at multiples of 32 bytes: the same bits, though there is
/// room for few of them.
#[test]
fn experts_past_the_page_cache() {
    let (golden, tokens, _) = golden("tiny");
    let (_folder, path) = write(&golden.gguf(Form { numbers: Numbers::Bf16, ..Form::PLAIN }));
    let expert = 3 * 128 * 64 * 2;
    let mut all = Vec::new();
    for reads in [Reads::Cached, Reads::Direct, Reads::Threads] {
        let options = EngineOptions {
            device: Device::Cpu,
            activations: Activations::F32,
            context: Some(128),
            chunk: Some(40),
            experts: ExpertBudget::Bytes(24 * expert),
            reads,
            ..EngineOptions::default()
        };
        let mut engine = Engine::open(&path, &options).unwrap();
        let mut session = engine.session().unwrap();
        all.push(run(&mut session, &[&tokens]));
        assert!(session.expert_stats().evictions > 0);
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
}

/// Files that llama.cpp's own converter made of the golden models: `NAME.gguf` in the folder `FLASHFLOOD_CONVERTED`.
#[test]
#[ignore = "needs files of convert_hf_to_gguf.py"]
fn made_by_llama_cpp() {
    let folder = PathBuf::from(std::env::var_os("FLASHFLOOD_CONVERTED").unwrap());
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let name = stem.rsplit_once('.').map_or(stem.as_str(), |(name, _)| name);
        let (_, tokens, expected) = golden(name);
        for device in BOTH {
            check_file(&path, &stem, device, &tokens, &expected);
        }
    }
}
