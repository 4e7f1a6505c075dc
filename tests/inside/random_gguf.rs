//! GGUF files of random weights open as any other, in every type and family, and their tokens choose different experts.

use serde_json::{Value, json};

use crate::compute::LogitRows;
use crate::engine::{Activations, Device, Engine, EngineOptions, KvFormat};
use crate::model::ModelSource;
use crate::model::published::random_gguf;
use crate::model::{Mixer, Published};

use super::*;

/// A published shape with few and narrow layers.
pub(super) fn small(of: Published, layers: usize) -> Value {
    let mut config = of.config(Some(layers));
    let sizes = [
        ("hidden_size", 512),
        ("vocab_size", 300),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("head_dim", 64),
        ("num_experts", 16),
        ("num_experts_per_tok", 4),
        ("moe_intermediate_size", 256),
        ("shared_expert_intermediate_size", 256),
        ("intermediate_size", 512),
        ("linear_num_key_heads", 2),
        ("linear_num_value_heads", 4),
        ("linear_key_head_dim", 64),
        ("linear_value_head_dim", 64),
        ("max_position_embeddings", 512),
    ];
    for (key, size) in sizes {
        if config.get(key).is_some() {
            config[key] = json!(size);
        }
    }
    config
}

pub(super) fn written(config: &Value, kind: &str, path: &Path) {
    let file = random_gguf(Path::new("small"), config.clone(), kind, 7).unwrap();
    let told = std::cell::Cell::new(0);
    file.write(&mut std::fs::File::create(path).unwrap(), &|bytes| told.set(told.get() + bytes)).unwrap();
    assert_eq!(told.get(), file.bytes());
}

const TOKENS: [u32; 24] =
    [5, 77, 256, 9, 104, 31, 8, 299, 42, 17, 200, 3, 61, 90, 11, 150, 66, 7, 29, 258, 1, 0, 88, 13];

/// Logits, and the experts of each layer and token.
fn computed(path: &Path) -> (Vec<f32>, Vec<Vec<u32>>) {
    let options = EngineOptions {
        device: Device::Cpu,
        activations: Activations::F32,
        context: Some(64),
        kv: KvFormat::F32,
        ..EngineOptions::default()
    };
    let mut engine = Engine::open(path, &options).unwrap();
    let mut session = engine.session().unwrap();
    let (mut logits, mut routing) = (Vec::new(), Vec::new());
    session
        .extend(&TOKENS, LogitRows::All, |session, _| {
            logits.extend(session.logits().unwrap());
            routing.extend(session.routing().iter().cloned());
            true
        })
        .unwrap();
    (logits, routing)
}

#[test]
fn every_type_opens_and_computes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.gguf");
    let config = small(Published::Qwen35A3b, 2);
    for kind in Published::gguf_types() {
        written(&config, kind, &path);
        let source = ModelSource::open(&path).unwrap();
        assert_eq!(source.experts().layers.len(), 2);
        let (logits, routing) = computed(&path);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{kind}");
        // as large as those of a model that has learned something
        let deviation = (logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((0.2..5.0).contains(&deviation), "{kind}: logits of {deviation}");
        for layer in &routing {
            let mut used = layer.clone();
            used.sort_unstable();
            used.dedup();
            let choices: std::collections::HashSet<&[u32]> = layer.chunks(4).collect();
            let (experts, choices) = (used.len(), choices.len());
            assert!(experts >= 8 && choices >= 20, "{kind}: {experts} of 16 experts in {choices} choices of 24 tokens");
        }
    }
}

#[test]
fn every_family_opens_and_is_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, again) = (folder.path().join("random.gguf"), folder.path().join("again.gguf"));
    for of in [
        Published::Qwen35A3b,
        Published::Qwen3NextA3b,
        Published::Qwen3527b,
        Published::Qwen34b,
        Published::Mixtral8x7b,
    ] {
        let config = small(of, 4);
        written(&config, "q4_k", &path);
        written(&config, "Q4_K", &again);
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(), "{}", of.name());
        let source = ModelSource::open(&path).unwrap();
        let mut expected = crate::model::shape_of_config(&path, &config.to_string()).unwrap();
        for layer in &mut expected.layers {
            // the order of value heads in files of this architecture
            if let Mixer::DeltaNet(shape) = &mut layer.mixer {
                shape.in_turn = !matches!(of, Published::Qwen3NextA3b);
            }
        }
        let found = &source.shape;
        assert_eq!((found.model_type, &found.layers, found.vocab), (expected.model_type, &expected.layers, 300));
        assert_eq!(found.tied_embeddings, expected.tied_embeddings, "{}", of.name());
        assert!(computed(&path).0.iter().all(|logit| logit.is_finite()), "{}", of.name());
        // text goes in and comes out
        let json = source.text_files.tokenizer.as_deref().unwrap();
        let tokenizer = crate::text::Tokenizer::from_json(&path, json).unwrap();
        let ids = tokenizer.encode("a   é<|im_end|>").unwrap();
        assert_eq!(ids, [97, 259, 32, 195, 169, 258]);
        assert_eq!(tokenizer.decode(&ids, false), "a   é<|im_end|>");
    }
}

#[test]
fn types_that_there_are_not() {
    let refused =
        |kind| random_gguf(Path::new("small"), small(Published::Qwen34b, 1), kind, 7).err().unwrap().to_string();
    for kind in ["Q4_K_M", "I32", "", "Q8_1"] {
        let text = refused(kind);
        assert!(text.starts_with("small: type: expected one of F32, F16") && text.ends_with(&format!("found {kind}")));
    }
}
