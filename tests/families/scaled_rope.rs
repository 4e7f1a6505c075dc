//! YaRN as transformers computes it, as a snapshot says it, as a GGUF file does, and as it is asked for; contexts and
//! sessions that go with it.

use serde_json::{Value, json};

use super::gguf::{Number, with_yarn};
use super::snapshot::{Draft, Oracle, Snapshot};
use super::*;
use flashflood::{RopeScaling, SessionFolder};

/// The first four logits of some rows.
type Rows = [(usize, [f32; 4]); 3];

/// Of transformers 5.24 in f32, by `families.py NAME --rope JSON` (tests/golden/README.md): factor 4 of 64 positions.
const QWEN3: Rows = [
    (1, [-1.28091, -1.38654, -2.21332, -3.28845]),
    (70, [-1.61568, 0.93282, 0.60625, -0.71734]),
    (95, [-3.42954, -0.16806, -2.09493, -2.65725]),
];
const QWEN3_5: Rows = [
    (1, [0.48318, 1.19713, -1.47562, -3.0205]),
    (70, [-4.59937, 2.44613, 1.4498, -0.1211]),
    (95, [-2.34693, 0.50073, -0.18436, -1.28492]),
];
/// The same, of 32 positions, with every number that a configuration may have: see [`all_keys`].
const ALL_QWEN3: Rows = [
    (1, [-1.30986, -1.37501, -2.28807, -3.24109]),
    (70, [-1.64315, 1.34273, 0.66094, -0.77306]),
    (95, [-3.13197, -0.32239, -1.93317, -2.3622]),
];
const ALL_QWEN3_5: Rows = [
    (1, [0.48601, 1.20963, -1.47416, -3.02307]),
    (70, [-4.60809, 2.4496, 1.45474, -0.11505]),
    (95, [-2.34743, 0.50476, -0.18422, -1.29205]),
];
/// The same, of 32 positions, with an attention factor of 1.25.
const ATTENTION_QWEN3: Rows = [
    (1, [-1.26886, -1.40895, -2.1073, -3.36739]),
    (70, [-2.36295, 0.42257, 0.46323, -0.70337]),
    (95, [-3.81782, -0.13254, -1.32924, -1.182]),
];

/// Everything but an attention factor, which follows from the mscales.
fn all_keys() -> Value {
    json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 6.0, "beta_slow": 0.25,
        "truncate": false, "mscale": 0.8, "mscale_all_dim": 0.4 })
}

/// The golden model with these keys in its `rope_parameters`.
fn with_keys(name: &str, keys: &Value) -> Snapshot {
    let mut draft = Draft::of(name);
    let rope = draft.config["rope_parameters"].as_object_mut().unwrap();
    rope.extend(keys.as_object().unwrap().clone());
    draft.write()
}

fn open_with(path: &Path, device: Device, rope: &str) -> Engine {
    let (activations, kv, rope_scaling) = (Activations::F32, KvFormat::F32, rope.parse().unwrap());
    let context = Some(128);
    let options = EngineOptions { device, activations, kv, rope_scaling, context, ..EngineOptions::default() };
    Engine::open(path, &options).unwrap()
}

fn check(name: &str, path: &Path, device: Device, rope: &str, expected: Rows) {
    let tokens = Oracle::of(name).ids("tokens").unwrap();
    let found = run(&mut open_with(path, device, rope).session().unwrap(), &[&tokens]).logits;
    for (row, expected) in expected {
        let found = &found[row * found.len() / tokens.len()..][..4];
        let difference = largest_difference(found, &expected);
        assert!(difference <= TOLERANCE, "{name}, {rope}, row {row}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn yarn() {
    let said = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 });
    for (name, expected, all) in [("qwen3", QWEN3, ALL_QWEN3), ("qwen3_5_text", QWEN3_5, ALL_QWEN3_5)] {
        let (plain, snapshot) = (Snapshot::of(name), with_keys(name, &said));
        let (_folder, file) = with_yarn(name, 4.0, 64, &[]);
        check(name, snapshot.path(), Device::Cpu, "auto", expected);
        check(name, snapshot.path(), Device::Gpu, "auto", expected);
        check(name, &file, Device::Cpu, "auto", expected);
        // as a card recommends it, of a model that does not say it or says something else
        check(name, plain.path(), Device::Cpu, "yarn:4:64", expected);
        let (_folder, other) = with_yarn(name, 2.0, 32, &[]);
        check(name, &other, Device::Cpu, "yarn:4:64", expected);
        check(name, with_keys(name, &all_keys()).path(), Device::Cpu, "auto", all);
    }
}

/// Files have what multiplies the factor that follows from the stretch, configurations have the product.
#[test]
fn attention_factors() {
    let said =
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.25 });
    check("qwen3", with_keys("qwen3", &said).path(), Device::Cpu, "auto", ATTENTION_QWEN3);
    let times = 1.25 / (0.1 * 4f32.ln() + 1.0);
    let (_folder, file) = with_yarn("qwen3", 4.0, 32, &[("attn_factor", Number::F32(times))]);
    check("qwen3", &file, Device::Cpu, "auto", ATTENTION_QWEN3);
}

#[test]
fn none_is_the_model_as_it_was_trained() {
    let tokens = Oracle::of("qwen3").ids("tokens").unwrap();
    let expected = Oracle::of("qwen3").logits();
    // of so many positions as the context has here
    let said = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128 });
    let snapshot = with_keys("qwen3", &said);
    let mut engine = open_with(snapshot.path(), Device::Cpu, "none");
    assert_eq!((engine.shape().max_positions, engine.shape().yarn()), (128, None));
    let found = run(&mut engine.session().unwrap(), &[&tokens]).logits;
    assert!(largest_difference(&found, &expected) <= TOLERANCE);
}

#[test]
fn contexts_that_are_too_long_say_what_would_do() {
    let snapshot = Snapshot::of("qwen3_5_text");
    let refused = |context, rope: &str, parts: &[&str]| {
        let options = EngineOptions {
            device: Device::Cpu,
            context: Some(context),
            rope_scaling: rope.parse().unwrap(),
            ..EngineOptions::default()
        };
        let error = Engine::open(snapshot.path(), &options).err().unwrap().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{error}"));
    };
    let trained = "expected at most 4096, which the model was trained for (hint: --rope-scaling yarn:2 ";
    refused(4097, "auto", &["a context of 4097 positions", trained, "or lower --ctx"]);
    refused(16_385, "yarn:4", &["at most 16384", "stretched from the 4096", "yarn:5 "]);
    refused(200, "yarn:3:64", &["at most 192", "stretched from the 64", "yarn:4:64 "]);
    refused(1 << 40, "none", &["(hint: lower --ctx)"]);
    let engine = {
        let (context, rope_scaling) = (Some(8192), RopeScaling::Yarn { factor: 2.0, original: None });
        let options = EngineOptions { device: Device::Cpu, context, rope_scaling, ..EngineOptions::default() };
        Engine::open(snapshot.path(), &options).unwrap()
    };
    assert_eq!(engine.context(), 8192);
}

/// Keys that were rotated in one way are no state of a model that rotates in another.
#[test]
fn sessions_go_on_with_the_same_positions_only() {
    let tokens = Oracle::of("qwen3").ids("tokens").unwrap();
    let said = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 });
    let (plain, snapshot) = (Snapshot::of("qwen3"), with_keys("qwen3", &said));
    let directory = tempfile::tempdir().unwrap();
    let folder = || SessionFolder::open(directory.path(), 1 << 30).unwrap();
    let mut engine = open_with(plain.path(), Device::Cpu, "yarn:4:64");
    let mut session = engine.session().unwrap();
    session.extend(&tokens[..80], LogitRows::Last, |_, _| true).unwrap();
    session.save(&mut folder()).unwrap();
    for (path, rope, expected) in [
        (plain.path(), "yarn:4:64", 80),
        (plain.path(), "auto", 0),
        (plain.path(), "none", 0),
        (plain.path(), "yarn:2:64", 0),
        // another config.json, though it says the same
        (snapshot.path(), "auto", 0),
    ] {
        let mut engine = open_with(path, Device::Cpu, rope);
        let restored = engine.session().unwrap().restore(&folder(), &tokens).unwrap();
        assert_eq!(restored.tokens, expected, "{rope}");
    }
}
