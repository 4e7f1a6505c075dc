//! Models that are not what they should be, and memory that does not do: exit code 1, a message that names the file,
//! what was expected and what was found, and no panic.

use flashflood::compute::LogitRows;
use flashflood::engine::{Activations, Device, Engine, EngineOptions};
use flashflood::model::ModelSource;
use flashflood::text::{Sampler, SamplerOptions};
use flashflood::weights::Place;
use serde_json::Value;

use super::*;

fn run_fails(model: &str, parts: &[&str]) {
    outcome(&["run", "--device", "cpu", "-m", model, "hello"]).failed(parts);
}

fn edit_json(copy: &Copy, name: &str, edit: impl FnOnce(&mut Value)) {
    copy.change(name, |bytes| {
        let mut value = serde_json::from_slice(bytes).unwrap();
        edit(&mut value);
        *bytes = value.to_string().into_bytes();
    });
}

#[test]
fn no_model() {
    run_fails("/does/not/exist", &["/does/not/exist", "expected a folder with a model", "nothing at this path"]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    run_fails(empty, &[empty, "expected", "the folder is empty"]);
    let file = folder.path().join("model.gguf");
    fs::write(&file, "GGUF").unwrap();
    run_fails(file.to_str().unwrap(), &["model.gguf", "expected 4 bytes of the version", "is the download complete?"]);
    let file = folder.path().join("model.safetensors");
    fs::write(&file, "x").unwrap();
    run_fails(file.to_str().unwrap(), &["expected a folder with a model", "found a file"]);
    let from_environment = flashflood(&["run", "hello"]).env("FLASHFLOOD_MODEL", "/does/not/exist").spawn().unwrap();
    ended(from_environment).failed(&["/does/not/exist"]);
}

#[test]
fn memory_that_does_not_do() {
    let failed = |more: &[&str], parts: &[&str]| {
        outcome(&[&["run", "--device", "cpu", "Tell me a story."], more].concat()).failed(parts);
    };
    failed(
        &["-c", "1000000000"],
        &["a context of 1000000000 positions", "at most 32768, which the model was trained", "lower --ctx"],
    );
    failed(&["-c", "40000"], &["a context of 40000 positions", "--rope-scaling yarn:2 ", "lower --ctx"]);
    failed(&["-c", "40000", "--rope-scaling", "none"], &["--rope-scaling yarn:2 "]);
    failed(&["-c", "4"], &["maximum context length is 4 tokens", "raise --ctx"]);
    failed(&["--expert-cache", "1kB"], &["expert cache of 1000 bytes is too small", "give at least --expert-cache"]);
    failed(&["--expert-cache", "0"], &["expert cache of 0 bytes is too small"]);
}

#[test]
fn a_trace_of_a_device_that_keeps_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let line = ["bench", "--device", "cpu", "-n", "2", "-r", "1", "--trace", file.to_str().unwrap()];
    outcome(&line).failed(&["--trace wants a device", "CPU", "--device gpu"]);
    assert!(!file.exists());
}

#[test]
fn options_out_of_range() {
    for (option, value, found) in [
        ("--temp", "-1", "temperature: expected"),
        ("--temp", "nan", "temperature: expected"),
        ("--temp", "inf", "temperature: expected"),
        ("--top-p", "2", "top_p: expected"),
        ("--min-p", "-0.5", "min_p: expected"),
        ("--repeat-penalty", "0", "repetition_penalty: expected"),
    ] {
        outcome(&["run", "--device", "cpu", "hello", &format!("{option}={value}")]).failed(&["sampling option", found]);
    }
}

#[test]
fn snapshots_that_are_no_model_of_ours() {
    let snapshot = Copy::of("tests/golden/oracle/mini_next");
    edit_json(&snapshot, "config.json", |config| config["model_type"] = "mamba".into());
    run_fails(snapshot.path(), &["config.json", "model_type", "mamba", "qwen3_next"]);
    snapshot.change("config.json", |bytes| bytes.truncate(100));
    run_fails(snapshot.path(), &["config.json"]);
    fs::remove_file(snapshot.file("config.json")).unwrap();
    run_fails(snapshot.path(), &[snapshot.path(), "no config.json"]);
    // a good model without a tokenizer
    let mini = in_repository("tests/golden/oracle/mini_next");
    run_fails(mini.to_str().unwrap(), &["tokenizer.json is missing"]);
}

#[test]
fn damaged_tokenizers() {
    let pack = Copy::of_pack();
    let whole = fs::read(pack.file("tokenizer.json")).unwrap();
    for keep in [0, 1, 1000, whole.len() / 2, whole.len() - 10] {
        fs::write(pack.file("tokenizer.json"), &whole[..keep]).unwrap();
        run_fails(pack.path(), &["tokenizer.json", "cannot use this tokenizer"]);
    }
    for text in ["{}", "[]", "null", r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}"#] {
        fs::write(pack.file("tokenizer.json"), text).unwrap();
        run_fails(pack.path(), &["tokenizer.json"]);
    }
    fs::remove_file(pack.file("tokenizer.json")).unwrap();
    run_fails(pack.path(), &["tokenizer.json is missing"]);
}

#[test]
fn damaged_text_files() {
    let pack = Copy::of_pack();
    fs::write(pack.file("chat_template.jinja"), "{% for message in messages %}").unwrap();
    run_fails(pack.path(), &["chat_template.jinja"]);
    fs::write(pack.file("chat_template.jinja"), "{{ raise_exception('no users here') }}").unwrap();
    run_fails(pack.path(), &["chat_template.jinja", "no users here"]);
    let pack = Copy::of_pack();
    fs::write(pack.file("generation_config.json"), r#"{"top_k": -3}"#).unwrap();
    run_fails(pack.path(), &["generation_config.json", "top_k", "expected"]);
}

/// A tokenizer may have tokens that the model has no embeddings for.
#[test]
fn tokens_that_the_model_does_not_know() {
    let pack = Copy::of_pack();
    edit_json(&pack, "tokenizer.json", |tokenizer| {
        let token = serde_json::json!({ "id": 5000, "content": "<|beyond|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let run = |prompt: &str| outcome(&["run", "--device", "cpu", "-m", pack.path(), "--raw", prompt, "-n", "3"]);
    run("a <|beyond|>").failed(&["the token \"<|beyond|>\" (5000) is none that the model knows: it has 2048"]);
    assert_eq!(run("Once upon a time").code, Some(0));
}

#[test]
fn damaged_packs() {
    let pack = Copy::of_pack();
    edit_json(&pack, "manifest.json", |manifest| manifest["version"] = 999.into());
    run_fails(pack.path(), &["manifest.json", "expected", "999"]);
    pack.change("manifest.json", |bytes| bytes.truncate(500));
    run_fails(pack.path(), &["manifest.json"]);
    let pack = Copy::of_pack();
    pack.change("experts/layer-003.bin", |bytes| bytes.truncate(1000));
    run_fails(pack.path(), &["layer-003.bin", "expected", "found 1000"]);
    fs::remove_file(pack.file("experts/layer-003.bin")).unwrap();
    run_fails(pack.path(), &["layer-003.bin"]);
    let pack = Copy::of_pack();
    pack.change("resident.safetensors", |bytes| bytes.truncate(100_000));
    run_fails(pack.path(), &["resident.safetensors"]);
}

/// An expert of `layer` that the greedy story needs, but not for its first words.
fn needed_late(layer: usize) -> u32 {
    let activations = Activations::F32;
    let options = EngineOptions { device: Device::Cpu, activations, context: Some(64), ..EngineOptions::default() };
    let mut engine = Engine::from_source(ModelSource::embedded().unwrap(), &options).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
    let mut session = engine.session().unwrap();
    let mut ids = tokenizer.encode("Once upon a time").unwrap();
    let mut early: Vec<u32> = Vec::new();
    for step in 0..50 {
        session.extend(&ids, LogitRows::Last, |_, _| true).unwrap();
        let used = &session.routing()[layer];
        match used.iter().find(|expert| !early.contains(expert)) {
            Some(expert) if step >= 12 => return *expert,
            _ => early.extend(used),
        }
        ids = vec![session.sample(&mut greedy, tokenizer.vocab_size()).unwrap()];
    }
    panic!("the story begins with every expert that it needs");
}

/// The text up to there is written, then comes the error.
#[test]
fn a_damaged_record_in_the_middle_of_a_text() {
    let layer = 3;
    let expert = needed_late(layer);
    let pack = Copy::of_pack();
    let source = ModelSource::open(Path::new(pack.path())).unwrap();
    let Place::Strided { base, stride, .. } = source.experts().layers[layer].parts[0].place else { panic!("a pack") };
    drop(source);
    pack.change("experts/layer-003.bin", |bytes| bytes[(base + u64::from(expert) * stride) as usize + 99] ^= 1);
    for device in ["cpu", "gpu"] {
        let device = ["--device", device, "--activations", "f32"];
        let arguments = ["run", "-m", pack.path(), "--raw", "Once upon a time", "--temp", "0"];
        let outcome = outcome(&[&arguments[..], &device].concat());
        let named = format!("layer {layer}, expert {expert}");
        outcome.failed(&["layer-003.bin", "damaged record", &named, "expected checksum", "found"]);
        assert!(outcome.stdout.starts_with("Once upon a time there was a little dog named"), "{outcome:#?}");
    }
}
