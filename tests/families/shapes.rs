//! `synth --shape` of published models: numbers from their config.json, and two layers that run.

use serde_json::Value;

use super::program::stdout;

/// A pack of the first two layers is made, inspected, run and measured; its parameters are `two_layers`.
fn check(shape: &str, model_type: &str, two_layers: u64) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pack");
    let out = out.to_str().unwrap();
    let bits = ["--bits", "2", "--resident-bits", "2"];
    let said = stdout(&[&["synth", "--shape", shape, "--layers", "2", out], &bits[..]].concat());
    assert!(said.contains(shape) && said.contains("2 layers"), "{said}");
    let found: Value = serde_json::from_str(&stdout(&["inspect", out, "--json", "--device", "cpu"])).unwrap();
    assert_eq!(found["config"]["model_type"], model_type, "{found}");
    assert_eq!(found["parameters"].as_u64(), Some(two_layers), "{shape}");
    let run = ["run", "-m", out, "--device", "cpu", "-c", "64", "--raw", "ab", "--temp", "0", "-n", "2"];
    assert!(stdout(&run).starts_with("ab"), "{shape}");
    let bench = ["bench", "-m", out, "--device", "cpu", "-c", "64", "-n", "2", "-r", "1", "--json"];
    serde_json::from_str::<Value>(&stdout(&bench)).unwrap();
}

/// Attention with `heads` query and `kv` key and value heads of `dim` elements: q, k, v and o.
fn attention(hidden: u64, heads: u64, kv: u64, dim: u64) -> u64 {
    hidden * dim * (2 * heads + 2 * kv)
}

#[test]
fn qwen3_4b() {
    let hidden = 2560;
    // the head is the embedding; q_norm and k_norm, and two norms of the layer
    let layer = attention(hidden, 32, 8, 128) + 3 * hidden * 9728 + 2 * 128 + 2 * hidden;
    check("qwen3-4b", "qwen3", 151_936 * hidden + 2 * layer + hidden);
}

#[test]
#[ignore = "makes 0.9 GB"]
fn qwen3_5_27b() {
    let (hidden, keys, values) = (5120, 16 * 128, 48 * 128);
    // qkv, z, out; b and a; convolution, A_log, dt_bias, norm
    let delta_net = hidden * (2 * keys + values + 2 * values + 2 * 48) + 4 * (2 * keys + values) + 2 * 48 + 128;
    let layer = delta_net + 3 * hidden * 17_408 + 2 * hidden;
    check("qwen3.5-27b", "qwen3_5", 2 * 248_320 * hidden + 2 * layer + hidden);
}

#[test]
#[ignore = "makes 1 GB"]
fn mixtral_8x7b() {
    let hidden = 4096;
    let layer = attention(hidden, 32, 8, 128) + 8 * hidden + 8 * 3 * hidden * 14_336 + 2 * hidden;
    check("mixtral-8x7b", "mixtral", 2 * 32_000 * hidden + 2 * layer + hidden);
}
