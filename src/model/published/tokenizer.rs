use serde_json::{Map, Value, json};

/// The tokens behind the bytes.
pub(super) const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// A tokenizer of 256 bytes and the chat tokens, no merges: enough to run and measure a synthetic model.
pub(super) fn byte_level() -> String {
    let mut vocab = Map::new();
    for (id, c) in byte_characters().into_iter().enumerate() {
        vocab.insert(c.to_string(), id.into());
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({ "id": 256 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] },
    })
    .to_string()
}

/// The printable character that byte-level BPE writes for each byte: itself where it is printable, else one from 256 on.
pub(super) fn byte_characters() -> Vec<char> {
    let mut next = 256;
    (0..=255u32)
        .map(|byte| {
            let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if printable {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("codes below 512 are characters")
        })
        .collect()
}
