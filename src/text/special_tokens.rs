//! The special tokens that a chat template may name: `bos_token`, `eos_token` and so on.

use serde_json::{Map, Value};

/// Those of transformers that are one token each.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The one that is a list.
const ADDITIONAL: &str = "additional_special_tokens";

/// The tokens that `tokenizer_config.json` and `special_tokens_map.json` name. Whatever is no token there is left out:
/// what the tokenizer needs of these files is checked where it is made.
pub(super) fn special_tokens(config: Option<&str>, map: Option<&str>) -> Map<String, Value> {
    let object = |text: Option<&str>| text.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let config = object(config).unwrap_or_default();
    let map = object(map).unwrap_or_default();
    // as transformers: the map is from before the configuration listed its tokens
    let sources = if config.contains_key("added_tokens_decoder") { [&config, &map] } else { [&map, &config] };
    let mut tokens = Map::new();
    for name in NAMES {
        if let Some(token) = sources.iter().find_map(|source| source.get(name).and_then(token)) {
            tokens.insert(name.into(), token.into());
        }
    }
    if let Some(list) = sources.iter().find_map(|source| source.get(ADDITIONAL).and_then(Value::as_array)) {
        tokens.insert(ADDITIONAL.into(), list.iter().filter_map(token).collect());
    }
    tokens
}

/// A token, written as a string or as `{"content": ..}`.
fn token(value: &Value) -> Option<&str> {
    match value {
        Value::Object(token) => token.get("content")?.as_str(),
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_files_and_both_ways_of_writing() {
        let config = json!({
            "bos_token": null,
            "eos_token": {"content": "<e>", "lstrip": false},
            "pad_token": "<p>",
            "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "unk_token": 3,
        })
        .to_string();
        let map = json!({"eos_token": "<other>", "unk_token": {"content": "<u>"}, "cls_token": "<c>"}).to_string();
        let found = |config: &str| Value::from(special_tokens(Some(config), Some(&map)));
        let tokens = json!({
            "eos_token": "<other>", "unk_token": "<u>", "pad_token": "<p>", "cls_token": "<c>",
            "additional_special_tokens": ["<a>", "<b>"],
        });
        assert_eq!(found(&config), tokens);
        let listed = config.replacen('{', "{\"added_tokens_decoder\": {}, ", 1);
        assert_eq!(found(&listed)["eos_token"], "<e>");
        assert!(special_tokens(Some("["), None).is_empty());
    }
}
