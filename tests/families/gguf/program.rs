//! The program's commands on a GGUF file.

use serde_json::Value as Json;

use super::writer::Value;
use super::*;
use crate::program::{golden_text, stdout};

/// A golden model with a tokenizer of bytes, each its own id, and a template.
pub(super) fn with_bytes(name: &str) -> (tempfile::TempDir, PathBuf) {
    let mut file = golden(name).0.gguf(Form { numbers: Numbers::Bf16, ..Form::PLAIN });
    let snapshot = crate::snapshot::Snapshot::of(name).with_text();
    let read = |file: &str| fs::read_to_string(snapshot.path().join(file)).unwrap();
    let tokenizer: Json = serde_json::from_str(&read("tokenizer.json")).unwrap();
    let mut tokens = vec![String::new(); 256];
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize].clone_from(token);
    }
    file.put("tokenizer.ggml.model", "gpt2");
    file.put("tokenizer.ggml.pre", "qwen2");
    file.put("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.put("tokenizer.ggml.merges", Value::Texts(Vec::new()));
    file.put("tokenizer.chat_template", read("chat_template.jinja").as_str());
    write(&file)
}

#[test]
fn every_command_takes_a_file() {
    for name in FAMILIES {
        let (folder, path) = with_bytes(name);
        let path = path.to_str().unwrap();
        let (prompt, continuation) = golden_text(name);
        let expected = format!("{prompt}{continuation}\n");
        let rest = ["--device", "cpu", "--activations", "f32", "--raw", &prompt, "--temp", "0", "-n", "12"];
        assert_eq!(stdout(&[&["run", "-m", path], &rest[..]].concat()), expected, "{name}");
        // the folder has no other model
        let in_folder = folder.path().to_str().unwrap();
        assert_eq!(stdout(&[&["run", "-m", in_folder], &rest[..]].concat()), expected, "{name}");
        let found: Json = serde_json::from_str(&stdout(&["inspect", path, "--json", "--device", "cpu"])).unwrap();
        assert_eq!((&found["kind"], &found["files"][0]["name"]), (&"gguf".into(), &"model.gguf".into()));
        assert_eq!(found["files"][0]["bytes"].as_u64(), Some(fs::metadata(path).unwrap().len()));
        let parameters = crate::snapshot::Draft::of(name).parameters() as u64;
        assert_eq!(found["parameters"].as_u64(), Some(parameters), "{name}");
        let bench = ["bench", "-m", path, "--device", "cpu", "-c", "64", "-n", "2", "-r", "1", "--json"];
        serde_json::from_str::<Json>(&stdout(&bench)).unwrap();

        // a pack of it keeps every bit, and has files of its own for text
        let pack = folder.path().join("pack");
        let pack = pack.to_str().unwrap();
        stdout(&["pack", path, pack, "--bits", "0", "--resident-bits", "0", "--verify"]);
        assert_eq!(stdout(&[&["run", "-m", pack], &rest[..]].concat()), expected, "{name}");
        let tokens = crate::snapshot::Oracle::of(name).ids("tokens").unwrap();
        let same = computed(Path::new(path), Device::Cpu, &tokens) == computed(Path::new(pack), Device::Cpu, &tokens);
        assert!(same, "{name}: the pack has other bits");
    }
}
