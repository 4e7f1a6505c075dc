//! YaRN as transformers computes it, from a snapshot and from a GGUF file.

use serde_json::json;

use super::gguf::with_yarn;
use super::snapshot::{Draft, Oracle};
use super::*;

/// Of transformers 5.24 in f32: (row, its first four logits) of the golden models and tokens with factor 4 of 64 positions.
const QWEN3: [(usize, [f32; 4]); 3] = [
    (1, [-1.28091, -1.38654, -2.21332, -3.28845]),
    (70, [-1.61568, 0.93282, 0.60625, -0.71734]),
    (95, [-3.42954, -0.16806, -2.09493, -2.65725]),
];
const QWEN3_5: [(usize, [f32; 4]); 3] = [
    (1, [0.48318, 1.19713, -1.47562, -3.0205]),
    (70, [-4.59937, 2.44613, 1.4498, -0.1211]),
    (95, [-2.34693, 0.50073, -0.18436, -1.28492]),
];

#[test]
fn yarn() {
    for (name, expected) in [("qwen3", QWEN3), ("qwen3_5_text", QWEN3_5)] {
        let tokens = Oracle::of(name).ids("tokens").unwrap();
        let mut draft = Draft::of(name);
        let rope = &mut draft.config["rope_parameters"];
        rope["rope_type"] = json!("yarn");
        rope["factor"] = json!(4.0);
        rope["original_max_position_embeddings"] = json!(64);
        let snapshot = draft.write();
        let (_folder, file) = with_yarn(name, 4.0, 64);
        for (path, device) in [(snapshot.path(), Device::Cpu), (snapshot.path(), Device::Gpu), (&file, Device::Cpu)] {
            let found = computed(path, device, &tokens).logits;
            for (row, expected) in expected {
                let found = &found[row * found.len() / tokens.len()..][..4];
                let difference = largest_difference(found, &expected);
                assert!(difference <= TOLERANCE, "{name}, row {row}: {found:?} instead of {expected:?}");
            }
        }
    }
}
