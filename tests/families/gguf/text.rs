//! Tokenizer, template and sampling from a GGUF file: as from the files of a snapshot.

use flashflood::model::ModelSource;
use flashflood::text::{GenerationConfig, Tokenizer};
use serde_json::Value as Json;

use super::writer::Value;
use super::*;

fn small_moe(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-moe/snapshot-8bit").join(file))
        .unwrap()
}

/// The tokenizer of a `tokenizer.json` as llama.cpp's converter writes it.
fn put_tokenizer(file: &mut GgufFile, tokenizer: &Json, pre: &str) {
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let ids = vocab.values().chain(added.iter().map(|token| &token["id"]));
    let count = ids.map(|id| id.as_u64().unwrap() as usize + 1).max().unwrap();
    // ids without a token are padded, by names that mean nothing
    let mut tokens: Vec<(String, i32)> = (0..count + 3).map(|id| (format!("[PAD{id}]"), 5)).collect();
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = (token.clone(), 1);
    }
    for token in added {
        let kind = if token["special"] == true { 3 } else { 4 };
        tokens[token["id"].as_u64().unwrap() as usize] = (token["content"].as_str().unwrap().to_owned(), kind);
    }
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    file.put("tokenizer.ggml.model", "gpt2");
    file.put("tokenizer.ggml.pre", pre);
    file.put("tokenizer.ggml.merges", Value::Texts(merges.collect()));
    file.put("tokenizer.ggml.token_type", Value::I32s(tokens.iter().map(|(_, kind)| *kind).collect()));
    file.put("tokenizer.ggml.tokens", Value::Texts(tokens.into_iter().map(|(token, _)| token).collect()));
}

/// The small MoE's tokenizer, and the same of which `<think>` is no special token, in a file.
fn with_text(pre: &str) -> (GgufFile, Json) {
    let mut tokenizer: Json = serde_json::from_str(&small_moe("tokenizer.json")).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.iter_mut().find(|token| token["content"] == "<think>").unwrap()["special"] = false.into();
    let mut file = golden("qwen3").0.gguf(Form::PLAIN);
    put_tokenizer(&mut file, &tokenizer, pre);
    (file, tokenizer)
}

fn opened(file: &GgufFile) -> ModelSource {
    let (_folder, path) = write(file);
    ModelSource::open(&path).unwrap()
}

#[test]
fn the_same_ids_as_from_tokenizer_json() {
    let (file, json) = with_text("qwen35");
    let source = opened(&file);
    let path = Path::new("tokenizer.json");
    let found = Tokenizer::from_json(path, source.text_files.tokenizer.as_deref().unwrap()).unwrap();
    let expected = Tokenizer::from_json(path, &json.to_string()).unwrap();
    assert_eq!(found.vocab_size(), expected.vocab_size());
    for id in 0..found.vocab_size() as u32 {
        assert_eq!(found.token_bytes(id), expected.token_bytes(id), "{id}");
        assert_eq!(found.is_special(id), expected.is_special(id), "{id}");
    }
    let eval = small_moe("eval.jsonl");
    let more =
        ["", "  a  b\n\n c", "<|im_start|>user\nhi<|im_end|><think>", "12345 m\u{e4}dchen e\u{0301}\u{0327} \u{1f600}"];
    for text in eval.lines().take(50).chain(more) {
        let found = found.encode(text).unwrap();
        // the release says nothing of normal forms, those of Qwen do
        let composed: String = unicode(text);
        assert_eq!(found, expected.encode(&composed).unwrap(), "{text:?}");
    }
    assert!(!found.is_special(found.token_to_id("<think>").unwrap()));
}

/// The texts here have one sequence that has a composed form.
fn unicode(text: &str) -> String {
    text.replace("e\u{0301}\u{0327}", "\u{229}\u{301}")
}

/// Marks are letters of a word in one pattern and not in the other.
#[test]
fn each_pattern_has_its_own_words() {
    let pattern = |pre: &str| {
        let text = opened(&with_text(pre).0).text_files.tokenizer.unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap().to_owned()
    };
    let released: Json = serde_json::from_str(&small_moe("tokenizer.json")).unwrap();
    let released = released["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap().to_owned();
    assert_eq!(pattern("qwen35"), released);
    assert_eq!(
        pattern("qwen2"),
        released.replace(r"[\p{L}\p{M}]", r"\p{L}").replace(r"\p{L}\p{M}\p{N}", r"\p{L}\p{N}")
    );
}

#[test]
fn templates_ends_and_sampling() {
    let (mut file, _) = with_text("qwen35");
    file.put("tokenizer.chat_template", "default {{ messages }}");
    file.put("tokenizer.chat_template.tool_use", "tools");
    file.put("tokenizer.chat_template.../x", "no file's name");
    file.put("tokenizer.ggml.eos_token_id", Value::U32(2));
    file.put("tokenizer.ggml.eot_token_id", Value::U32(0));
    file.put("tokenizer.ggml.bos_token_id", Value::U32(1));
    file.put("tokenizer.ggml.add_bos_token", Value::Bool(false));
    file.put("general.sampling.temp", Value::F32(0.5));
    file.put("general.sampling.top_k", Value::I32(20));
    file.put("general.sampling.top_p", Value::F32(0.75));
    let files = opened(&file).text_files;
    assert_eq!(files.chat_template.as_deref(), Some("default {{ messages }}"));
    assert_eq!(files.named_templates, [("tool_use".to_owned(), "tools".to_owned())]);
    let config: Json = serde_json::from_str(&files.tokenizer_config.unwrap()).unwrap();
    assert_eq!((&config["eos_token"], &config["bos_token"]), (&"<|im_end|>".into(), &"<|im_start|>".into()));
    assert_eq!(config["add_bos_token"], false);
    let generation = GenerationConfig::from_json(Path::new("x"), &files.generation_config.unwrap()).unwrap();
    assert_eq!(generation.eos_token_ids, [2, 0]);
    let sampler = generation.sampler;
    assert_eq!((sampler.do_sample, sampler.temperature), (Some(true), Some(0.5)));
    assert_eq!((sampler.top_k, sampler.top_p), (Some(20), Some(0.75)));
}

/// Token ids do without a tokenizer; text says which one there is.
#[test]
fn other_tokenizers_are_refused_by_name() {
    for (key, value, expected) in [
        ("tokenizer.ggml.pre", "llama-bpe", "`tokenizer.ggml.pre`: expected qwen2 or qwen35, found llama-bpe"),
        ("tokenizer.ggml.model", "llama", "`tokenizer.ggml.model`: expected gpt2 (byte-level BPE), found llama"),
    ] {
        let (mut file, _) = with_text("qwen2");
        file.put(key, value);
        let (_folder, path) = write(&file);
        let engine = open(&path, Device::Cpu);
        let error = engine.tokenizer().unwrap_err().to_string();
        assert_eq!(error, format!("{}: cannot use this tokenizer: {expected}", path.display()));
    }
    let engine = open(&write(&golden("qwen3").0.gguf(Form::PLAIN)).1, Device::Cpu);
    assert!(engine.tokenizer().unwrap_err().to_string().contains("tokenizer.json is missing"));
}

/// Keys that do not fit together.
#[test]
fn damaged_tokenizers_are_refused() {
    type Change = fn(&mut GgufFile);
    let changes: [(Change, &str); 4] = [
        (|file| file.remove("tokenizer.ggml.tokens"), "`tokenizer.ggml.tokens` is missing: expected the tokens"),
        (|file| file.remove("tokenizer.ggml.merges"), "`tokenizer.ggml.merges` is missing"),
        (|file| file.put("tokenizer.ggml.token_type", Value::I32s(vec![1; 3])), "kinds, one for each token, found 3"),
        (|file| file.put("tokenizer.ggml.eos_token_id", Value::U32(1 << 20)), "the id of one of"),
    ];
    for (change, expected) in changes {
        let (mut file, _) = with_text("qwen35");
        change(&mut file);
        let (_folder, path) = write(&file);
        let error = ModelSource::open(&path).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}
