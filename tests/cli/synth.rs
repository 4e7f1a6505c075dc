//! `flashflood synth --gguf`: a file that other commands take.

use super::*;

#[test]
fn a_file_of_one_layer_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (path, logits) = (folder.path().join("random.gguf"), folder.path().join("logits"));
    let (path, logits) = (path.to_str().unwrap(), logits.to_str().unwrap());
    let synth = |more: &[&str]| outcome(&[&["synth", "--shape", "qwen3-4b", "--layers", "1"], more].concat());
    let made = synth(&["--gguf", "iq1_s", path]);
    assert_eq!(made.code, Some(0), "{made:#?}");
    let bytes = fs::metadata(path).unwrap().len();
    assert!((90_000_000..130_000_000).contains(&bytes), "{bytes}");
    let expected = format!("{path}: the first layers of qwen3-4b, IQ1_S, {:.1} MB\n", bytes as f64 / 1e6);
    assert_eq!(made.stdout, expected);
    stdout(&["logits", path, "--tokens", "1 2 3", "--device", "cpu", "--out", logits]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    synth(&["--gguf", "Q4_K", "--fp8", path]).misused(&["--gguf", "--fp8"]);
    synth(&["--gguf", "q4_k_m", path]).misused(&["q4_k_m", "--gguf"]);
    synth(&["--gguf", "Q4_K", "--bits", "4", path]).misused(&["--gguf", "--bits"]);
    synth(&["--gguf", "Q4_K", folder.path().to_str().unwrap()]).failed(&["expected the name of a file to make"]);
}

#[test]
fn fp8_is_kept_in_a_pack() {
    let folder = tempfile::tempdir().unwrap();
    let (path, logits) = (folder.path().join("pack"), folder.path().join("logits"));
    let (path, logits) = (path.to_str().unwrap(), logits.to_str().unwrap());
    stdout(&["synth", "--shape", "qwen3-4b", "--layers", "1", "--fp8", path]);
    let shown = stdout(&["inspect", "-m", path]);
    assert!(shown.contains("FP8, group 128") && shown.contains("bf16"), "{shown}");
    stdout(&["logits", path, "--tokens", "1 2 3", "--device", "cpu", "--out", logits]);
}
