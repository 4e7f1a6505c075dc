//! Damaged snapshots: each kind of damage is done to a copy of a good one, and the message must name the file, the
//! tensor, what was expected and what was found.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use flashflood::model::ModelSource;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const LAYER: &str = "model.language_model.layers.1.";

/// A copy of a golden snapshot, to be damaged.
struct Snapshot(TempDir);

impl Snapshot {
    fn copy(name: &str) -> Snapshot {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oracle").join(name);
        let dir = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&from).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if name.starts_with("model") || name.ends_with("config.json") {
                // read and written, so that the copy can be changed where the original is read-only
                fs::write(dir.path().join(name), fs::read(&file).unwrap()).unwrap();
            }
        }
        Snapshot(dir)
    }

    fn tiny() -> Snapshot {
        Snapshot::copy("tiny")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = self.json(name);
        edit(&mut value);
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        self.edit_json("config.json", |config| edit(&mut config["text_config"]));
    }

    /// The shard that holds `tensor`.
    fn shard(&self, tensor: &str) -> String {
        self.json("model.safetensors.index.json")["weight_map"][tensor].as_str().unwrap().to_owned()
    }

    /// Rewrites header and data of the shard that holds `tensor`.
    fn edit_shard(&self, tensor: &str, edit: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>)) -> String {
        let shard = self.shard(tensor);
        let bytes = fs::read(self.path(&shard)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        edit(&mut header, &mut data);
        let header = Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(self.path(&shard), bytes).unwrap();
        shard
    }

    /// Opens the snapshot, which must fail with every part in the message.
    fn refused(&self, parts: &[&str]) {
        let message = ModelSource::open(self.0.path()).expect_err("damaged").to_string();
        for part in [self.0.path().to_str().unwrap()].iter().chain(parts) {
            assert!(message.contains(part), "{message:?} does not contain {part:?}");
        }
    }
}

fn name(tail: &str) -> String {
    format!("{LAYER}{tail}")
}

#[test]
fn the_copy_itself_opens() {
    for name in ["tiny", "tiny_mlx4"] {
        let source = ModelSource::open(Snapshot::copy(name).0.path()).unwrap();
        assert_eq!(source.shape.layers.len(), 4);
    }
}

#[test]
fn no_snapshot_at_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| ModelSource::open(path).expect_err("no model").to_string();
    let missing = dir.path().join("absent");
    let text = message(&missing);
    assert!(text.contains(missing.to_str().unwrap()) && text.contains("nothing at this path"), "{text}");
    assert!(text.contains("hint:"), "{text}");

    let text = message(dir.path());
    assert!(text.contains("no config.json") && text.contains("the folder is empty"), "{text}");

    let file = dir.path().join("model.gguf");
    fs::write(&file, "GGUF").unwrap();
    let text = message(&file);
    assert!(
        text.contains("model.gguf") && text.contains("the version") && text.contains("download complete"),
        "{text}"
    );
    // it is the folder's model
    assert_eq!(message(dir.path()), text);
    fs::rename(&file, dir.path().join("model.bin")).unwrap();

    fs::create_dir_all(dir.path().join("snapshots/0123abc")).unwrap();
    let text = message(dir.path());
    assert!(text.contains("Hugging Face cache: give") && text.contains("0123abc"), "{text}");
}

#[test]
fn config_is_damaged() {
    let snapshot = Snapshot::tiny();
    fs::remove_file(snapshot.path("config.json")).unwrap();
    snapshot.refused(&["no config.json", "hint:"]);

    let snapshot = Snapshot::tiny();
    fs::write(snapshot.path("config.json"), "{\"model_type\":").unwrap();
    snapshot.refused(&["config.json", "not valid JSON", "line 1"]);

    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| config["model_type"] = json!("deepseek_v3"));
    snapshot.refused(&["config.json", "text_config.model_type", "qwen3_5_moe", "found deepseek_v3"]);

    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| config["num_attention_heads"] = json!(0));
    snapshot.refused(&["config.json", "num_attention_heads", "1 to 4096", "found 0"]);

    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| drop(config.as_object_mut().unwrap().remove("head_dim")));
    snapshot.refused(&["config.json", "text_config.head_dim", "is missing"]);

    // 10^12 layers are refused before a list of them is made
    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| config["num_hidden_layers"] = json!(1_000_000_000_000_u64));
    snapshot.refused(&["config.json", "num_hidden_layers", "1 to 4096", "found 1000000000000"]);
}

#[test]
fn config_and_tensors_disagree() {
    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| config["vocab_size"] = json!(513));
    snapshot.refused(&["embed_tokens.weight", "expected BF16 [513, 128]", "found BF16 [512, 128]"]);

    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| config["num_experts"] = json!(17));
    snapshot.refused(&["mlp.gate.weight", "expected BF16 [17, 128]", "found BF16 [16, 128]"]);

    let snapshot = Snapshot::tiny();
    snapshot.edit_config(|config| {
        config["num_hidden_layers"] = json!(5);
        config["layer_types"] =
            json!(["linear_attention", "linear_attention", "linear_attention", "full_attention", "full_attention"]);
    });
    snapshot.refused(&["`model.language_model.layers.4.", "is missing"]);
}

#[test]
fn a_shard_is_missing_or_truncated() {
    let tensor = name("mlp.experts.down_proj");
    let snapshot = Snapshot::tiny();
    let shard = snapshot.shard(&tensor);
    fs::remove_file(snapshot.path(&shard)).unwrap();
    snapshot.refused(&[&shard, "missing", "model.safetensors.index.json", "1 of 7 files", "download"]);

    // a shard that ends inside its data: both sizes are in the message
    let snapshot = Snapshot::tiny();
    let whole = fs::read(snapshot.path(&shard)).unwrap();
    fs::write(snapshot.path(&shard), &whole[..whole.len() - 1]).unwrap();
    let sizes = [whole.len(), whole.len() - 1];
    let expected = format!("at least {} bytes, found {} bytes", sizes[0], sizes[1]);
    snapshot.refused(&[&shard, "tensor `", &expected, "download"]);

    // ... inside its header, and inside the length of it
    fs::write(snapshot.path(&shard), &whole[..100]).unwrap();
    snapshot.refused(&[&shard, "header", "at most 92 bytes in a file of 100 bytes"]);
    fs::write(snapshot.path(&shard), &whole[..5]).unwrap();
    snapshot.refused(&[&shard, "header", "a file of 5 bytes"]);
    fs::write(snapshot.path(&shard), []).unwrap();
    snapshot.refused(&[&shard, "a file of 0 bytes"]);

    // without an index the parts are the model, all of them
    let snapshot = Snapshot::tiny();
    fs::remove_file(snapshot.path("model.safetensors.index.json")).unwrap();
    ModelSource::open(snapshot.0.path()).unwrap();
    fs::remove_file(snapshot.path(&shard)).unwrap();
    snapshot.refused(&[&shard, "missing", "6 of 7 are there", "download"]);

    let snapshot = Snapshot::tiny();
    fs::remove_file(snapshot.path("model.safetensors.index.json")).unwrap();
    for number in 1..=7 {
        let part = snapshot.path(&format!("model-0000{number}-of-00007.safetensors"));
        fs::rename(&part, part.with_extension(format!("{number}.safetensors"))).unwrap();
    }
    snapshot.refused(&["model.safetensors.index.json or model.safetensors", "of-00007.1.safetensors", "5 others"]);
}

#[test]
fn a_header_is_damaged() {
    let tensor = name("linear_attn.in_proj_z.weight");
    let snapshot = Snapshot::tiny();
    let shard = snapshot.shard(&tensor);
    let mut bytes = fs::read(snapshot.path(&shard)).unwrap();
    let found = 1_u64 << 40;
    bytes[..8].copy_from_slice(&found.to_le_bytes());
    fs::write(snapshot.path(&shard), &bytes).unwrap();
    snapshot.refused(&[
        &shard,
        "header",
        &format!("in a file of {} bytes", bytes.len()),
        &format!("found {found} bytes"),
    ]);

    bytes[..8].copy_from_slice(&8_u64.to_le_bytes());
    fs::write(snapshot.path(&shard), &bytes).unwrap();
    snapshot.refused(&[&shard, "header", "column"]);

    let edited = |edit: &dyn Fn(&mut Value), parts: &[&str]| {
        let snapshot = Snapshot::tiny();
        let shard = snapshot.edit_shard(&tensor, |header, _| edit(&mut header[&tensor]));
        snapshot.refused(&[&[&shard[..], &tensor[..]], parts].concat());
    };
    edited(&|entry| entry["dtype"] = json!("Q4_0"), &["Q4_0"]);
    edited(&|entry| entry["shape"] = json!([256, 129]), &["66048 bytes for BF16 [256, 129]", "found 65536 bytes"]);
    edited(&|entry| entry["shape"] = json!([u64::MAX, 2]), &["a size in 64 bits"]);
    let out_of_range = |entry: &mut Value| {
        entry["data_offsets"] = json!([1_u64 << 50, (1_u64 << 50) + 65536]);
    };
    edited(&out_of_range, &["expected a file of at least 11258999", "found "]);
    edited(&|entry| entry["data_offsets"].as_array_mut().unwrap().reverse(), &["data_offsets in ascending order"]);
}

#[test]
fn ranges_overlap() {
    let snapshot = Snapshot::tiny();
    let tensors = [name("linear_attn.in_proj_a.weight"), name("linear_attn.in_proj_b.weight")];
    let shard = snapshot.edit_shard(&tensors[0], |header, _| {
        let place = header[&tensors[0]]["data_offsets"].clone();
        header[&tensors[1]]["data_offsets"] = place;
    });
    snapshot.refused(&[&shard, &tensors[0], &tensors[1], "overlaps", "expected data_offsets from", "found "]);
}

#[test]
fn the_index_is_damaged() {
    let index = "model.safetensors.index.json";
    let snapshot = Snapshot::tiny();
    fs::write(snapshot.path(index), "{}").unwrap();
    snapshot.refused(&[index, "weight_map"]);

    for outside in ["../model.safetensors", "/etc/passwd", "a/../../b", "..\\b", ""] {
        let snapshot = Snapshot::tiny();
        snapshot.edit_json(index, |index| index["weight_map"]["lm_head.weight"] = json!(outside));
        snapshot.refused(&[index, "`lm_head.weight`", "a file in this folder", &format!("{outside:?}")]);
    }

    let snapshot = Snapshot::tiny();
    let (tensor, wrong) = (name("A"), snapshot.shard("lm_head.weight"));
    snapshot.edit_json(index, |index| index["weight_map"][&tensor] = json!(wrong));
    snapshot.refused(&[&wrong, &tensor, index, "no such name"]);

    // some releases write the total as a float
    let snapshot = Snapshot::tiny();
    snapshot.edit_json(index, |index| index["metadata"]["total_size"] = json!(71_903_645_408.0));
    ModelSource::open(snapshot.0.path()).unwrap();
}

#[test]
fn a_tensor_has_another_type_or_shape() {
    for (tail, dtype, shape, expected) in [
        ("linear_attn.in_proj_z.weight", "I16", json!([256, 128]), "BF16, F16 or F32 [256, 128]"),
        ("linear_attn.in_proj_z.weight", "BF16", json!([128, 256]), "BF16 [256, 128]"),
        ("linear_attn.in_proj_z.weight", "F8_E5M2", json!([512, 128]), "BF16, F16 or F32 [256, 128]"),
        ("linear_attn.A_log", "I32", json!([8]), "BF16, F16 or F32 [8]"),
        ("linear_attn.conv1d.weight", "BF16", json!([1, 384, 4]), "[384, 1, 4] or [384, 4, 1]"),
        ("input_layernorm.weight", "BF16", json!([2, 64]), "BF16, F16 or F32 [128]"),
        ("mlp.experts.gate_up_proj", "BF16", json!([8, 256, 128]), "BF16 [16, 128, 128]"),
        ("mlp.experts.down_proj", "U16", json!([16, 128, 64]), "BF16, F16 or F32 [16, 128, 64]"),
    ] {
        let (snapshot, tensor) = (Snapshot::tiny(), name(tail));
        let shard = snapshot.edit_shard(&tensor, |header, _| {
            header[&tensor]["dtype"] = json!(dtype);
            header[&tensor]["shape"] = shape.clone();
        });
        let found = format!("found {dtype} {}", shape.to_string().replace(',', ", "));
        snapshot.refused(&[&shard, &tensor, expected, &found]);
    }
}

#[test]
fn a_tensor_is_missing() {
    for tail in
        ["linear_attn.out_proj.weight", "mlp.gate.weight", "mlp.experts.down_proj", "mlp.shared_expert_gate.weight"]
    {
        let (snapshot, tensor) = (Snapshot::tiny(), name(tail));
        snapshot.edit_json("model.safetensors.index.json", |index| {
            index["weight_map"].as_object_mut().unwrap().remove(&tensor).unwrap();
        });
        snapshot.refused(&[&format!("`{tensor}` is missing"), "expected BF16, F16 or F32"]);
    }
}

/// Splits the fused experts of layer 1 into one tensor per expert, without expert `left_out`.
fn split_experts(snapshot: &Snapshot, left_out: Option<usize>) {
    for (fused, halves) in [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"][..])] {
        let tensor = name(&format!("mlp.experts.{fused}"));
        let mut names = Vec::new();
        let shard = snapshot.edit_shard(&tensor, |header, _| {
            let entry = header.remove(&tensor).unwrap();
            let [begin, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap());
            let each = (end - begin) / 16 / halves.len() as u64;
            let rows = entry["shape"][1].as_u64().unwrap() / halves.len() as u64;
            for i in 0..16 * halves.len() {
                let (expert, half) = (i / halves.len(), halves[i % halves.len()]);
                let from = begin + i as u64 * each;
                let one =
                    json!({ "dtype": "BF16", "shape": [rows, entry["shape"][2]], "data_offsets": [from, from + each] });
                names.push((expert, name(&format!("mlp.experts.{expert}.{half}.weight"))));
                header.insert(names[i].1.clone(), one);
            }
        });
        snapshot.edit_json("model.safetensors.index.json", |index| {
            index["weight_map"].as_object_mut().unwrap().remove(&tensor);
            for (expert, name) in names {
                if Some(expert) != left_out {
                    index["weight_map"][name] = json!(shard);
                }
            }
        });
    }
}

#[test]
fn an_expert_is_missing() {
    let whole = Snapshot::tiny();
    split_experts(&whole, None);
    let source = ModelSource::open(whole.0.path()).unwrap();
    let experts = source.experts();
    assert_eq!(experts.slices(1, 15).count(), 3);
    assert_eq!(experts.slices(0, 15).count(), 2);

    for expert in [0, 9] {
        let snapshot = Snapshot::tiny();
        split_experts(&snapshot, Some(expert));
        let tensor = name(&format!("mlp.experts.{expert}.gate_proj.weight"));
        snapshot.refused(&[&format!("expert {expert} of layer 1"), &tensor, "missing", "experts 0 to 15"]);
    }
}

#[test]
fn numbers_are_not_finite() {
    let tensor = name("post_attention_layernorm.weight");
    let snapshot = Snapshot::tiny();
    let shard = snapshot.edit_shard(&tensor, |header, data| {
        let begin = header[&tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        data[begin + 14..begin + 16].copy_from_slice(&[0xc0, 0x7f]);
    });
    snapshot.refused(&[&shard, &tensor, "element 7", "a finite number", "found NaN"]);

    let tensor = "language_model.model.layers.3.self_attn.o_proj.scales";
    let snapshot = Snapshot::copy("tiny_mlx4");
    let shard = snapshot.edit_shard(tensor, |header, data| {
        let begin = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        // [128, 4]: row 5, group 2
        let at = begin + 2 * (5 * 4 + 2);
        data[at..at + 2].copy_from_slice(&[0x80, 0xff]);
    });
    snapshot.refused(&[&shard, tensor, "row 5", "a finite number", "found -inf"]);
}

#[test]
fn quantisation_and_tensors_disagree() {
    let gate = "language_model.model.layers.2.mlp.gate";
    let snapshot = Snapshot::copy("tiny_mlx4");
    snapshot.edit_json("config.json", |config| {
        config["quantization"].as_object_mut().unwrap().remove(gate).unwrap();
    });
    snapshot.refused(&[
        gate,
        "expected U32 [16, 16] (4-bit affine, group 64",
        "config.json says",
        "found U32 [16, 32]",
    ]);

    let snapshot = Snapshot::copy("tiny_mlx4");
    snapshot.edit_json("config.json", |config| config["quantization"]["mode"] = json!("mxfp3"));
    snapshot.refused(&["config.json", "quantization.mode", "expected affine, mxfp4", "found \"mxfp3\""]);

    // without the section, bits and groups follow from the shapes
    let snapshot = Snapshot::copy("tiny_mlx4");
    snapshot.edit_json("config.json", |config| {
        let keys = config.as_object_mut().unwrap();
        keys.remove("quantization");
        keys.remove("quantization_config");
    });
    let source = ModelSource::open(snapshot.0.path()).unwrap();
    let suffix = |name: &str| source.weights.matrix(name).unwrap().format.suffix();
    assert_eq!((suffix("layers.2.router"), suffix("embed_tokens")), ("q8", "q4"));
}

#[test]
fn text_files_are_taken_as_they_are() {
    let snapshot = Snapshot::tiny();
    let files = |snapshot: &Snapshot| ModelSource::open(snapshot.0.path()).map(|source| source.text_files);
    let text = files(&snapshot).unwrap();
    assert!(text.tokenizer.is_none() && text.chat_template.is_none() && text.generation_config.is_some());

    let config = snapshot.path("tokenizer_config.json");
    fs::write(&config, json!({ "chat_template": "one" }).to_string()).unwrap();
    assert_eq!(files(&snapshot).unwrap().chat_template.as_deref(), Some("one"));
    let named = json!([{ "name": "rag", "template": "a" }, { "name": "default", "template": "b" }]);
    fs::write(&config, json!({ "chat_template": named }).to_string()).unwrap();
    let text = files(&snapshot).unwrap();
    assert_eq!((text.chat_template.as_deref(), text.named_templates), (Some("b"), vec![("rag".into(), "a".into())]));
    fs::write(&config, "{}").unwrap();
    assert_eq!(files(&snapshot).unwrap().chat_template, None);
    fs::write(snapshot.path("chat_template.json"), json!({ "chat_template": "json" }).to_string()).unwrap();
    assert_eq!(files(&snapshot).unwrap().chat_template.as_deref(), Some("json"));
    fs::write(snapshot.path("chat_template.jinja"), "jinja").unwrap();
    fs::create_dir(snapshot.path("additional_chat_templates")).unwrap();
    fs::write(snapshot.path("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    fs::write(snapshot.path("additional_chat_templates/notes.txt"), "no").unwrap();
    let text = files(&snapshot).unwrap();
    assert_eq!(text.chat_template.as_deref(), Some("jinja"));
    assert_eq!(text.named_templates, [("tool_use".to_owned(), "tools".to_owned())]);
    fs::write(snapshot.path("chat_template.json"), "[").unwrap();
    snapshot.refused(&["chat_template.json"]);
    fs::remove_file(snapshot.path("chat_template.json")).unwrap();

    fs::write(snapshot.path("tokenizer.json"), [0xff, 0xfe]).unwrap();
    snapshot.refused(&["tokenizer.json", "UTF-8"]);
    fs::remove_file(snapshot.path("tokenizer.json")).unwrap();
    fs::remove_file(snapshot.path("chat_template.jinja")).unwrap();
    fs::write(&config, json!({ "chat_template": 3 }).to_string()).unwrap();
    snapshot.refused(&["tokenizer_config.json", "chat_template"]);
}
