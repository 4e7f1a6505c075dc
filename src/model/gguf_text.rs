//! What a GGUF file says about text, as the files that a snapshot has beside its weights.

use serde_json::{Map, Value, json};

use super::text_files::TextFiles;
use crate::file_error::FileError;
use crate::weights::gguf::Metadata;

/// Kinds of tokens, by their numbers in files; 1 is an ordinary one.
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const UNUSED: usize = 5;

/// (name in `tokenizer.ggml.pre`, the pattern that cuts a text into words).
const PATTERNS: [(&str, &str); 2] = [
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// (key of `tokenizer_config.json`, key of the file).
const SPECIAL: [(&str, &str); 6] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];

/// Ids that end a text: a text, a turn, a message.
const ENDS: [&str; 3] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// (key of `generation_config.json`, key of the file).
const SAMPLING: [(&str, &str); 5] = [
    ("temperature", "general.sampling.temp"),
    ("top_k", "general.sampling.top_k"),
    ("top_p", "general.sampling.top_p"),
    ("min_p", "general.sampling.min_p"),
    ("repetition_penalty", "general.sampling.penalty_repeat"),
];

const TEMPLATE: &str = "tokenizer.chat_template";

/// Everything about text in `metadata`.
///
/// # Errors
/// Keys of other kinds than they should be. A tokenizer of a kind that is not read is no error: token ids can do without.
pub(super) fn text_files(metadata: &Metadata) -> Result<TextFiles, FileError> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    let mut files = TextFiles { inside: true, ..TextFiles::default() };
    match kind {
        None | Some("none" | "no_vocab") => {}
        Some("gpt2") => {
            let pre = metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
            match PATTERNS.iter().find(|(name, _)| *name == pre) {
                Some((_, pattern)) => files.tokenizer = Some(tokenizer(metadata, pattern)?),
                None => {
                    let known = PATTERNS.map(|(name, _)| name).join(" or ");
                    files.refused_tokenizer = Some(format!("`tokenizer.ggml.pre`: expected {known}, found {pre}"));
                }
            }
        }
        Some(other) => {
            let known = "`tokenizer.ggml.model`: expected gpt2 (byte-level BPE)";
            files.refused_tokenizer = Some(format!("{known}, found {other}"));
        }
    }
    files.tokenizer_config = Some(tokenizer_config(metadata)?);
    files.generation_config = Some(generation_config(metadata)?);
    files.chat_template = metadata.text(TEMPLATE)?.map(str::to_owned);
    let start = format!("{TEMPLATE}.");
    for key in metadata.keys_with(&start) {
        let name = &key[start.len()..];
        // a name becomes that of a file, in a pack
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if let Some(template) = metadata.text(key)?.filter(|_| is_plain && !name.is_empty()) {
            files.named_templates.push((name.to_owned(), template.to_owned()));
        }
    }
    Ok(files)
}

/// The text of a `tokenizer.json`.
fn tokenizer(metadata: &Metadata, pattern: &str) -> Result<String, FileError> {
    let (tokens_key, kinds_key) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
    let tokens = metadata.texts(tokens_key)?.ok_or_else(|| metadata.missing(tokens_key, "the tokens"))?;
    let kinds = metadata.sizes(kinds_key)?.unwrap_or_else(|| vec![1; tokens.len()]);
    if kinds.len() != tokens.len() {
        let expected = format!("{} kinds, one for each token", tokens.len());
        return Err(metadata.found(kinds_key, &expected, kinds.len()));
    }
    let merges = metadata.texts("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| metadata.missing("tokenizer.ggml.merges", "pairs of tokens"))?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.into_iter().zip(kinds).enumerate() {
        match kind {
            UNUSED => {}
            CONTROL | USER_DEFINED => added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL
            })),
            _ => {
                if let Some(other) = vocab.insert(token.to_owned(), json!(id)) {
                    let found = format!("ids {other} and {id}");
                    return Err(metadata.found(tokens_key, &format!("one id for {token:?}"), found));
                }
            }
        }
    }
    let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes.clone()] },
        "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    });
    Ok(file.to_string())
}

/// The text of a `tokenizer_config.json`.
fn tokenizer_config(metadata: &Metadata) -> Result<String, FileError> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut config = Map::new();
    for (name, key) in SPECIAL {
        let Some(id) = metadata.size(key)? else { continue };
        let Some(token) = tokens.get(id) else {
            if tokens.is_empty() {
                continue;
            }
            return Err(metadata.found(key, &format!("the id of one of {} tokens", tokens.len()), id));
        };
        config.insert(name.to_owned(), json!(token));
    }
    if let Some(flag) = metadata.flag("tokenizer.ggml.add_bos_token")? {
        config.insert("add_bos_token".to_owned(), json!(flag));
    }
    Ok(Value::Object(config).to_string())
}

/// The text of a `generation_config.json`.
fn generation_config(metadata: &Metadata) -> Result<String, FileError> {
    let mut config = Map::new();
    let mut ends = Vec::new();
    for key in ENDS {
        ends.extend(metadata.size(key)?);
    }
    ends.dedup();
    if !ends.is_empty() {
        config.insert("eos_token_id".to_owned(), json!(ends));
    }
    for (name, key) in SAMPLING {
        // top_k is a whole number, and read as one
        let value = match metadata.size(key) {
            Ok(size) => size.map(|size| json!(size)),
            Err(_) => metadata.number(key)?.map(|number| json!(number)),
        };
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
            config.insert("do_sample".to_owned(), json!(true));
        }
    }
    Ok(Value::Object(config).to_string())
}
