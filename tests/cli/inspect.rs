//! `flashflood inspect`: what it says is what the model is.

use serde_json::Value;

use super::*;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

#[test]
fn the_small_model() {
    let found = json(&["inspect", "--json", "--device", "cpu"]);
    assert_eq!((&found["kind"], &found["config"]["model_type"]), (&"embedded".into(), &"qwen3_5_moe".into()));
    let parts = found["parts"].as_array().unwrap();
    let sum = |key: &str| parts.iter().map(|part| part[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(found["parameters"].as_u64(), Some(sum("parameters")));
    let config = &found["config"];
    let number = |key: &str| config[key].as_u64().unwrap();
    let layers = config["layers"].as_array().unwrap().len() as u64;
    let routed = parts.iter().find(|part| part["name"] == "routed experts").unwrap();
    let expert = 3 * number("hidden") * number("moe_intermediate");
    assert_eq!(routed["parameters"].as_u64(), Some(layers * number("experts") * expert));
    // 4 bits, and a scale and a bias of 16 bits for every 64 weights
    assert_eq!(found["expert_bytes"].as_u64(), Some(expert / 2 + expert / 64 * 4));
    let per_token = found["expert_bytes"].as_u64().unwrap() * layers * number("top_k");
    assert_eq!(found["expert_bytes_per_token"].as_u64(), Some(per_token));
    let plan = &found["plan"];
    assert_eq!(plan["all_slots"].as_u64(), Some(layers * number("experts")));
    let text = stdout(&["inspect", "--device", "cpu"]);
    for part in ["(embedded)", "routed experts", "4-bit affine, group 64", "one expert: ", "expert slots", "CPU ("] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_pack_a_snapshot_and_the_plan_that_flags_ask_for() {
    let pack = in_repository("models/small-moe");
    let found = json(&["inspect", pack.to_str().unwrap(), "--json", "--device", "cpu", "-c", "100", "--chunk", "16"]);
    assert_eq!((&found["kind"], found["plan"]["context"].as_u64()), (&"pack".into(), Some(100)));
    assert_eq!(found["plan"]["chunk"].as_u64(), Some(16));
    let files = found["files"].as_array().unwrap();
    let on_disk = fs::metadata(pack.join("experts/layer-000.bin")).unwrap().len();
    let listed = files.iter().find(|file| file["name"] == "experts/layer-000.bin").unwrap();
    assert_eq!(listed["bytes"].as_u64(), Some(on_disk));
    let snapshot = in_repository("tests/golden/oracle/mini_next");
    let found = json(&["inspect", "-m", snapshot.to_str().unwrap(), "--json", "--device", "cpu"]);
    assert_eq!((&found["kind"], &found["config"]["model_type"]), (&"snapshot".into(), &"qwen3_next".into()));
    outcome(&["inspect", "/does/not/exist"]).failed(&["/does/not/exist", "expected a folder with a model"]);
}

#[test]
fn a_model_that_does_not_fit_is_shown_with_the_reason() {
    let arguments = ["inspect", "--device", "cpu", "-c", "1000000000"];
    let text = stdout(&arguments);
    assert!(text.contains("it does not fit: a context of 1000000000 positions"), "{text}");
    assert!(text.contains("hint: lower --ctx"), "{text}");
    let found = json(&[&arguments[..], &["--json"]].concat());
    assert!(found["plan"].is_null() && found["plan_error"].is_string(), "{found}");
}
