//! The same weights as other releases lay them out give the same bits; what cannot be read is refused with its name.

use serde_json::{Value, json};

use super::snapshot::{Draft, Oracle, Tensor};
use super::*;

/// `change` of a golden model leaves every bit as it was.
fn check_same(name: &str, what: &str, change: impl Fn(&mut Draft)) {
    let tokens = Oracle::of(name).ids("tokens").unwrap();
    let plain = Draft::of(name);
    let mut changed = Draft::of(name);
    change(&mut changed);
    for device in [Device::Cpu, Device::Gpu] {
        let expected = computed(plain.write().path(), device, &tokens);
        let found = computed(changed.write().path(), device, &tokens);
        assert!(found == expected, "{name} on {device:?}: {what} gives other bits");
    }
}

/// Text and vision in one release: the text model is nested, and what is not of it does not take part.
fn as_vision_release(draft: &mut Draft) {
    let mut text = draft.config.take();
    for key in ["architectures", "transformers_version"] {
        text.as_object_mut().unwrap().remove(key);
    }
    draft.config = json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": false,
        "image_token_id": 250,
        "vision_config": { "model_type": "qwen3_5", "depth": 2, "hidden_size": 48, "num_heads": 3 },
    });
    draft.rename(|name| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    });
    let hidden = draft.tensor("model.language_model.norm.weight").shape[0];
    let others = [
        ("model.visual.blocks.0.attn.qkv.weight", vec![144, 48]),
        ("model.visual.patch_embed.proj.weight", vec![48, 3, 2, 16, 16]),
        ("mtp.fc.weight", vec![hidden, 2 * hidden]),
        ("mtp.norm.weight", vec![hidden]),
        ("mtp.layers.0.mlp.up_proj.weight", vec![128, hidden]),
    ];
    let file = draft.files.values_mut().next().unwrap();
    file.extend(others.map(|(name, shape)| (name.to_owned(), Tensor::of_ones(&shape))));
}

#[test]
fn qwen3_5_beside_vision() {
    check_same("qwen3_5_text", "a vision release", as_vision_release);
}

#[test]
fn qwen3_5_by_interval() {
    check_same("qwen3_5_text", "an interval instead of a list of layers", |draft| {
        let config = draft.config.as_object_mut().unwrap();
        config.remove("layer_types");
        config.insert("full_attention_interval".to_owned(), 4.into());
    });
}

/// Before its fifth version transformers wrote the rotary base beside the other numbers.
fn with_rope_theta(draft: &mut Draft) {
    let config = draft.config.as_object_mut().unwrap();
    let rope = config.remove("rope_parameters").unwrap();
    config.insert("rope_theta".to_owned(), rope["rope_theta"].clone());
    config.insert("rope_scaling".to_owned(), Value::Null);
    config.remove("layer_types");
}

#[test]
fn older_configurations() {
    for name in ["qwen3", "mixtral"] {
        check_same(name, "rope_theta at the top", with_rope_theta);
    }
}

#[test]
fn one_file_or_several() {
    for name in FAMILIES {
        check_same(name, "other files", |draft| {
            let all = std::mem::take(&mut draft.files).into_values().flatten().collect();
            draft.files.insert("model.safetensors".to_owned(), all);
        });
    }
}

/// The head is the embedding, and the same bits as a head that holds a copy of it.
#[test]
fn qwen3_with_tied_embeddings() {
    let tokens = Oracle::of("qwen3").ids("tokens").unwrap();
    let mut copied = Draft::of("qwen3");
    let embedding = copied.tensor("model.embed_tokens.weight").clone();
    *copied.tensor("lm_head.weight") = embedding;
    let mut tied = Draft::of("qwen3");
    tied.remove("lm_head.weight");
    tied.config["tie_word_embeddings"] = true.into();
    for device in [Device::Cpu, Device::Gpu] {
        let found = computed(tied.write().path(), device, &tokens);
        assert!(found == computed(copied.write().path(), device, &tokens), "{device:?}");
    }
}

fn refusal(draft: &Draft) -> String {
    let snapshot = draft.write();
    let options = EngineOptions { device: Device::Cpu, ..EngineOptions::default() };
    match Engine::open(snapshot.path(), &options) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for (name, tensor) in [
        ("qwen3", "model.layers.2.mlp.up_proj.weight"),
        ("qwen3", "model.layers.1.self_attn.q_norm.weight"),
        ("qwen3_5_text", "model.layers.3.mlp.down_proj.weight"),
        ("qwen3_5_text", "model.layers.0.linear_attn.dt_bias"),
        ("mixtral", "model.layers.3.block_sparse_moe.experts.7.w3.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
    ] {
        let mut draft = Draft::of(name);
        draft.remove(tensor);
        let said = refusal(&draft);
        assert!(said.contains(tensor), "{tensor} is not in: {said}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    for (name, tensor) in [
        ("qwen3", "model.layers.0.mlp.gate_proj.weight"),
        ("qwen3_5_text", "model.layers.3.self_attn.q_proj.weight"),
        ("mixtral", "model.layers.2.block_sparse_moe.experts.4.w2.weight"),
    ] {
        let mut draft = Draft::of(name);
        let shape = draft.tensor(tensor).shape.clone();
        *draft.tensor(tensor) = Tensor::of_ones(&[shape[0] + 1, shape[1]]);
        let said = refusal(&draft);
        assert!(said.contains(tensor), "{tensor} is not in: {said}");
        for rows in [shape[0], shape[0] + 1] {
            assert!(said.contains(&rows.to_string()), "{rows} is not in: {said}");
        }
    }
}

#[test]
fn what_a_family_does_not_compute_is_refused() {
    let long = json!({ "rope_type": "longrope", "rope_theta": 1e6, "factor": 4.0 });
    for (name, key, value) in [
        ("qwen3", "rope_parameters", long.clone()),
        ("qwen3", "attention_bias", true.into()),
        ("qwen3", "hidden_act", "gelu".into()),
        ("qwen3_5_text", "attention_bias", true.into()),
        ("mixtral", "rope_parameters", long),
        ("mixtral", "hidden_act", "gelu".into()),
        ("mixtral", "num_experts_per_tok", 9.into()),
    ] {
        let mut draft = Draft::of(name);
        draft.config[key] = value;
        let said = refusal(&draft);
        let named = said.contains(key) || (key == "rope_parameters" && said.contains("rope_type"));
        assert!(named && said.contains("config.json"), "{name}, {key}: {said}");
    }
}
