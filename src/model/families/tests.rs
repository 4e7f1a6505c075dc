#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::shape::{AttentionShape, FeedForward, Mixer, MoeShape};
use crate::weights::snapshot::{Mode, Quantization, Widths};

const PATH: &str = "snapshot/config.json";

fn read(value: &Value) -> Result<Shape, FileError> {
    shape_of_config(Path::new(PATH), &value.to_string())
}

fn attention(shape: &Shape) -> AttentionShape {
    shape.attention().unwrap()
}

/// The layers of attention.
fn attending(shape: &Shape) -> Vec<usize> {
    let layers = shape.layers.iter().enumerate();
    layers.filter(|(_, layer)| matches!(layer.mixer, Mixer::Attention(_))).map(|(i, _)| i).collect()
}

/// Qwen3.5-35B-A3B.
pub(super) fn nested() -> Value {
    json!({
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": false,
        "vision_config": { "hidden_size": 1152, "num_heads": 16 },
        "text_config": {
            "model_type": "qwen3_5_moe_text",
            "hidden_size": 2048, "num_hidden_layers": 8, "vocab_size": 248_320, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 262_144, "hidden_act": "silu", "attention_bias": false,
            "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10], "mrope_interleaved": true
            },
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
            "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "mlp_only_layers": [], "eos_token_id": 248_044,
            "rope_scaling": null
        }
    })
}

fn qwen3_next() -> Value {
    let mut config = nested()["text_config"].take();
    let keys = config.as_object_mut().unwrap();
    keys.remove("rope_parameters");
    keys.extend(
        json!({ "model_type": "qwen3_next", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
        "norm_topk_prob": true, "decoder_sparse_step": 1 })
        .as_object()
        .unwrap()
        .clone(),
    );
    config
}

fn qwen3_moe() -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 151_936,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 40_960, "hidden_act": "silu", "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "rope_theta": 1_000_000.0, "num_local_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": false, "tie_word_embeddings": true,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": false
    })
}

/// A dense layer of Llama's form, with the norms of heads.
fn qwen3() -> Value {
    json!({
        "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "vocab_size": 151_936,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 40_960, "hidden_act": "silu", "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1_000_000, "intermediate_size": 9728,
        "tie_word_embeddings": true, "attention_bias": false, "use_sliding_window": false, "sliding_window": null,
        "max_window_layers": 36, "rope_scaling": null
    })
}

fn mixtral() -> Value {
    json!({
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 32_000,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 32_768, "hidden_act": "silu", "num_attention_heads": 32,
        "num_key_value_heads": 8, "rope_theta": 1e6, "intermediate_size": 14_336, "num_local_experts": 8,
        "num_experts_per_tok": 2, "tie_word_embeddings": false, "sliding_window": null
    })
}

/// Qwen3.5-27B.
fn qwen3_5() -> Value {
    let mut config = nested();
    config["model_type"] = json!("qwen3_5");
    let text = config["text_config"].as_object_mut().unwrap();
    for key in ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"] {
        text.remove(key);
    }
    text.insert("model_type".to_owned(), json!("qwen3_5_text"));
    text.insert("intermediate_size".to_owned(), json!(17_408));
    config
}

/// What the releases recommend for contexts of a million tokens.
#[test]
fn reads_yarn() {
    let mut config = nested();
    let rope = &mut config["text_config"]["rope_parameters"];
    rope["rope_type"] = json!("yarn");
    rope["factor"] = json!(4.0);
    rope["original_max_position_embeddings"] = json!(262_144);
    let shape = read(&config).unwrap();
    assert_eq!(shape.max_positions, 1_048_576);
    let yarn = attention(&shape).yarn.unwrap();
    assert_eq!((yarn.factor, yarn.original, yarn.beta_fast, yarn.beta_slow), (4.0, 262_144, 32.0, 1.0));
    // positions that were known at first are those of the model where they are not said
    let rope = config["text_config"]["rope_parameters"].as_object_mut().unwrap();
    rope.remove("original_max_position_embeddings");
    assert_eq!(attention(&read(&config).unwrap()).yarn, Some(yarn));
}

#[test]
fn reads_the_nested_form() {
    let shape = read(&nested()).unwrap();
    assert_eq!(shape.model_type, "qwen3_5_moe");
    assert_eq!((shape.hidden, shape.vocab, shape.max_positions), (2048, 248_320, 262_144));
    assert_eq!(attending(&shape), [3, 7]);
    let expected = AttentionShape {
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        rotary_dim: 64,
        rope_theta: 1e7,
        yarn: None,
        gate: true,
        head_norms: true,
        window: None,
    };
    assert_eq!(attention(&shape), expected);
    assert_eq!(shape.delta_net().unwrap().channels(), 8192);
    let expected = MoeShape { experts: 256, top_k: 8, width: 512, renormalise: true, shared: Some(512) };
    assert_eq!(shape.moe(), Some(expected));
    assert!(!shape.tied_embeddings);
}

#[test]
fn reads_the_flat_form_of_every_family() {
    let mut flat = nested()["text_config"].take();
    flat["layer_types"] = json!(["linear_attention", "full_attention"].repeat(4));
    assert_eq!(attending(&read(&flat).unwrap()), [1, 3, 5, 7]);

    let shape = read(&qwen3_next()).unwrap();
    let (rotary_dim, rope_theta) = (attention(&shape).rotary_dim, attention(&shape).rope_theta);
    assert_eq!((shape.model_type, rotary_dim, rope_theta), ("qwen3_next", 64, 1e7));

    let shape = read(&qwen3_moe()).unwrap();
    assert_eq!((shape.model_type, attention(&shape).rotary_dim), ("qwen3_moe", 128));
    assert_eq!(attending(&shape).len(), 48);
    assert!(!attention(&shape).gate && attention(&shape).head_norms && shape.tied_embeddings);
    let expected = MoeShape { experts: 128, top_k: 8, width: 768, renormalise: false, shared: None };
    assert_eq!((shape.delta_net(), shape.moe()), (None, Some(expected)));

    let shape = read(&mixtral()).unwrap();
    assert_eq!((shape.model_type, attention(&shape).head_dim, attention(&shape).rotary_dim), ("mixtral", 128, 128));
    assert!(!attention(&shape).gate && !attention(&shape).head_norms && !shape.tied_embeddings);
    let expected = MoeShape { experts: 8, top_k: 2, width: 14_336, renormalise: true, shared: None };
    assert_eq!(shape.moe(), Some(expected));
}

#[test]
fn reads_dense_families() {
    for (config, name, width, layers) in [(qwen3(), "qwen3", 9728, 36), (qwen3_5(), "qwen3_5", 17_408, 8)] {
        let shape = read(&config).unwrap();
        assert_eq!((shape.model_type, shape.layers.len(), shape.moe()), (name, layers, None));
        assert!(shape.moe_layers().is_empty());
        assert!(shape.layers.iter().all(|layer| layer.feed_forward == FeedForward::Dense { width }));
    }
    let shape = read(&qwen3_5()).unwrap();
    assert_eq!((attending(&shape), attention(&shape).gate), (vec![3, 7], true));
    assert!(read(&qwen3()).unwrap().tied_embeddings);
    // by the text part alone
    assert_eq!(read(&qwen3_5()["text_config"]).unwrap(), read(&qwen3_5()).unwrap());
}

#[test]
fn partial_rotary_factor_may_lie_one_level_up() {
    let mut config = nested();
    config["text_config"]["rope_parameters"].as_object_mut().unwrap().remove("partial_rotary_factor");
    config["text_config"]["partial_rotary_factor"] = json!(0.5);
    assert_eq!(attention(&read(&config).unwrap()).rotary_dim, 128);
}

/// Sets `key` (dots descend) of the nested form, or removes it with `null`, and expects every part in the message.
fn refused(key: &str, value: Value, parts: &[&str]) {
    refused_in(nested(), &format!("text_config.{key}"), value, parts);
}

fn refused_in(mut config: Value, key: &str, value: Value, parts: &[&str]) {
    let (objects, last) = key.rsplit_once('.').unwrap_or(("", key));
    let holder = objects.split('.').filter(|part| !part.is_empty()).fold(&mut config, |at, part| &mut at[part]);
    if value.is_null() {
        holder.as_object_mut().unwrap().remove(last).unwrap();
    } else {
        holder[last] = value;
    }
    let message = read(&config).expect_err(key).to_string();
    for part in [&PATH, &last].into_iter().chain(parts) {
        assert!(message.contains(part), "{key}: {message:?} does not contain {part:?}");
    }
}

#[test]
fn refuses_missing_keys() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "rms_norm_eps",
        "max_position_embeddings",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "full_attention_interval",
        "rope_parameters.rope_theta",
        "rope_parameters.partial_rotary_factor",
    ] {
        let whole = format!("text_config.{}", key.replace("full_attention_interval", "layer_types"));
        refused(key, Value::Null, &["is missing", &whole]);
    }
}

#[test]
fn refuses_values_no_model_has() {
    refused("num_attention_heads", json!(0), &["1 to 4096", "found 0"]);
    refused("num_key_value_heads", json!(0), &["1 to 16", "found 0"]);
    refused("num_key_value_heads", json!(3), &["divisor", "(16)", "found 3"]);
    refused("num_experts_per_tok", json!(257), &["1 to 32", "found 257"]);
    refused("num_experts", json!(4), &["num_experts_per_tok", "1 to 4 (num_experts)", "found 8"]);
    refused("num_experts", json!(2048), &["1 to 1024", "found 2048"]);
    refused("num_hidden_layers", json!(1_000_000_000_000_u64), &["1 to 4096", "found 1000000000000"]);
    refused("num_hidden_layers", json!(1e300), &["whole number", "found 1e"]);
    refused("hidden_size", json!(-2048), &["whole number", "found -2048"]);
    refused("hidden_size", json!("2048"), &["whole number", "found \"2048\""]);
    refused("hidden_size", json!(2047), &["multiple of 32", "found 2047"]);
    refused("hidden_size", json!(u64::MAX), &["1 to 131072", "found 18446744073709551615"]);
    refused("moe_intermediate_size", json!(u64::MAX / 2), &["1 to 131072"]);
    refused("moe_intermediate_size", json!(500), &["multiple of 32", "found 500"]);
    refused("shared_expert_intermediate_size", json!(0), &["1 to", "found 0"]);
    refused("vocab_size", json!(1_u64 << 40), &["1 to 16777216"]);
    refused("max_position_embeddings", json!(0), &["found 0"]);
    refused("head_dim", json!(512), &["1 to 256", "kernels", "found 512"]);
    refused("head_dim", json!(u64::MAX), &["1 to 256"]);
    refused("head_dim", json!(252), &["even number", "found 63"]);
    refused("rope_parameters.partial_rotary_factor", json!(1.5), &["above 0, at most 1", "found 1.5"]);
    refused("rope_parameters.partial_rotary_factor", json!(0.001), &["even number", "found 0"]);
    refused("rope_parameters.rope_theta", json!(-1.0), &["finite", "found -1"]);
    refused("rope_parameters.rope_type", json!("longrope"), &["\"default\" or", "found \"longrope\""]);
    let yarn = |more: Value| {
        let mut yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
        yarn.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        yarn
    };
    refused("rope_scaling", yarn(json!({ "factor": 0.5 })), &["rope_scaling.factor", "from 1 to", "found 0.5"]);
    refused("rope_scaling", yarn(json!({ "factor": null })), &["rope_scaling.factor", "missing"]);
    refused("rope_scaling", yarn(json!({ "original_max_position_embeddings": 0 })), &["1 or more", "found 0"]);
    refused("rope_scaling", yarn(json!({ "beta_fast": 0.5 })), &["rope_scaling.beta_fast", "1 (beta_slow) or more"]);
    refused("rope_scaling", json!({ "type": "linear" }), &["rope_scaling.type", "found \"linear\""]);
    refused("rms_norm_eps", json!(0.0), &["above 0", "found 0"]);
    refused("rms_norm_eps", json!(1e300), &["finite", "found inf"]);
    refused("rms_norm_eps", json!("x"), &["a number", "found \"x\""]);
    refused("hidden_act", json!("gelu"), &["\"silu\"", "found \"gelu\""]);
    refused("attention_bias", json!(true), &["false", "found true"]);
    refused("decoder_sparse_step", json!(2), &["expected 1", "found 2"]);
    refused("mlp_only_layers", json!([0]), &["empty list", "found [0]"]);
    refused("full_attention_interval", json!(0), &["1 or more", "found 0"]);
    refused("layer_types", json!(["full_attention"]), &["8 kinds", "found 1"]);
    let mut types = vec!["linear_attention"; 8];
    types[5] = "sliding_attention";
    refused("layer_types", json!(types), &["layer_types[5]", "\"linear_attention\"", "found \"sliding_attention\""]);
    refused("linear_num_value_heads", json!(40), &["multiple of linear_num_key_heads (16)", "found 40"]);
    refused("linear_num_key_heads", json!(0), &["1 to", "found 0"]);
    refused("linear_key_head_dim", json!(257), &["1 to 256", "found 257"]);
    refused("linear_value_head_dim", json!(512), &["1 to 256", "found 512"]);
    refused("linear_conv_kernel_dim", json!(1), &["2 to 8", "found 1"]);
    refused("linear_conv_kernel_dim", json!(9), &["2 to 8", "found 9"]);
    refused_in(nested(), "text_config", json!([]), &["an object", "found []"]);
    refused_in(
        qwen3_moe(),
        "layer_types",
        json!(vec!["linear_attention"; 48]),
        &["layer_types[0]", "qwen3_moe", "found \"linear_attention\""],
    );
}

#[test]
fn refuses_other_models() {
    let known = "qwen3_5_moe, qwen3_5_moe_text, qwen3_next, qwen3_moe, qwen3_5, qwen3_5_text, qwen3, mixtral";
    refused("model_type", json!("deepseek_v3"), &[known, "found deepseek_v3"]);
    // the text part says what it is, whatever holds it
    let mut unknown = nested();
    unknown["text_config"].as_object_mut().unwrap().remove("model_type");
    refused_in(unknown, "model_type", json!("qwen3_vl"), &[known, "found qwen3_vl"]);
    let error = read(&json!({ "hidden_size": 1 })).unwrap_err().to_string();
    assert!(error.contains("`model_type` is missing"), "{error}");
    assert!(read(&json!([])).unwrap_err().to_string().contains("an object"));
    let error = shape_of_config(Path::new(PATH), "{\n \"a\": NaN }").unwrap_err().to_string();
    assert!(error.contains(PATH) && error.contains("line 2"), "{error}");
}

/// Families refuse what they would otherwise compute wrongly.
#[test]
fn refuses_what_a_family_does_not_compute() {
    refused_in(qwen3(), "intermediate_size", json!(9729), &["multiple of 32", "found 9729"]);
    refused_in(qwen3(), "intermediate_size", Value::Null, &["is missing"]);
    refused_in(qwen3(), "attention_bias", json!(true), &["false", "found true"]);
    refused_in(qwen3(), "use_sliding_window", json!(true), &["found true"]);
    refused_in(qwen3(), "layer_types", json!(vec!["linear_attention"; 36]), &["layer_types[0]", "qwen3"]);
    refused_in(qwen3_5(), "text_config.intermediate_size", json!(0), &["1 to", "found 0"]);
    refused_in(mixtral(), "num_experts_per_tok", json!(9), &["1 to 8", "found 9"]);
    refused_in(mixtral(), "num_local_experts", Value::Null, &["is missing"]);
    refused_in(mixtral(), "hidden_act", json!("gelu"), &["\"silu\"", "found \"gelu\""]);
}

#[test]
fn reads_overrides_of_the_quantization() {
    let text = json!({ "quantization": { "group_size": 64, "bits": 4, "mode": "affine",
        "language_model.model.layers.0.mlp.gate": { "group_size": 32, "bits": 8 },
        "model.layers.1.mlp.gate": false,
        "vision_tower.blocks.0": { "bits": 1 } } })
    .to_string();
    let quantization = Quantization::from_json(Path::new(PATH), &text).unwrap().unwrap();
    let module = |name: &str| quantization.module(name);
    assert_eq!(module("language_model.lm_head"), Some(Mode::Affine(Widths { bits: 4, group: 64 })));
    assert_eq!(module("model.language_model.layers.0.mlp.gate"), Some(Mode::Affine(Widths { bits: 8, group: 32 })));
    assert_eq!(module("language_model.model.layers.1.mlp.gate"), None);
    assert_eq!(Quantization::from_json(Path::new(PATH), "{}").unwrap(), None);
}

#[test]
fn refuses_other_quantisations() {
    for (section, parts) in [
        (json!({ "quant_method": "bitsandbytes" }), ["quant_method", "gptq, awq", "\"bitsandbytes\""]),
        (json!({ "quant_method": "gptq", "bits": 4, "desc_act": true }), ["desc_act", "their own order", "true"]),
        (json!({ "quant_method": "fp8", "weight_block_size": [128, 1] }), ["weight_block_size", "of 32", "[128,1]"]),
        (json!({ "bits": 4, "group_size": 32, "mode": "mxfp3" }), ["mode", "mxfp4, mxfp8", "\"mxfp3\""]),
        (json!({ "bits": 4, "group_size": 64, "mode": "mxfp4" }), ["group_size", "32, as MXFP4", "64"]),
        (json!({ "bits": 7, "group_size": 64 }), ["quantization.bits", "2, 3, 4, 5, 6 or 8", "found 7"]),
        (json!({ "bits": 4, "group_size": 16 }), ["group_size", "32, 64 or 128", "found 16"]),
        (
            json!({ "bits": 4, "group_size": 64, "lm_head": { "bits": 9 } }),
            ["quantization.lm_head.bits", "2, 3", "found 9"],
        ),
    ] {
        let text = json!({ "quantization": section }).to_string();
        let message = Quantization::from_json(Path::new(PATH), &text).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
    }
}

/// Any JSON value a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..300).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,20}".prop_map(Value::from),
        Just(json!("linear_attention")),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,12}", inner), 0..4).prop_map(|keys| keys.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = shape_of_config(Path::new(PATH), &text);
        let _ = Quantization::from_json(Path::new(PATH), &text);
    }

    #[test]
    fn no_mutation_makes_the_reader_panic(
        family in 0_usize..6,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let mut config = [nested(), qwen3_next(), qwen3_moe(), qwen3_5(), qwen3(), mixtral()][family].clone();
        for (which, value) in changes {
            let keys = match config.get_mut("text_config").is_some_and(|text| text.is_object()) {
                true => config["text_config"].as_object_mut().unwrap(),
                false => config.as_object_mut().unwrap(),
            };
            let key = keys.keys().nth(which.index(keys.len())).unwrap().clone();
            keys[&key] = value;
        }
        config["quantization"] = config.get("text_config").cloned().unwrap_or(Value::Null);
        let _ = Quantization::from_json(Path::new(PATH), &config.to_string());
        if let Ok(shape) = read(&config) {
            // whatever is accepted is small enough to compute with
            for layer in &shape.layers {
                let (experts, width) = match layer.feed_forward {
                    FeedForward::Dense { width } => (1, width as u64),
                    FeedForward::Moe(moe) => (moe.experts as u64, moe.width as u64),
                };
                let bytes = (3 * 4 * experts).checked_mul(width).and_then(|b| b.checked_mul(shape.hidden as u64));
                prop_assert!(bytes.is_some_and(|bytes| bytes < 1 << 48));
            }
        }
    }
}

/// As transformers reads what is not there, or was written by Python.
#[test]
fn defaults_and_numbers_of_transformers() {
    let mut config = nested()["text_config"].take();
    let keys = config.as_object_mut().unwrap();
    keys.remove("norm_topk_prob");
    assert!(read(&json!({ "model_type": "qwen3_5_moe", "text_config": keys })).unwrap().moe().unwrap().renormalise);
    keys.insert("model_type".into(), "qwen3_moe".into());
    keys.insert("rope_theta".into(), json!(1e6));
    keys.insert("rope_parameters".into(), json!({ "rope_type": "mrope", "rope_theta": 1e6 }));
    keys.insert("num_hidden_layers".into(), json!(8.0));
    let shape = read(&Value::Object(keys.clone())).unwrap();
    assert!(!shape.moe().unwrap().renormalise && shape.layers.len() == 8);
    keys.insert("num_hidden_layers".into(), json!(8.5));
    assert!(read(&Value::Object(keys.clone())).unwrap_err().to_string().contains("a whole number"));
    keys.insert("num_hidden_layers".into(), json!(8));
    keys.insert("max_position_embeddings".into(), json!(1_010_000));
    keys.insert("dual_chunk_attention_config".into(), json!({ "original_max_position_embeddings": 262_144 }));
    assert_eq!(read(&Value::Object(keys.clone())).unwrap().max_positions, 262_144);
}
