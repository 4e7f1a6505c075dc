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
fn rotary_positions_that_are_stretched() {
    let plain = json(&["inspect", "--json", "--device", "cpu"]);
    assert_eq!((&plain["config"]["max_positions"], &plain["config"]["rope_scaling"]), (&32_768.into(), &Value::Null));
    let asked = ["inspect", "--device", "cpu", "-c", "65536", "--rope-scaling", "yarn:2"];
    let found = json(&[&asked[..], &["--json"]].concat());
    assert_eq!((&found["config"]["max_positions"], &found["plan"]["context"]), (&65_536.into(), &65_536.into()));
    let scaling = &found["config"]["rope_scaling"];
    assert_eq!((&scaling["factor"], &scaling["original"]), (&2.0.into(), &32_768.into()));
    let text = stdout(&asked);
    assert!(text.contains("65536 positions, by YaRN 2 times the 32768 that it was trained for"), "{text}");
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
    // what packs of it would read
    let ladder = found["ladder"].as_array().unwrap();
    let names: Vec<&str> = ladder.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["q4", "q3", "q223", "q2"]);
    let bytes: Vec<u64> = ladder.iter().map(|step| step["token_bytes"].as_u64().unwrap()).collect();
    assert!(
        bytes.is_sorted_by(|a, b| a > b) && bytes[0] < found["expert_bytes_per_token"].as_u64().unwrap(),
        "{bytes:?}"
    );
    let text = stdout(&["inspect", "-m", snapshot.to_str().unwrap(), "--device", "cpu"]);
    assert!(text.contains("pack --bits  bits a weight") && text.contains("\nq223 "), "{text}");
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
