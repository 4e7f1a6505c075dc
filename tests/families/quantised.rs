//! Safetensors that other programs quantised: every method against the same weights in f32, as snapshot and as pack, and
//! models of the tools themselves against transformers.

mod layouts;

use std::fs;
use std::path::Path;

use flashflood::engine::Device;
use flashflood::model::ModelSource;
use flashflood::weights::pack::PackOptions;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{TOLERANCE, computed, largest_difference, open, run};
use layouts::{METHODS, Method, Part, Random};

/// Widths of which the last blocks of 128 are not whole.
const HIDDEN: usize = 192;
const WIDTH: usize = 320;
const VOCABULARY: usize = 64;
const EXPERTS: usize = 3;

/// Name, rows and columns of the matrices of a layer that are quantised.
fn matrices() -> Vec<(String, usize, usize)> {
    let attention = [("q", 256, HIDDEN), ("k", 128, HIDDEN), ("v", 128, HIDDEN), ("o", HIDDEN, 256)];
    let mut all: Vec<_> =
        attention.iter().map(|(name, rows, cols)| (format!("self_attn.{name}_proj"), *rows, *cols)).collect();
    for expert in 0..EXPERTS {
        for (name, rows, cols) in [("gate", WIDTH, HIDDEN), ("up", WIDTH, HIDDEN), ("down", HIDDEN, WIDTH)] {
            all.push((format!("mlp.experts.{expert}.{name}_proj"), rows, cols));
        }
    }
    all
}

fn floats(random: &mut Random, count: usize, low: f32, high: f32) -> Vec<u8> {
    (0..count).flat_map(|_| random.uniform(low, high).to_le_bytes()).collect()
}

/// A tensor: name, type, shape and bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a Qwen3-MoE of one layer whose matrices are stored by `method`, and the same in f32.
fn pair(method: Method) -> [Vec<Tensor>; 2] {
    let mut random = Random(7);
    let mut plain: Vec<Tensor> = Vec::new();
    let mut add = |name: &str, shape: &[usize], low: f32, high: f32| {
        let bytes = floats(&mut random, shape.iter().product(), low, high);
        plain.push((name.to_owned(), Dtype::F32, shape.to_vec(), bytes));
    };
    add("model.embed_tokens.weight", &[VOCABULARY, HIDDEN], -1.0, 1.0);
    add("lm_head.weight", &[VOCABULARY, HIDDEN], -0.3, 0.3);
    add("model.norm.weight", &[HIDDEN], 0.8, 1.2);
    add("model.layers.0.input_layernorm.weight", &[HIDDEN], 0.8, 1.2);
    add("model.layers.0.post_attention_layernorm.weight", &[HIDDEN], 0.8, 1.2);
    add("model.layers.0.self_attn.q_norm.weight", &[64], 0.8, 1.2);
    add("model.layers.0.self_attn.k_norm.weight", &[64], 0.8, 1.2);
    add("model.layers.0.mlp.gate.weight", &[EXPERTS, HIDDEN], -0.2, 0.2);
    let (mut quantised, mut dequantised) = (plain.clone(), plain);
    for (name, rows, cols) in matrices() {
        let (parts, weights) = method(&mut random, rows, cols);
        let module = format!("model.layers.0.{name}");
        let of_part = |(part, dtype, shape, bytes): Part| (format!("{module}.{part}"), dtype, shape, bytes);
        quantised.extend(parts.into_iter().map(of_part));
        let bytes = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        dequantised.push((format!("{module}.weight"), Dtype::F32, vec![rows, cols], bytes));
    }
    [quantised, dequantised]
}

/// The same with the experts as MLX has them: each part of a projection in one tensor of all experts.
fn stacked(tensors: &[Tensor]) -> Vec<Tensor> {
    let is_expert = |name: &str| name.contains(".experts.");
    let mut all: Vec<Tensor> = tensors.iter().filter(|tensor| !is_expert(&tensor.0)).cloned().collect();
    for (name, dtype, shape, _) in tensors.iter().filter(|tensor| tensor.0.contains(".experts.0.")) {
        let of = |expert: usize| {
            let name = name.replace(".experts.0.", &format!(".experts.{expert}."));
            &tensors.iter().find(|tensor| tensor.0 == name).unwrap().3[..]
        };
        let bytes = (0..EXPERTS).flat_map(of).copied().collect();
        all.push((name.replace(".experts.0.", ".switch_mlp."), *dtype, [&[EXPERTS], &shape[..]].concat(), bytes));
    }
    all
}

/// A snapshot; `section` is what `config.json` says about quantisation.
fn write(tensors: &[Tensor], section: Option<Value>) -> TempDir {
    let mut config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": HIDDEN,
        "intermediate_size": WIDTH, "moe_intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "num_experts": EXPERTS, "num_experts_per_tok": 2,
        "vocab_size": VOCABULARY, "norm_topk_prob": true, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 1, "hidden_act": "silu",
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    });
    if let Some(section) = section {
        let key = if section["mode"].is_string() { "quantization" } else { "quantization_config" };
        config[key] = section;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

fn json_of(section: &str) -> Value {
    serde_json::from_str(section).unwrap()
}

/// Every method: the snapshot in place on the CPU and on the GPU, and a pack that keeps its formats.
#[test]
fn every_method_computes_what_its_weights_do() {
    let tokens: Vec<u32> = (0..9).map(|i| (i * i * 5 + 3) % VOCABULARY as u32).collect();
    for (name, section, method) in METHODS {
        let [quantised, plain] = pair(method);
        let stacked = stacked(&quantised);
        let (quantised, plain) = (write(&quantised, Some(json_of(section))), write(&plain, None));
        let expected = computed(plain.path(), Device::Cpu, &tokens);
        let pack = tempfile::tempdir().unwrap();
        let source = ModelSource::open(quantised.path()).unwrap();
        let options = PackOptions { bits: 0, resident_bits: 0, ..PackOptions::default() };
        source.write_pack(Some(quantised.path()), pack.path(), &options, &|_| {}).unwrap();
        let stacked = write(&stacked, Some(json_of(section)));
        for (what, folder, device) in [
            ("stacked", &stacked, Device::Cpu),
            ("snapshot, CPU", &quantised, Device::Cpu),
            ("snapshot, GPU", &quantised, Device::Gpu),
            ("pack", &pack, Device::Cpu),
        ] {
            let found = computed(folder.path(), device, &tokens);
            let worst = largest_difference(&found.logits, &expected.logits);
            assert!(worst < TOLERANCE, "{name}, {what}: {worst}");
            assert!(found.routing == expected.routing, "{name}, {what}");
        }
    }
}

/// The tensor of the first projection, or of an expert's, whose name ends with `part`.
fn part<'a>(tensors: &'a mut [Tensor], module: &str, part: &str) -> &'a mut Tensor {
    let name = format!("model.layers.0.{module}.{part}");
    tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("no {name}"))
}

/// What opening a snapshot says that was changed, or reading its first expert.
#[test]
fn in_these_words() {
    type Change = fn(&mut Vec<Tensor>, &mut Value);
    const Q: &str = "self_attn.q_proj";
    let changes: [(&str, &str, Change); 16] = [
        ("fp8 in blocks", "no scales", |tensors, _| tensors.retain(|tensor| !tensor.0.ends_with("weight_scale_inv"))),
        ("fp8 in blocks", "scales of other blocks", |_, section| section["weight_block_size"] = json!([64, 64])),
        ("fp8 in blocks", "blocks that no kernel has", |_, section| section["weight_block_size"] = json!([128, 48])),
        ("fp8 in blocks", "a scale that is no number", |tensors, _| {
            part(tensors, Q, "weight_scale_inv").3[..2].copy_from_slice(&[0xc0, 0x7f]);
        }),
        ("fp8 in rows", "integers in place of floats", |tensors, _| part(tensors, Q, "weight").1 = Dtype::I8),
        ("mxfp4", "an exponent that is no number", |tensors, _| part(tensors, Q, "scales").3[5] = 0xff),
        ("mxfp4", "another mode", |_, section| section["mode"] = json!("mxfp6")),
        ("mxfp8", "4 bits", |_, section| section["bits"] = json!(4)),
        ("nvfp4 of compressed-tensors", "a scale of 0 to divide by", |tensors, _| {
            part(tensors, Q, "weight_global_scale").3.fill(0);
        }),
        ("gptq", "act-order", |_, section| section["desc_act"] = json!(true)),
        ("gptq", "act-order that the config does not mention", |tensors, _| part(tensors, Q, "g_idx").3.reverse()),
        ("gptq", "act-order of experts", |tensors, _| {
            part(tensors, "mlp.experts.0.down_proj", "g_idx").3.rotate_left(4);
        }),
        ("gptq", "no zero points", |tensors, _| tensors.retain(|tensor| !tensor.0.ends_with("qzeros"))),
        ("gptq", "codes of another number of columns", |tensors, _| {
            let codes = part(tensors, Q, "qweight");
            (codes.2, codes.3) = (vec![HIDDEN / 16, 256], vec![0; HIDDEN / 16 * 256 * 4]);
        }),
        ("awq", "scales of groups that no kernel has", |tensors, _| {
            let scales = part(tensors, Q, "scales");
            (scales.2, scales.3) = (vec![4, 256], vec![0; 4 * 256 * 2]);
        }),
        ("awq", "a method that is not read", |_, section| section["quant_method"] = json!("aqlm")),
    ];
    let mut text = String::new();
    for (name, what, change) in changes {
        let (_, section, method) = METHODS.into_iter().find(|(of, ..)| *of == name).unwrap();
        let ([mut tensors, _], mut section) = (pair(method), json_of(section));
        change(&mut tensors, &mut section);
        let folder = write(&tensors, Some(section));
        let error = ModelSource::open(folder.path()).err().map_or("nothing".to_owned(), |error| error.to_string());
        text += &format!("# {name}: {what}\n{}\n\n", error.replace(folder.path().to_str().unwrap(), "FOLDER"));
    }
    insta::assert_snapshot!("quantised_refused", text);
}

/// Models of `quantised/made_by_tools.py`, in the folder that FLASHFLOOD_QUANTISED names.
#[test]
#[ignore = "needs models made by the tools"]
fn made_by_tools() {
    let folder = std::env::var_os("FLASHFLOOD_QUANTISED").expect("FLASHFLOOD_QUANTISED: where the models lie");
    let mut models: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    assert!(models.len() > 15, "{models:?}");
    let worst: Vec<(String, f32)> = models.iter().map(|model| compare(model)).collect();
    println!("{worst:#?}");
    assert!(worst.iter().all(|(_, worst)| *worst < TOLERANCE), "{worst:#?}");
}

/// The largest difference of a logit, on the CPU and on the GPU, read in one go and token by token.
fn compare(model: &Path) -> (String, f32) {
    let tokens = fs::read_to_string(model.join("tokens.txt")).unwrap();
    let tokens: Vec<u32> = tokens.split_whitespace().map(|token| token.parse().unwrap()).collect();
    let expected = fs::read(model.join("logits.f32")).unwrap();
    let expected = expected.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut worst: f32 = 0.0;
    for device in [Device::Cpu, Device::Gpu] {
        let mut engine = open(model, device);
        for parts in [vec![&tokens[..]], tokens.chunks(1).collect()] {
            let found = run(&mut engine.session().unwrap(), &parts).logits;
            assert_eq!(found.len(), expected.len(), "{}", model.display());
            let differences = found.iter().zip(expected.clone()).map(|(found, expected)| (found - expected).abs());
            worst = differences.fold(worst, f32::max);
        }
    }
    (model.file_name().unwrap().to_string_lossy().into_owned(), worst)
}
