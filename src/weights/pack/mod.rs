//! The native layout: one folder that opens without conversion, whose experts are one read each.
//!
//! ```text
//! OUT/manifest.json            what is in the folder, written last: a folder without it is no pack
//! OUT/resident.safetensors     every weight that is not a routed expert
//! OUT/experts/layer-000.bin    the routed experts of layer 0, and so on
//! OUT/config.json, tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja and .json,
//!     additional_chat_templates/, generation_config.json
//!                              copies of the snapshot's, where it has them; the engine reads shapes from the manifest
//! ```
//!
//! # `experts/layer-NNN.bin`
//!
//! `experts` records of `stride` bytes; expert `e` starts at byte `e * stride`. Of a record:
//!
//! | bytes | what |
//! | --- | --- |
//! | the streams of gate_up, one after the other | of gate (rows 0..I) and up (rows I..2I), row by row; where the two have different formats, the streams of gate and then those of up |
//! | the streams of down | the same for down |
//! | `bytes` .. `stride` | zeros |
//!
//! The first `bytes` bytes are exactly the image of a slot ([`SlotLayout`](crate::weights::SlotLayout)), so a record is
//! read into its slot as it stands; every stream starts at a multiple of 64 bytes. Which streams there are, and how long,
//! the format says: an affine one has codes (`rows * cols * bits / 8` bytes, each row a stream of `bits` without gaps
//! from the lowest bit of byte 0), bf16 scales and bf16 biases (`rows * cols / group * 2` bytes each), with
//! `w = scale * code + bias`; a dense one has its elements. Everything is little-endian. Formats may differ between
//! gate, up and down, and between layers. Layers without routed experts have no file.
//!
//! `stride` is `bytes` rounded up to `record_align`. That is 16384 (the page of Apple's machines) where a record
//! has a megabyte or more, so that reads may bypass the page cache everywhere; and 4096 (the page of every other one)
//! where records are small, because the padding of a small model would be a good part of the model, and one is embedded
//! in the binary.
//!
//! # `resident.safetensors`
//!
//! Tensors have the canonical names of [`names`](crate::weights::names), whatever the checkpoint called them. Vectors are
//! F32; norms are plain weights (any "1 + w" is added). A matrix `M` is `M.weight`: F32, F16 or BF16 `[rows, cols]`, or U32
//! `[rows, cols * bits / 32]` with `M.scales` and `M.biases` `[rows, cols / group]`. The file's `__metadata__` has the
//! format of each matrix under its name, in JSON as the manifest has them; where it does not, the types and shapes tell. A
//! tied `lm_head` is not there.
//!
//! # `manifest.json`
//!
//! | key | what |
//! | --- | --- |
//! | `format`, `version` | `"flashflood-pack"`, 2 (1, whose `config` had other keys, is read too) |
//! | `checksum` | xxh3-64 of the text of the manifest, in which these 16 digits are zeros; older packs have none |
//! | `config` | the `config.json` of the model, as it was |
//! | `source` | the options of the packer and a fingerprint of what it read; `calibration`, the checksum of the [calibration](crate::weights::calibration) that experts were quantised by, if any |
//! | `record_align` | see above |
//! | `resident` | `bytes` and `xxh3` (xxh3-64, 16 hexadecimal digits) of `resident.safetensors` |
//! | `files` | the same of each of the copies, by name; older packs have none |
//! | `layers` | per layer with experts: `layer`, formats `gate_up` (or, where they differ, `gate` and `up`) and `down`, `bytes`, `stride`, and `xxh3` per record: of its `bytes` |
//!
//! While a pack is being made, `progress.json` holds the checksums of what is finished, and an unfinished file ends in
//! `.part`.

mod calibrated;
mod convert;
mod error;
mod ladder;
mod load;
mod manifest;
mod opening;
mod read;
mod resident;
mod resume;
mod verify;
mod version_1;
mod write;

use std::path::{Path, PathBuf};

use super::source::WeightSource;

pub(crate) use error::PackError;
pub use ladder::{LadderStep, STEPS, ladder};
pub use manifest::Checksum;
#[cfg(any(test, fuzzing))]
pub(crate) use manifest::Manifest;
pub use manifest::PackOptions;
pub(crate) use manifest::{FileSum, SourceDescription};
pub(crate) use opening::PackFiles;
pub use read::open;
pub(crate) use read::{open_embedded, open_striped};

pub use verify::verify;
pub(crate) use write::{PackSource, PackSummary, fingerprint, write_pack};

/// Name of the manifest in the folder.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Name of the file of resident weights in the folder.
pub const RESIDENT: &str = "resident.safetensors";
/// Files of the snapshot that go along with the weights.
pub(crate) const COPIED: [&str; 7] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];
/// The folder of named chat templates, which goes along, too.
pub(crate) const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// Path of a layer's experts, relative to the folder.
pub(crate) fn layer_file(layer: usize) -> String {
    format!("experts/layer-{layer:03}.bin")
}

/// Whether the folder holds a finished pack, of whatever version.
pub fn is_pack(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

/// Whether a pack, finished or begun, may have such a file, by its path relative to the folder.
pub fn may_have(file: &Path) -> bool {
    let Some(path) = file.to_str().map(|path| path.replace('\\', "/")) else { return false };
    let whole = path.strip_suffix(".part").unwrap_or(&path);
    let is_layer = whole.strip_prefix("experts/layer-").and_then(|rest| rest.strip_suffix(".bin"));
    let is_template = whole.strip_prefix(ADDITIONAL_TEMPLATES).is_some_and(|rest| rest.ends_with(".jinja"));
    [MANIFEST, RESIDENT, "progress.json"].contains(&whole)
        || COPIED.contains(&whole)
        || is_template
        || is_layer.is_some_and(|layer| layer.parse::<u32>().is_ok())
}

/// An opened pack.
pub struct Pack {
    /// Its manifest, for messages.
    pub manifest: PathBuf,
    /// The text of the model's `config.json`.
    pub config: String,
    /// Its weights: resident ones as views of the mapped or embedded file, experts as one part each with its checksum.
    pub weights: Box<dyn WeightSource>,
    /// The layers of the model that it has records of.
    pub layers: Vec<usize>,
    /// How the pack was made.
    pub source: SourceDescription,
    /// What is held against the manifest when a model opens; none of the pack in the program.
    pub(crate) files: Option<PackFiles>,
}

/// What [`write_pack`] and [`verify()`] tell while they work, from several threads.
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
pub(crate) type Observer<'a> = dyn Fn(Progress<'_>) + Sync + 'a;
