//! The families of models, one file each, named after `model_type`: which keys of `config.json` they have, the shape that
//! follows, what their releases call the tensors, and what a token does.
//!
//! A new family is a file here and a row in [`FAMILIES`].

mod gguf_keys;
mod keys;
mod mixtral;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod scaled_rope;
mod tensor_names;

use std::path::Path;

use serde_json::Value;

use super::recorder::{RecordError, Recorder};
use super::rope_scaling::RopeScaling;
use super::shape::Shape;
use crate::file_error::FileError;
use crate::weights::Keys;
use crate::weights::gguf::{Gguf, GgufNames};
use crate::weights::names::Names;
use gguf_keys::{GgufFamily, GgufKeys};
use keys::ConfigKeys;

pub(super) use gguf_keys::GgufConfig;

/// A model of a family, from its configuration.
pub(crate) trait Model: Send + Sync {
    /// Sizes, and what kinds of layers it has.
    fn shape(&self) -> Shape;

    /// What releases call its tensors.
    fn names(&self) -> Names;

    /// What its GGUF files do with its tensors.
    fn gguf_names(&self) -> GgufNames;

    /// What a token does, from its embedding to its logits.
    fn forward(&self, r: &mut Recorder<'_>) -> Result<(), RecordError>;
}

/// A family: its names in `config.json` and in GGUF files, and how one is read.
struct Family {
    /// `model_type`, of the whole model and of its text part.
    model_types: &'static [&'static str],
    gguf: GgufFamily,
    read: fn(&ConfigKeys<'_>) -> Result<Box<dyn Model>, FileError>,
}

const FAMILIES: [Family; 6] = [
    Family { model_types: &["qwen3_5_moe", "qwen3_5_moe_text"], gguf: qwen3_5_moe::GGUF, read: qwen3_5_moe::read },
    Family { model_types: &["qwen3_next"], gguf: qwen3_next::GGUF, read: qwen3_next::read },
    Family { model_types: &["qwen3_moe"], gguf: qwen3_moe::GGUF, read: qwen3_moe::read },
    Family { model_types: &["qwen3_5", "qwen3_5_text"], gguf: qwen3_5::GGUF, read: qwen3_5::read },
    Family { model_types: &["qwen3"], gguf: qwen3::GGUF, read: qwen3::read },
    Family { model_types: &["mixtral"], gguf: mixtral::GGUF, read: mixtral::read },
];

/// Reads the text of a `config.json`, nested (`text_config`) or flat. `path` is for messages.
///
/// # Errors
/// Text that is not JSON, an unknown `model_type`, a missing key, and every value that no model has or no kernel can
/// compute with; each names the file, the key, what was expected and what was found.
pub(crate) fn read(path: &Path, text: &str) -> Result<Box<dyn Model>, FileError> {
    read_with(path, text, RopeScaling::Auto)
}

/// As [`read`], with rotary positions stretched as `rope` says.
///
/// # Errors
/// As [`read`].
pub(super) fn read_with(path: &Path, text: &str, rope: RopeScaling) -> Result<Box<dyn Model>, FileError> {
    let value: Value = serde_json::from_str(text).map_err(FileError::syntax(path, "not valid JSON"))?;
    let root = Keys::root(path, &value)?;
    let text = root.object("text_config")?.unwrap_or_else(|| root.clone());
    let holder = if text.has("model_type") { &text } else { &root };
    let known = || FAMILIES.iter().flat_map(|family| family.model_types).copied().collect::<Vec<_>>().join(", ");
    let Some(found) = holder.text("model_type")? else {
        return Err(holder.missing("model_type", &format!("one of {}", known())));
    };
    match FAMILIES.iter().find(|family| family.model_types.contains(&found)) {
        Some(family) => (family.read)(&ConfigKeys { root, text, rope }),
        None => {
            let found: String = found.chars().take(80).collect();
            Err(holder.found("model_type", &format!("one of {}", known()), found))
        }
    }
}

/// The `config.json` of the model in a GGUF file.
///
/// # Errors
/// An architecture of no family, keys that are missing, and those whose values would change what is computed.
pub(super) fn gguf_config(gguf: &Gguf) -> Result<GgufConfig, FileError> {
    let (metadata, key) = (gguf.metadata(), "general.architecture");
    let known = || FAMILIES.iter().map(|family| family.gguf.architecture).collect::<Vec<_>>().join(", ");
    let Some(found) = metadata.text(key)? else {
        return Err(metadata.missing(key, &format!("one of {}", known())));
    };
    match FAMILIES.iter().find(|family| family.gguf.architecture == found) {
        Some(family) => {
            let mut keys = GgufKeys::new(gguf, found);
            (family.gguf.config)(&mut keys)?;
            Ok(keys.finish())
        }
        None => {
            let found: String = found.chars().take(80).collect();
            Err(metadata.found(key, &format!("one of {}", known()), found))
        }
    }
}

/// What GGUF files call the family of this name.
pub(super) fn gguf_architecture(model_type: &str) -> &'static str {
    let family = FAMILIES.iter().find(|family| family.model_types.contains(&model_type));
    family.map_or("unknown", |family| family.gguf.architecture)
}

/// The sizes in the text of a `config.json`. `path` is for messages.
///
/// # Errors
/// A configuration that no family reads: see [`ModelSource::open`](super::ModelSource::open).
pub fn shape_of_config(path: &Path, text: &str) -> Result<Shape, FileError> {
    Ok(read(path, text)?.shape())
}

#[cfg(test)]
mod tests;
