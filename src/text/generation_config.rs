//! `generation_config.json`: the model makers' sampling defaults and the ids that end a text.

use std::path::Path;

use serde_json::Value;

use super::{SamplerOptions, TextError, Tokenizer};

/// Tokens that end a turn in ChatML, by name: some files list only one of them.
const CHATML_ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// What a checkpoint says about generating text. The default is that of a checkpoint without the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a text, as the file lists them (one number or a list).
    pub eos_token_ids: Vec<u32>,
    /// The sampling options the file gives.
    pub sampler: SamplerOptions,
}

impl GenerationConfig {
    /// Reads the text of `generation_config.json`; `path` is for error messages. Keys that mean nothing here are
    /// passed over, null counts as absent.
    pub fn from_json(path: &Path, text: &str) -> Result<Self, TextError> {
        let bad = |key, expected, found| TextError::GenerationConfig { path: path.to_path_buf(), key, expected, found };
        let json: Value =
            serde_json::from_str(text).map_err(|e| bad("the file", "JSON", format!("{} bytes: {e}", text.len())))?;
        if !json.is_object() {
            return Err(bad("the file", "a JSON object", json.to_string()));
        }
        let number = |key: &'static str| match &json[key] {
            Value::Null => Ok(None),
            // a number too large for f32 becomes infinite here and is refused where the range is checked
            Value::Number(n) => Ok(n.as_f64().map(|n| n as f32)),
            other => Err(bad(key, "a number", other.to_string())),
        };
        let do_sample = match &json["do_sample"] {
            Value::Null => None,
            Value::Bool(value) => Some(*value),
            other => return Err(bad("do_sample", "true or false", other.to_string())),
        };
        let top_k = match &json["top_k"] {
            Value::Null => None,
            other => Some(as_id(other).ok_or_else(|| bad("top_k", "a whole number from 0", other.to_string()))?),
        };
        let eos = "eos_token_id";
        let ids = match &json[eos] {
            Value::Null => &[],
            Value::Array(ids) => ids.as_slice(),
            id => std::slice::from_ref(id),
        };
        let eos_token_ids = ids
            .iter()
            .map(|id| as_id(id).ok_or_else(|| bad(eos, "a token id or a list of them", id.to_string())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            eos_token_ids,
            sampler: SamplerOptions {
                do_sample,
                temperature: number("temperature")?,
                top_k,
                top_p: number("top_p")?,
                min_p: number("min_p")?,
                presence_penalty: number("presence_penalty")?,
                frequency_penalty: number("frequency_penalty")?,
                repetition_penalty: number("repetition_penalty")?,
            },
        })
    }

    /// All ids that end a text, ascending: the file's, and the ends of a ChatML turn if the tokenizer has them.
    pub fn stop_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut ids = self.eos_token_ids.clone();
        ids.extend(CHATML_ENDS.iter().filter_map(|end| tokenizer.token_to_id(end)));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<GenerationConfig, TextError> {
        GenerationConfig::from_json(Path::new("dir/generation_config.json"), text)
    }

    #[test]
    fn number_list_or_nothing_as_eos() {
        assert_eq!(read(r#"{"eos_token_id": 7}"#).unwrap().eos_token_ids, [7]);
        assert_eq!(read(r#"{"eos_token_id": [7, 2]}"#).unwrap().eos_token_ids, [7, 2]);
        let config = read(r#"{"do_sample": true, "temperature": 1, "top_p": null, "top_k": 20, "pad_token_id": 3}"#);
        let config = config.unwrap();
        assert!(config.eos_token_ids.is_empty());
        assert_eq!(config.sampler.temperature, Some(1.0));
        assert_eq!((config.sampler.top_k, config.sampler.top_p), (Some(20), None));
    }

    #[test]
    fn wrong_values_name_file_and_key() {
        for (text, key) in [
            ("", "JSON"),
            (r#"{"top_k": 1"#, "JSON"),
            ("[]", "object"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"temperature": "0.7"}"#, "temperature"),
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"eos_token_id": [1, "x"]}"#, "eos_token_id"),
            (r#"{"eos_token_id": 4294967296}"#, "eos_token_id"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("generation_config.json") && error.contains(key), "{error}");
        }
        assert!(read(r#"{"temperature": 1e300}"#).unwrap().sampler.settings().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", value in r#"[-0-9a-z"\[\]{}.,]{0,12}"#) {
            let _ = read(&text);
            let _ = read(&format!(r#"{{"eos_token_id": {value}, "top_k": {value}}}"#));
        }
    }
}
