//! Reads and checks `tokenizer.json` before anything is built from it.
//!
//! The `tokenizers` crate can read the file itself, but it renumbers added tokens whose ids leave a gap, keeps the
//! last of two tokens with one id, indexes out of bounds on a merge that makes no token, and drops bytes that have no
//! token: all of that would turn into wrong text later. Here each is an error that names the token.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{Merges, Vocab};

use super::TextError;

/// Ids from here on are refused: the tables are indexed by id, and a damaged file must not claim gigabytes.
const ID_LIMIT: u32 = 1 << 24;

/// A checked `tokenizer.json`: byte-level BPE with every id settled.
pub(super) struct TokenizerFile {
    /// Token to id, added tokens included (so that their ids are the file's, gaps and all).
    pub(super) vocab: Vocab,
    /// Pairs in order of rank; both halves and their concatenation are in `vocab`.
    pub(super) merges: Merges,
    /// `model.ignore_merges`: a whole word that is a token is not split.
    pub(super) ignore_merges: bool,
    /// Added tokens with their ids, in the order of the ids.
    pub(super) added: Vec<(u32, AddedToken)>,
    /// The normalizer's JSON, if any.
    pub(super) normalizer: Option<Value>,
    /// The pre-tokenizer's JSON.
    pub(super) pre_tokenizer: Value,
}

#[derive(Deserialize)]
#[serde(expecting = "a tokenizer file (a JSON object)")]
struct RawFile {
    #[serde(default)]
    added_tokens: Vec<RawAddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    model: RawModel,
}

#[derive(Deserialize)]
#[serde(expecting = "a BPE model (a JSON object)")]
struct RawModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: VocabEntries,
    #[serde(default)]
    merges: Vec<RawMerge>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    ignore_merges: Option<bool>,
}

/// The vocabulary as it stands in the file: a map would hide a token listed twice.
struct VocabEntries(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for VocabEntries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = VocabEntries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabEntries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(VocabEntries(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a merge must be [\"left\", \"right\"] or \"left right\"")]
enum RawMerge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct RawAddedToken {
    id: u32,
    #[serde(flatten)]
    token: RawTokenText,
}

#[derive(Deserialize)]
struct RawTokenText {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl RawTokenText {
    fn into_added(self) -> AddedToken {
        AddedToken {
            content: self.content,
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special: self.special,
        }
    }
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, RawTokenText>,
}

impl TokenizerFile {
    /// Parses and checks `json` (the text of `origin`) and adds the tokens that only `config`
    /// (`tokenizer_config.json`: path and text) lists.
    pub(super) fn parse(origin: &Path, json: &str, config: Option<(&Path, &str)>) -> Result<Self, TextError> {
        let bad = |reason: String| TextError::Tokenizer { path: origin.to_path_buf(), reason };
        let raw: RawFile = serde_json::from_str(json).map_err(|e| bad(json_reason(json, "tokenizer", &e)))?;
        check_byte_level(&raw).map_err(bad)?;
        let pre_tokenizer = raw.pre_tokenizer.unwrap_or(Value::Null);

        let mut tokens = Tokens::default();
        for (token, id) in raw.model.vocab.0 {
            tokens.insert(token, id).map_err(bad)?;
        }
        check_alphabet(&tokens.ids).map_err(bad)?;
        let merges = check_merges(raw.model.merges, &tokens.ids).map_err(bad)?;

        let mut added: Vec<(u32, AddedToken)> = Vec::with_capacity(raw.added_tokens.len());
        for entry in raw.added_tokens {
            let token = entry.token.into_added();
            tokens.insert_added(entry.id, &token).map_err(bad)?;
            added.push((entry.id, token));
        }
        if let Some((config_origin, config_json)) = config {
            let bad = |reason: String| TextError::Tokenizer { path: config_origin.to_path_buf(), reason };
            let config: RawConfig =
                serde_json::from_str(config_json).map_err(|e| bad(json_reason(config_json, "tokenizer config", &e)))?;
            let known: HashSet<u32> = added.iter().map(|(id, _)| *id).collect();
            for (id, token) in config.added_tokens_decoder {
                let id: u32 =
                    id.parse().map_err(|_| bad(format!("added_tokens_decoder: expected ids as keys, found {id:?}")))?;
                let token = token.into_added();
                tokens.insert_added(id, &token).map_err(bad)?;
                // where both files describe a token, tokenizer.json decides whether it is special
                if !known.contains(&id) {
                    added.push((id, token));
                }
            }
        }
        added.sort_by_key(|(id, _)| *id);
        Ok(Self {
            vocab: tokens.ids,
            merges,
            ignore_merges: raw.model.ignore_merges.unwrap_or(false),
            added,
            normalizer: raw.normalizer,
            pre_tokenizer,
        })
    }
}

/// Both directions of the vocabulary while it is collected, so that a clash is seen when it is made.
#[derive(Default)]
struct Tokens {
    ids: Vocab,
    owners: HashMap<u32, String>,
}

impl Tokens {
    fn insert(&mut self, token: String, id: u32) -> Result<(), String> {
        if id >= ID_LIMIT {
            return Err(format!("id of {token:?}: expected less than {ID_LIMIT}, found {id}"));
        }
        if let Some(other) = self.owners.insert(id, token.clone()) {
            return Err(format!("id {id} belongs to both {other:?} and {token:?}"));
        }
        match self.ids.insert(token.clone(), id) {
            None => Ok(()),
            Some(other) => Err(format!("token {token:?} has both id {other} and id {id}")),
        }
    }

    fn insert_added(&mut self, id: u32, token: &AddedToken) -> Result<(), String> {
        if token.content.is_empty() {
            return Err(format!("added token {id}: expected text, found \"\""));
        }
        match self.ids.get(&token.content) {
            Some(&found) if found == id => Ok(()),
            Some(&found) => {
                Err(format!("added token {:?}: expected id {found} as listed before, found {id}", token.content))
            }
            None => self.insert(token.content.clone(), id),
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for each byte in a byte-level token: printable Latin-1 characters stand for themselves,
/// U+0100, U+0101, ... for the other bytes in order.
pub(super) fn char_of_byte(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !is_printable(b)).count();
    // at most 67 bytes are not printable, so the code stays below U+0144
    char::from_u32(0x100 + rank as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn check_byte_level(raw: &RawFile) -> Result<(), String> {
    if let Some(kind) = raw.model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(format!("model.type: expected BPE, found {kind}"));
    }
    for (key, affix) in [
        ("continuing_subword_prefix", &raw.model.continuing_subword_prefix),
        ("end_of_word_suffix", &raw.model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(format!("model.{key}: expected none in byte-level BPE, found {affix:?}"));
        }
    }
    let encodes = [&raw.pre_tokenizer, &raw.normalizer];
    if !encodes.into_iter().flatten().any(contains_byte_level) {
        return Err("pre_tokenizer: expected a ByteLevel step, found none".into());
    }
    let decoder = raw.decoder.as_ref().unwrap_or(&Value::Null);
    let kind = decoder["type"].as_str().unwrap_or("none");
    if kind != "ByteLevel" && !(kind == "Sequence" && contains_byte_level(decoder)) {
        return Err(format!("decoder: expected ByteLevel, found {kind}"));
    }
    Ok(())
}

fn contains_byte_level(step: &Value) -> bool {
    step["type"] == "ByteLevel"
        || ["pretokenizers", "normalizers", "decoders"]
            .into_iter()
            .filter_map(|key| step[key].as_array())
            .flatten()
            .any(contains_byte_level)
}

fn check_alphabet(vocab: &Vocab) -> Result<(), String> {
    for byte in 0..=u8::MAX {
        let c = char_of_byte(byte);
        if !vocab.contains_key(c.encode_utf8(&mut [0; 4]) as &str) {
            return Err(format!(
                "model.vocab: expected a token for each of the 256 bytes, found none for byte 0x{byte:02X} ({c:?})"
            ));
        }
    }
    Ok(())
}

fn check_merges(raw: Vec<RawMerge>, vocab: &Vocab) -> Result<Merges, String> {
    let mut merges = Merges::with_capacity(raw.len());
    for (rank, merge) in raw.into_iter().enumerate() {
        let (left, right) = match merge {
            RawMerge::Pair(left, right) => (left, right),
            RawMerge::Line(line) if rank == 0 && line.starts_with("#version") => continue,
            RawMerge::Line(line) => match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => (left.into(), right.into()),
                _ => {
                    return Err(format!(
                        "model.merges[{rank}]: expected two tokens and a space between, found {line:?}"
                    ));
                }
            },
        };
        for token in [&left, &right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                return Err(format!("model.merges[{rank}] ({left:?}, {right:?}): {token:?} is not in model.vocab"));
            }
        }
        merges.push((left, right));
    }
    Ok(merges)
}

/// Says in words what is wrong with a JSON text, since "EOF while parsing" tells a user little.
fn json_reason(json: &str, what: &str, error: &serde_json::Error) -> String {
    if json.trim().is_empty() {
        format!("expected a {what} in JSON, found an empty file")
    } else if error.is_eof() {
        format!("the file ends in the middle ({} bytes; is the download complete?): {error}", json.len())
    } else {
        error.to_string()
    }
}
