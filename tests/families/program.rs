//! The program's commands on models of every family.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use flashflood::weights::safetensors::TensorSet;
use serde_json::Value;

use super::snapshot::{Draft, Oracle, Snapshot};
use super::*;

/// The program, without what the environment of whoever runs the tests says about it.
pub(crate) fn flashflood(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashflood"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLASHFLOOD_")) {
        command.env_remove(name);
    }
    command.env("FLASHFLOOD_CONFIG", "").env("FLASHFLOOD_NO_AUTOTUNE", "1").env_remove("RUST_LOG");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run that must succeed wrote to standard output. Bytes that a random model makes need not be UTF-8, but the
/// program writes nothing else.
fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn stdout(arguments: &[&str]) -> String {
    text(flashflood(arguments).output().unwrap())
}

/// Text of the golden `name`: a prompt, and the twelve bytes that transformers puts behind it.
pub(super) fn golden_text(name: &str) -> (String, String) {
    let read = |ids: &str| {
        let bytes: Vec<u8> = Oracle::of(name).ids(ids).unwrap().into_iter().map(|id| id as u8).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (read("text"), read("text_greedy"))
}

fn folder(snapshot: &Snapshot) -> &str {
    snapshot.path().to_str().unwrap()
}

#[test]
fn run_continues_a_text() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name).with_text();
        let (prompt, continuation) = golden_text(name);
        for device in ["cpu", "gpu"] {
            let model = ["run", "-m", folder(&snapshot), "--device", device, "--activations", "f32"];
            let found = stdout(&[&model[..], &["--raw", &prompt, "--temp", "0", "-n", "12"]].concat());
            assert_eq!(found, format!("{prompt}{continuation}\n"), "{name} on {device}");
        }
    }
}

#[test]
fn chat_answers_from_a_script() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name).with_text();
        let chats = tempfile::tempdir().unwrap();
        let mut child = flashflood(&["chat", "-m", folder(&snapshot), "--device", "cpu", "--activations", "f32"])
            .args(["--temp", "0", "-n", "12", "--chat-dir", chats.path().to_str().unwrap()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"Hello\n").unwrap();
        let found = text(child.wait_with_output().unwrap());
        let (_, continuation) = golden_text(name);
        assert_eq!(found, format!("{continuation}\n"), "{name}");
    }
}

#[test]
fn logits_of_ids() {
    for name in FAMILIES {
        let (snapshot, oracle) = (Snapshot::of(name), Oracle::of(name));
        let out = snapshot.path().join("logits");
        let tokens: Vec<String> = oracle.ids("tokens").unwrap().iter().map(u32::to_string).collect();
        let model = ["logits", folder(&snapshot), "--device", "cpu", "--activations", "f32", "--kv", "f32"];
        let rest = ["--step", "--tokens", &tokens.join(","), "--out", out.to_str().unwrap()];
        assert_eq!(stdout(&[&model[..], &rest].concat()), "");
        let found = TensorSet::open_file(&out).unwrap();
        let logits = found.get("logits").unwrap();
        assert_eq!(logits.shape, [96, 256]);
        let difference = largest_difference(&logits.to_f32().unwrap(), &oracle.logits_off("stepwise_off"));
        assert!(difference <= TOLERANCE, "{name}: logits differ by {difference}");
        // a dense model has no routing to write
        let routing = found.get("routing").map(|tensor| tensor.shape.clone());
        assert_eq!(routing, (name == "mixtral").then(|| vec![96, 4, 3]), "{name}");
    }
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// What the family of a golden model is called, whether it stands alone or beside vision.
fn family(name: &str) -> &str {
    name.trim_end_matches("_text")
}

#[test]
fn inspect_counts_every_weight() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name);
        let found = json(&["inspect", folder(&snapshot), "--json", "--device", "cpu"]);
        assert_eq!((&found["kind"], &found["config"]["model_type"]), (&"snapshot".into(), &family(name).into()));
        let parameters = Draft::of(name).parameters() as u64;
        assert_eq!(found["parameters"].as_u64(), Some(parameters), "{name}");
        let parts = found["parts"].as_array().unwrap();
        let of = |name: &str| parts.iter().find(|part| part["name"] == name).map(|part| part["parameters"].as_u64());
        let routed = of("routed experts").flatten().unwrap_or(0);
        let (expected, per_token) = if name == "mixtral" { (4 * 8 * 3 * 64 * 64, 4 * 3) } else { (0, 0) };
        assert_eq!(routed, expected, "{name}");
        assert_eq!(found["expert_bytes_per_token"].as_u64(), Some(per_token * 3 * 64 * 64 * 2), "{name}");
        assert!(found["plan"].is_object(), "{name}: {found}");
        let said = stdout(&["inspect", folder(&snapshot), "--device", "cpu"]);
        assert!(said.contains(family(name)) && said.contains("bf16"), "{said}");
        let has_row = |row: &str| said.lines().any(|line| line.starts_with(row));
        assert_eq!(has_row("routed experts"), name == "mixtral", "{said}");
        assert_eq!(has_row("delta-net"), name == "qwen3_5_text", "{said}");
    }
}

#[test]
fn pack_makes_what_runs() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name).with_text();
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("pack");
        let out = out.to_str().unwrap();
        let said = stdout(&["pack", folder(&snapshot), out, "--bits", "4", "--verify"]);
        assert!(said.contains("are intact"), "{name}: {said}");
        assert!(stdout(&["pack", "--verify", out]).contains("are intact"), "{name}");
        let found = json(&["inspect", out, "--json", "--device", "cpu"]);
        assert_eq!((&found["kind"], &found["config"]["model_type"]), (&"pack".into(), &family(name).into()));
        assert_eq!(found["parameters"].as_u64(), Some(Draft::of(name).parameters() as u64), "{name}");
        let (prompt, _) = golden_text(name);
        let text = stdout(&["run", "-m", out, "--device", "cpu", "--raw", &prompt, "--temp", "0", "-n", "12"]);
        assert!(text.starts_with(&prompt) && text.len() > prompt.len() + 1, "{name}: {text:?}");
        // one wrong bit of a resident weight is seen
        let resident = temporary.path().join("pack/resident.safetensors");
        let mut bytes = fs::read(&resident).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&resident, bytes).unwrap();
        let damaged = flashflood(&["pack", "--verify", out]).output().unwrap();
        assert_eq!(damaged.status.code(), Some(1), "{name}: {damaged:?}");
    }
}

#[test]
fn bench_measures() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name);
        let measured = json(&["bench", "-m", folder(&snapshot), "--device", "cpu", "-n", "4", "-r", "1", "--json"]);
        let run = &measured["runs"][0];
        assert!(run["tokens_per_s"].as_f64().unwrap() > 0.0, "{name}: {measured}");
        // a dense model has no slots, and reads no experts
        assert_eq!(measured["slots"].as_u64().unwrap() > 0, name == "mixtral", "{name}: {measured}");
        assert!(name == "mixtral" || run["bytes_read_per_token"] == 0.0, "{name}: {measured}");
    }
}
