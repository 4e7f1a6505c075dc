//! Manifests of the first version, whose `config` was a list of shapes with names of its own: read as if they held the
//! `config.json` with those shapes, so that packs of hundreds of gigabytes need not be made again. Everything else of a
//! pack is as it was.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::manifest::{Checksum, FORMAT, FileSum, LayerRecords, Manifest, SourceDescription, VERSION as NOW};
use crate::file_error::FileError;
use flashflood_formats::WeightFormat;

/// The version that is read here.
pub(super) const VERSION: u64 = 1;

/// (key of the first version, key of `config.json`).
const KEYS: [(&str, &str); 15] = [
    ("model_type", "model_type"),
    ("hidden", "hidden_size"),
    ("vocab", "vocab_size"),
    ("rms_eps", "rms_norm_eps"),
    ("max_positions", "max_position_embeddings"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"),
    ("rope_theta", "rope_theta"),
    ("experts", "num_experts"),
    ("top_k", "num_experts_per_tok"),
    ("renormalise", "norm_topk_prob"),
    ("moe_intermediate", "moe_intermediate_size"),
    ("shared_intermediate", "shared_expert_intermediate_size"),
    ("tied_embeddings", "tie_word_embeddings"),
];

/// The same for the shapes of a delta-net.
const LINEAR_KEYS: [(&str, &str); 5] = [
    ("key_heads", "linear_num_key_heads"),
    ("value_heads", "linear_num_value_heads"),
    ("key_dim", "linear_key_head_dim"),
    ("value_dim", "linear_value_head_dim"),
    ("conv_kernel", "linear_conv_kernel_dim"),
];

#[derive(Deserialize)]
struct First {
    config: Map<String, Value>,
    source: SourceDescription,
    record_align: u64,
    resident: FileSum,
    layers: Vec<FirstLayer>,
}

#[derive(Deserialize)]
struct FirstLayer {
    slot: FirstSlot,
    stride: u64,
    xxh3: Vec<Checksum>,
}

#[derive(Deserialize)]
struct FirstSlot {
    gate_up: FirstPlace,
    down: FirstPlace,
    bytes: usize,
}

#[derive(Deserialize)]
struct FirstPlace {
    format: WeightFormat,
}

/// A manifest of the first version in the form of today's. `path` is for messages.
pub(super) fn read(path: &Path, value: Value) -> Result<Manifest, FileError> {
    let first = First::deserialize(value).map_err(FileError::syntax(path, "not a manifest that can be read"))?;
    if first.config.get("norm_plus_one").and_then(Value::as_bool) == Some(true) {
        let expected = "false (norms of a pack are plain weights)";
        return Err(FileError::new(path, "config.norm_plus_one", expected, true));
    }
    let layers = first.layers.into_iter().enumerate().map(|(layer, records)| LayerRecords {
        layer,
        gate_up: Some(records.slot.gate_up.format),
        gate: None,
        up: None,
        down: records.slot.down.format,
        bytes: records.slot.bytes,
        stride: records.stride,
        xxh3: records.xxh3,
    });
    Ok(Manifest {
        format: FORMAT.to_owned(),
        version: NOW,
        checksum: None,
        config: config(&first.config),
        source: first.source,
        record_align: first.record_align,
        resident: first.resident,
        files: None,
        layers: layers.collect(),
    })
}

/// Whatever is missing is missing afterwards too, and is said by whoever reads the result.
fn config(first: &Map<String, Value>) -> Value {
    let mut config = Map::new();
    let mut copy = |from: &Map<String, Value>, keys: &[(&str, &str)]| {
        for (old, new) in keys {
            if let Some(value) = from.get(*old).filter(|value| !value.is_null()) {
                config.insert((*new).to_owned(), value.clone());
            }
        }
    };
    copy(first, &KEYS);
    if let Some(Value::Object(linear)) = first.get("linear") {
        copy(linear, &LINEAR_KEYS);
    }
    if let Some(layers) = first.get("layers") {
        config.insert("layer_types".to_owned(), layers.clone());
        config.insert("num_hidden_layers".to_owned(), json!(layers.as_array().map_or(0, Vec::len)));
    }
    let number = |key: &str| first.get(key).and_then(Value::as_f64);
    if let (Some(rotary), Some(dim)) = (number("rotary_dim"), number("head_dim")) {
        config.insert("partial_rotary_factor".to_owned(), json!(rotary / dim));
    }
    Value::Object(config)
}
