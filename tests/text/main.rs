//! Tokenizer, chat template and stop ids together, on the small MoE's files and on files damaged in every way we could think of.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod chat;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flashflood::text::{GenerationConfig, TextError, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn small_moe(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-moe/snapshot-8bit").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(small_moe(file)).unwrap()
}

static SMALL_MOE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let (path, config) = (small_moe("tokenizer.json"), small_moe("tokenizer_config.json"));
    let json = read("tokenizer.json");
    let config_json = read("tokenizer_config.json");
    Tokenizer::from_json_with_config(&path, &json, Some((&config, &config_json))).unwrap()
});

/// The same file as the crate's own reader and decoder see it.
static REFERENCE: LazyLock<tokenizers::Tokenizer> =
    LazyLock::new(|| tokenizers::Tokenizer::from_file(small_moe("tokenizer.json")).unwrap());

/// A tokenizer in Qwen3.5's form: 256 bytes, a few merges, and added tokens with a gap before the last.
fn tiny() -> Value {
    let printable = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut alphabet: Vec<char> = (0..256).filter(printable).filter_map(char::from_u32).collect();
    alphabet.extend((0x100..0x144).filter_map(char::from_u32));
    assert_eq!(alphabet.len(), 256);
    let mut vocab: Vec<String> = alphabet.into_iter().map(String::from).collect();
    vocab.extend(["he", "ll", "hell", "hello", "Ġa", "ðŁ", "Ġ1"].map(String::from));
    let vocab: Map<String, Value> = vocab.into_iter().zip(0..).map(|(t, id)| (t, id.into())).collect();
    let added = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(263, "<|endoftext|>", true), added(264, "<|im_start|>", true), added(265, "<|im_end|>", true), added(266, "<think>", false), added(267, "</think>", false), added(300, "<é last>", false)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "a"], ["ð", "Ł"], ["Ġ", "1"]]},
    })
}

fn load(json: &Value) -> Result<Tokenizer, TextError> {
    Tokenizer::from_json(Path::new("dir/tokenizer.json"), &json.to_string())
}

#[test]
fn golden_texts_have_the_golden_ids() {
    let golden: Value = serde_json::from_str(&read("golden.json")).unwrap();
    let bytes = std::fs::read(small_moe("golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let prompts = golden["prompts"].as_array().unwrap();
    for (n, prompt) in prompts.iter().enumerate() {
        let text = prompt["text"].as_str().unwrap();
        let tensor = tensors.tensor(&format!("{n}.tokens")).unwrap();
        let expected: Vec<u32> =
            tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(SMALL_MOE.encode(text).unwrap(), expected, "{text}");
        assert_eq!(SMALL_MOE.decode(&expected, false), text);
    }
    assert!(!prompts.is_empty());
}

#[test]
fn special_tokens_are_hidden_and_others_are_text() {
    let tokenizer = load(&tiny()).unwrap();
    let text = "<|im_start|>hello<think> a</think><|im_end|>";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(ids, [264, 259, 266, 260, 267, 265]);
    assert_eq!(tokenizer.decode(&ids, true), "hello<think> a</think>");
    assert_eq!(tokenizer.decode(&ids, false), text);
    assert!(tokenizer.is_special(265) && !tokenizer.is_special(266) && !tokenizer.is_special(9999));
}

#[test]
fn ids_are_the_files_even_over_a_gap() {
    let tokenizer = load(&tiny()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 301);
    assert_eq!(tokenizer.token_to_id("<é last>"), Some(300));
    assert_eq!(tokenizer.encode("x<é last>").unwrap().last(), Some(&300));
    // not spelled in bytes, although é stands for a byte elsewhere
    assert_eq!(tokenizer.decode(&[300], true), "<é last>");
    // an id in the gap, and one beyond the end
    assert_eq!(tokenizer.decode(&[280, 259, 301], false), "\u{FFFD}hello\u{FFFD}");
}

#[test]
fn nothing_is_added_cut_or_lost() {
    let tokenizer = load(&tiny()).unwrap();
    assert!(tokenizer.encode("").unwrap().is_empty());
    // the file's truncation to 4 tokens does not count
    assert_eq!(tokenizer.encode("12345678").unwrap().len(), 8);
    // NFC: e and a combining acute become é
    assert_eq!(tokenizer.encode("e\u{301}").unwrap(), tokenizer.encode("é").unwrap());
    // a run of blanks far longer than a regex engine likes to backtrack over
    let blanks = format!("a{}1", " ".repeat(300_000));
    let ids = tokenizer.encode(&blanks).unwrap();
    // the digit stands alone, although there is a merge of blank and 1: the pattern has split the text to its end
    assert_eq!(ids.len(), 300_002);
    assert_eq!(tokenizer.decode(&ids, false), blanks);
    // beyond a million the engine gives up, and the rest would be cut into the wrong tokens
    let text = format!("x{}1 1", " ".repeat(1_100_000));
    let error = tokenizer.encode(&text).unwrap_err().to_string();
    assert!(error.contains("dir/tokenizer.json") && error.contains("at byte 1,"), "{error}");
}

#[test]
fn tokens_of_the_config_are_added() {
    let config = json!({"added_tokens_decoder": {
        "263": {"content": "<|endoftext|>", "special": true},
        "266": {"content": "<think>", "special": true},
        "268": {"content": "<|audio_start|>", "special": true},
        "302": {"content": "<tts_pad>", "special": false, "lstrip": false},
    }});
    let json = tiny().to_string();
    let origin = Path::new("dir/tokenizer_config.json");
    let load = |config: String| {
        Tokenizer::from_json_with_config(Path::new("dir/tokenizer.json"), &json, Some((origin, &config)))
    };
    let tokenizer = load(config.to_string()).unwrap();
    assert_eq!(tokenizer.encode("<|audio_start|><tts_pad>").unwrap(), [268, 302]);
    assert!(tokenizer.is_special(268) && !tokenizer.is_special(302));
    assert!(!tokenizer.is_special(266), "tokenizer.json decides");
    assert_eq!(tokenizer.vocab_size(), 303);
    for bad in [
        json!({"added_tokens_decoder": {"264": {"content": "<other>"}}}),
        json!({"added_tokens_decoder": {"400": {"content": "<think>"}}}),
        json!({"added_tokens_decoder": {"x": {"content": "<y>"}}}),
        json!({"added_tokens_decoder": 3}),
    ] {
        let error = load(bad.to_string()).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
    assert!(load(String::new()).is_err());
}

#[test]
fn damaged_tokenizers_are_refused_with_path_and_reason() {
    type Damage = fn(&mut Value);
    let damages: [(Damage, &str); 16] = [
        (|t| *t = json!([]), "tokenizer file"),
        (|t| *t = json!({}), "model"),
        (|t| t["model"]["type"] = "WordPiece".into(), "WordPiece"),
        (|t| t["model"]["vocab"] = json!({}), "byte 0x00"),
        (|t| t["model"]["vocab"]["hello"] = json!(-1), "-1"),
        (|t| t["model"]["vocab"]["hello"] = json!("x"), "u32"),
        (|t| t["model"]["vocab"]["hello"] = json!(258), "\"hell\""),
        (|t| t["model"]["vocab"]["hello"] = json!(4_000_000_000u32), "4000000000"),
        (|t| t["model"]["merges"][1] = json!(["l", "zz"]), "merges[1]"),
        // a merge that makes no token, longer than every token
        (|t| t["model"]["merges"][1] = json!(["hello", "hello"]), "hellohello"),
        (|t| t["model"]["merges"][1] = json!("a b c"), "merges[1]"),
        (|t| t["model"]["merges"][1] = json!(7), "merge"),
        (|t| t["added_tokens"][0]["id"] = json!(264), "<|im_start|>"),
        (|t| t["added_tokens"][0]["content"] = json!(""), "added token 263"),
        (|t| t["decoder"]["type"] = json!("Metaspace"), "Metaspace"),
        (|t| t["pre_tokenizer"] = Value::Null, "ByteLevel"),
    ];
    for (damage, reason) in damages {
        let mut json = tiny();
        damage(&mut json);
        let error = load(&json).unwrap_err().to_string();
        assert!(error.starts_with("dir/tokenizer.json: ") && error.contains(reason), "{reason}: {error}");
    }
    let text = tiny().to_string();
    for (json, reason) in
        [("", "empty"), ("  \n", "empty"), (&text[..text.len() / 2], "ends in the middle"), ("hello", "expected")]
    {
        let error = Tokenizer::from_json(Path::new("dir/tokenizer.json"), json).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut regex = tiny();
    regex["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(".into();
    assert!(load(&regex).unwrap_err().to_string().contains("pre_tokenizer"));
}

#[test]
fn merges_may_be_lines() {
    let mut json = tiny();
    json["model"]["merges"] = json!(["#version: 0.2", "h e", "l l", "he ll", "hell o", "Ġ a", "ð Ł", "Ġ 1"]);
    assert_eq!(load(&json).unwrap().encode("hello a").unwrap(), [259, 260]);
}

#[test]
fn characters_are_never_split() {
    let tokenizer = load(&tiny()).unwrap();
    let text = "😀é̂ 👩‍👩‍👧 日本";
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.len() > text.chars().count());
    let mut stream = tokenizer.stream(true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert!(pieces.iter().any(String::is_empty) && pieces.iter().all(|p| !p.contains('\u{FFFD}')));
    // the emoji is whole where its last byte comes
    assert_eq!(pieces.iter().find(|p| !p.is_empty()).unwrap(), "😀");
    assert_eq!(pieces.concat(), tokenizer.decode(&ids, true));
    assert_eq!(stream.finish(), "");
    // a text that ends inside the emoji
    assert_eq!(stream.push(ids[0]), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn stop_ids_join_the_file_and_chatml() {
    let path = small_moe("generation_config.json");
    let config = GenerationConfig::from_json(&path, &read("generation_config.json")).unwrap();
    assert_eq!(config.stop_ids(&SMALL_MOE), [0, 2]);
    let settings = config.sampler.settings().unwrap();
    assert_eq!((settings.temperature, settings.top_k, settings.top_p), (0.7, 20, 0.95));
    assert_eq!(settings.candidates_needed(), Some(20));
    let none = GenerationConfig::default();
    assert_eq!(none.stop_ids(&load(&tiny()).unwrap()), [263, 265]);
    assert!(none.sampler.settings().unwrap().is_greedy());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_survives_the_round_trip(text in "(\\PC|[\\s<>|]|<think>|😀|e\u{301}|<\\|im_end\\|>){0,60}") {
        let ids = SMALL_MOE.encode(&text).unwrap();
        prop_assert_eq!(SMALL_MOE.decode(&ids, false), text.as_str());
        prop_assert!(ids.iter().all(|&id| (id as usize) < SMALL_MOE.vocab_size()));
        let reference = REFERENCE.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(ids.as_slice(), reference.get_ids());
    }

    /// The pieces are the whole text, for any ids, however they cut the bytes.
    #[test]
    fn streamed_text_is_the_whole_text(ids in prop::collection::vec(0u32..1600, 0..80), skip: bool) {
        let mut stream = SMALL_MOE.stream(skip);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(text.as_str(), SMALL_MOE.decode(&ids, skip));
        let known: Vec<u32> = ids.into_iter().filter(|&id| (id as usize) < SMALL_MOE.vocab_size()).collect();
        prop_assert_eq!(SMALL_MOE.decode(&known, skip), REFERENCE.decode(&known, skip).unwrap());
    }

    /// Any ids of single bytes and pieces of characters: each piece is final, none is given back.
    #[test]
    fn bytes_in_any_order_are_decoded_lossily(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x98)], 0..60)) {
        let tokenizer = &*SMALL_MOE;
        let id_of_byte: Vec<u32> = (0..=255u8).map(|b| {
            (0..tokenizer.vocab_size() as u32).find(|&id| tokenizer.token_bytes(id) == Some(&[b][..])).unwrap()
        }).collect();
        let ids: Vec<u32> = bytes.iter().map(|&b| id_of_byte[b as usize]).collect();
        prop_assert_eq!(tokenizer.decode(&ids, false), String::from_utf8_lossy(&bytes));
    }

    /// A damaged file is refused or works; it never panics or hangs.
    #[test]
    fn damaged_tokenizer_json_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, any::<prop::sample::Index>()), 1..4), cut in prop::option::of(any::<prop::sample::Index>())) {
        const SNIPPETS: [&str; 12] = ["0", "-1", "null", "\"\"", "[]", "{}", "1e400", "\"hello\"", ",", "99999999999", "\"ByteLevel\"", "true"];
        let mut text: Vec<char> = tiny().to_string().chars().collect();
        for (at, length, with) in edits {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, SNIPPETS[with.index(SNIPPETS.len())].chars());
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        let json: String = text.into_iter().collect();
        if let Ok(tokenizer) = Tokenizer::from_json(Path::new("t"), &json) {
            let _ = tokenizer.encode("hello <think> 1é").map(|ids| tokenizer.decode(&ids, true));
        }
    }

    /// As above, where a whole value is replaced, so that the file is still JSON.
    #[test]
    fn wrong_values_in_tokenizer_json_never_panic(
        pointer in prop::sample::select(vec!["/added_tokens", "/added_tokens/0", "/added_tokens/0/id", "/added_tokens/1/content", "/normalizer", "/normalizer/type", "/pre_tokenizer", "/pre_tokenizer/pretokenizers/0", "/pre_tokenizer/pretokenizers/0/pattern", "/pre_tokenizer/pretokenizers/0/pattern/Regex", "/pre_tokenizer/pretokenizers/0/behavior", "/decoder", "/model", "/model/vocab", "/model/vocab/h", "/model/vocab/hello", "/model/merges", "/model/merges/0", "/model/merges/0/0", "/model/merges/3/1", "/model/continuing_subword_prefix", "/model/dropout", "/model/ignore_merges"]),
        value in prop::sample::select(vec![json!(null), json!(0), json!(-5), json!(1e300), json!(16_777_215), json!("h"), json!("NFKC"), json!("(?:a*)*b"), json!(""), json!([]), json!(["h", "e"]), json!({}), json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}), json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}), json!({"type": "Sequence", "pretokenizers": []}), json!(true)]),
    ) {
        let mut json = tiny();
        *json.pointer_mut(pointer).unwrap() = value;
        if let Ok(tokenizer) = load(&json) {
            let _ = tokenizer.encode("hello <think> 1é").map(|ids| tokenizer.decode(&ids, true));
        }
    }
}
