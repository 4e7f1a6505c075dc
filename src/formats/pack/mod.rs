//! The native layout: one folder that opens without conversion, whose experts are one read each.
//!
//! ```text
//! OUT/manifest.json            what is in the folder, written last: a folder without it is no pack
//! OUT/resident.safetensors     every weight that is not a routed expert
//! OUT/experts/layer-000.bin    the routed experts of layer 0, and so on
//! OUT/config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json
//!                              copies of the snapshot's, where it has them; the engine reads shapes from the manifest
//! ```
//!
//! # `experts/layer-NNN.bin`
//!
//! `experts` records of `stride` bytes; expert `e` starts at byte `e * stride`. Of a record:
//!
//! | bytes | what |
//! | --- | --- |
//! | `gate_up.codes` .. `+ rows * cols * bits / 8` | codes of gate (rows 0..I) and up (rows I..2I), row by row |
//! | `gate_up.scales` .. `+ rows * cols / group * 2` | bf16 scales, row by row |
//! | `gate_up.biases` .. the same | bf16 biases, row by row |
//! | `down.codes`, `down.scales`, `down.biases` | the same for down |
//! | `slot.bytes` .. `stride` | zeros |
//!
//! The first `slot.bytes` bytes are exactly the image of a slot ([`SlotLayout`](crate::experts::SlotLayout)), so a record
//! is read into its slot as it stands; sections start at multiples of 64 bytes. A row of codes is a stream of `bits`
//! each without gaps from the lowest bit of byte 0, and `w = scale * code + bias`. Everything is little-endian. Formats
//! may differ between gate_up and down, and between layers; an unquantised matrix has its elements in place of codes
//! and no scales or biases.
//!
//! `stride` is `slot.bytes` rounded up to `record_align`. That is 16384 (the page of Apple's machines) where a record
//! has a megabyte or more, so that reads may bypass the page cache everywhere; and 4096 (the page of every other one)
//! where records are small, because the padding of a small model would be a good part of the model, and one is embedded
//! in the binary.
//!
//! # `resident.safetensors`
//!
//! The names are this format's own, whatever the checkpoint called them; `N` counts layers from 0.
//!
//! | name | shape |
//! | --- | --- |
//! | `embed_tokens`, `lm_head` (not with tied embeddings) | `[vocab, hidden]` |
//! | `norm`, `layers.N.input_norm`, `layers.N.post_norm` | `[hidden]` |
//! | `layers.N.attention.q`, `.k`, `.v`, `.o` | as [`AttentionWeights`](crate::model::weights::AttentionWeights) |
//! | `layers.N.attention.q_norm`, `.k_norm` | `[head_dim]` |
//! | `layers.N.delta_net.qkv`, `.z`, `.b`, `.a`, `.out` | as [`DeltaNetWeights`](crate::model::weights::DeltaNetWeights) |
//! | `layers.N.delta_net.conv`, `.a_log`, `.dt_bias`, `.norm` | `[channels, kernel]`, `[v_heads]`, `[v_heads]`, `[v_dim]` |
//! | `layers.N.router` | `[experts, hidden]` |
//! | `layers.N.shared.gate`, `.up`, `.down`, `.scalar_gate` | as [`SharedExpertWeights`](crate::model::weights::SharedExpertWeights) |
//!
//! Vectors and `conv` are F32; norms are plain weights (any "1 + w" is added). A matrix `M` is `M.weight`: F32, F16 or
//! BF16 `[rows, cols]`, or U32 `[rows, cols * bits / 32]` with `M.scales` and `M.biases` `[rows, cols / group]`.
//!
//! # `manifest.json`
//!
//! | key | what |
//! | --- | --- |
//! | `format`, `version` | `"flashflood-pack"`, 1 |
//! | `config` | shapes and constants, the fields of [`Config`] |
//! | `source` | the options of the packer and a fingerprint of what it read |
//! | `record_align` | see above |
//! | `resident` | `bytes` and `xxh3` (xxh3-64, 16 hexadecimal digits) of `resident.safetensors` |
//! | `layers` | per layer `slot` (places and formats in a record), `stride`, and `xxh3` per record: of its `slot.bytes` |
//!
//! While a pack is being made, `progress.json` holds the checksums of what is finished, and an unfinished file ends in
//! `.part`.

mod convert;
mod error;
mod load;
mod manifest;
mod read;
mod resident;
mod resume;
mod verify;
mod write;

use std::path::Path;

use crate::experts::ExpertLayout;
use crate::model::{Config, ModelWeights};

pub use error::PackError;
pub use manifest::{Checksum, FileSum, LayerRecords, Manifest, PackOptions, SourceDescription};
pub use read::{open, open_embedded, open_striped};
pub use verify::{VerifyReport, verify};
pub use write::{PackSummary, write_pack};

/// Name of the manifest in the folder.
pub const MANIFEST: &str = "manifest.json";
/// Name of the file of resident weights in the folder.
pub const RESIDENT: &str = "resident.safetensors";
/// Files of the snapshot that go along with the weights.
pub const COPIED: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"];

/// Path of a layer's experts, relative to the folder.
pub fn layer_file(layer: usize) -> String {
    format!("experts/layer-{layer:03}.bin")
}

/// Whether the folder holds a finished pack, of whatever version.
pub fn is_pack(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

/// An opened pack.
#[derive(Debug)]
pub struct Pack {
    /// Shapes and constants; `norm_plus_one` is false.
    pub config: Config,
    /// Resident weights, as views of the mapped or embedded file.
    pub weights: ModelWeights,
    /// Where the experts lie: per layer one file with one part, and checksums.
    pub experts: ExpertLayout,
    /// How the pack was made.
    pub source: SourceDescription,
}

/// What [`write_pack`] and [`verify`] tell while they work, from several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// All the bytes there will be.
    Total {
        /// Bytes of resident weights and records.
        bytes: u64,
    },
    /// What an earlier run had finished.
    Resumed {
        /// Layers that are kept.
        layers: usize,
        /// Bytes that are kept.
        bytes: u64,
    },
    /// More bytes are written, or checked.
    Advanced {
        /// Since the last call.
        bytes: u64,
    },
    /// What the user should know and nothing fails of.
    Warning(&'a str),
}

/// Listens to [`Progress`].
pub type Observer<'a> = dyn Fn(Progress<'_>) + Sync + 'a;
