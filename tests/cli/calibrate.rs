//! `flashflood calibrate`, packs that are made by what it found, and `flashflood compare`.

use super::*;

#[test]
fn a_calibration_makes_a_pack_that_is_nearer_to_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = in_repository("tests/golden/small-moe/snapshot-8bit");
    let text = snapshot.join("eval.jsonl");
    let [stats, with, without] = ["stats", "with", "without"].map(|name| folder.path().join(name));
    let [snapshot, text] = [&snapshot, &text].map(|path| path.to_str().unwrap());
    let [stats, with, without] = [&stats, &with, &without].map(|path| path.to_str().unwrap());
    let calibrate = ["calibrate", snapshot, "--text", text, "--only-text", "--tokens", "3000", "--out", stats];
    let said = stdout(&calibrate);
    assert!(said.contains("stats: 8 layers, ") && said.contains(" tokens of text"), "{said}");
    assert_eq!(stdout(&calibrate), said, "done is done");
    // neither a finished one nor one that was begun goes on the other way
    let begun = folder.path().join("begun");
    fs::create_dir(&begun).unwrap();
    fs::copy(folder.path().join("stats/calibration.json"), begun.join("progress.json")).unwrap();
    for (out, name) in [(stats, "calibration.json"), (begun.to_str().unwrap(), "progress.json")] {
        let mut other_way = calibrate.to_vec();
        other_way.pop();
        other_way.extend([out, "--per-expert"]);
        let why = format!("{name}: per_expert: expected true, found false");
        outcome(&other_way).failed(&[&why, "hint: the folder holds a calibration that was begun without --per-expert"]);
    }
    stdout(&["pack", snapshot, with, "--bits", "2", "--calibration", stats]);
    stdout(&["pack", snapshot, without, "--bits", "q223"]);
    let inspected = |pack: &str| stdout(&["inspect", pack, "--device", "cpu"]);
    assert!(inspected(with).contains("3-bit affine, group 64"), "2 bits by a calibration are 3 of down");
    let compare = |pack: &str| -> serde_json::Value {
        let arguments = ["compare", snapshot, pack, "--text", text, "--tokens", "600", "--device", "cpu", "--json"];
        serde_json::from_str(&stdout(&arguments)).unwrap()
    };
    let (with, without) = (compare(with), compare(without));
    let divergence = |found: &serde_json::Value| found["divergence"].as_f64().unwrap();
    assert!(divergence(&with) < 0.7 * divergence(&without), "{with:#}\n{without:#}");
    assert!(with["same_next_token"].as_f64() > without["same_next_token"].as_f64(), "{with:#}\n{without:#}");
    let shown = stdout(&["compare", snapshot, snapshot, "--text", text, "--tokens", "300", "--device", "cpu"]);
    assert!(shown.contains("divergence            0.000000 nats a token"), "{shown}");
}

#[test]
fn what_cannot_be_calibrated_or_compared() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = in_repository("tests/golden/small-moe/snapshot-8bit");
    let out = folder.path().join("out");
    let (snapshot, out) = (snapshot.to_str().unwrap(), out.to_str().unwrap());
    fs::write(folder.path().join("text.jsonl"), "{\"text\": 1}\n").unwrap();
    let text = folder.path().join("text.jsonl");
    outcome(&["calibrate", snapshot, "--text", text.to_str().unwrap(), "--out", out])
        .failed(&["text.jsonl: line 1: expected an object with `text` or with `messages`"]);
    outcome(&["calibrate", snapshot, "--out", folder.path().to_str().unwrap()])
        .failed(&["expected a folder that does not exist yet, or a calibration, found other files", "hint: "]);
    outcome(&["pack", snapshot, out, "--bits", "2", "--calibration", folder.path().to_str().unwrap()])
        .failed(&["calibration.json: missing, expected by a calibration", "hint: flashflood calibrate"]);
    let other = in_repository("tests/golden/oracle/tiny");
    outcome(&["compare", snapshot, other.to_str().unwrap(), "--device", "cpu"]).failed(&["tiny", "tokenizer"]);
}
