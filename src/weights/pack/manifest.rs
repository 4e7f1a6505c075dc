//! `manifest.json`: what is in a pack, checked before anything else of it is believed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{PackError, version_1};
use crate::file_error::FileError;
use crate::weights::layout::SlotLayout;
use flashflood_formats::{Affine, WeightFormat};

pub(super) const FORMAT: &str = "flashflood-pack";
pub(super) const VERSION: u64 = 2;

/// An xxh3-64 checksum; 16 hexadecimal digits in JSON, where not every reader keeps 64 bits of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum(pub u64);

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Checksum> for String {
    fn from(sum: Checksum) -> String {
        sum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("expected a checksum of 16 hexadecimal digits, found {text:?}"));
        }
        u64::from_str_radix(&text, 16).map(Checksum).map_err(|e| e.to_string())
    }
}

/// How a pack is quantised. Bits are 2, 3, 4, 5, 6 or 8, or 0 to keep what the source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackOptions {
    /// Bits of the experts' gate and up projections.
    pub bits: u8,
    /// Bits of the experts' down projections; as `bits` where none.
    pub down_bits: Option<u8>,
    /// Bits of the resident matrices. What the source has at no more bits stays as it is, and so do the router, the
    /// shared expert's scalar gate and the delta-net's `a` and `b`, which are small and steer everything else.
    pub resident_bits: u8,
    /// Columns that share a scale and a bias: 32, 64 or 128. Matrices whose width is no multiple of it take 64 or 32.
    pub group: u16,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions { bits: 4, down_bits: None, resident_bits: 8, group: 64 }
    }
}

impl PackOptions {
    pub(super) fn check(&self) -> Result<(), PackError> {
        let bits = [("bits", self.bits), ("down_bits", self.down()), ("resident_bits", self.resident_bits)];
        for (option, found) in bits {
            if found != 0 && !Affine::BITS.contains(&found) {
                let expected = "2, 3, 4, 5, 6 or 8, or 0 to keep what the source has";
                return Err(PackError::Option { option, expected, found: u16::from(found) });
            }
        }
        if !Affine::GROUPS.contains(&self.group) {
            return Err(PackError::Option { option: "group", expected: "32, 64 or 128", found: self.group });
        }
        Ok(())
    }

    pub(super) fn down(&self) -> u8 {
        self.down_bits.unwrap_or(self.bits)
    }
}

/// What a pack was made from, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDescription {
    /// Formats of the source's experts, for people: "bf16".
    pub experts: String,
    /// Options of the packer.
    pub options: PackOptions,
    /// Checksum of the config, the norms and a sample of the source's weights, so that an interrupted run is not
    /// resumed from another model.
    pub fingerprint: Checksum,
    /// Of the calibration that experts were quantised by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Checksum>,
}

impl fmt::Display for SourceDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackOptions { bits, resident_bits, group, .. } = self.options;
        let down = self.options.down();
        write!(
            f,
            "bits {bits}, down bits {down}, resident bits {resident_bits}, group {group}, from {} weights, source {}",
            self.experts, self.fingerprint
        )?;
        match self.calibration {
            Some(calibration) => write!(f, ", calibration {calibration}"),
            None => Ok(()),
        }
    }
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileSum {
    /// Length.
    pub bytes: u64,
    /// Of all its bytes.
    pub xxh3: Checksum,
}

/// The records of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecords {
    /// Layer of the model, counted from 0; a dense layer has no records.
    pub layer: usize,
    /// How gate and up are stored, where both are alike: they are one matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_up: Option<WeightFormat>,
    /// How gate is stored, where up is stored otherwise. Programs from before there were such packs refuse them, as they
    /// miss `gate_up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<WeightFormat>,
    /// How up is stored, where gate is stored otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<WeightFormat>,
    /// How down is stored.
    pub down: WeightFormat,
    /// Bytes of a record: the image of a slot.
    pub bytes: usize,
    /// Bytes from one record to the next.
    pub stride: u64,
    /// Of the first `bytes` bytes of each record.
    pub xxh3: Vec<Checksum>,
}

impl LayerRecords {
    /// Records of slots as `slot` is.
    pub(crate) fn new(layer: usize, slot: &SlotLayout, stride: u64, xxh3: Vec<Checksum>) -> Self {
        let apart = slot.gate_up().is_none();
        LayerRecords {
            layer,
            gate_up: (!apart).then_some(slot.gate.format),
            gate: apart.then_some(slot.gate.format),
            up: apart.then_some(slot.up.format),
            down: slot.down.format,
            bytes: slot.bytes,
            stride,
            xxh3,
        }
    }

    /// Every format that it names, by its key.
    fn named(&self) -> impl Iterator<Item = (&'static str, WeightFormat)> {
        let all = [("gate_up", self.gate_up), ("gate", self.gate), ("up", self.up), ("down", Some(self.down))];
        all.into_iter().filter_map(|(key, format)| Some((key, format?)))
    }

    /// The formats of gate, up and down, each with its key; none where the keys of gate and up contradict each other.
    pub(crate) fn formats(&self) -> Option<[(&'static str, WeightFormat); 3]> {
        let down = ("down", self.down);
        match (self.gate_up, self.gate, self.up) {
            (Some(both), None, None) => Some([("gate_up", both), ("gate_up", both), down]),
            (None, Some(gate), Some(up)) if gate != up => Some([("gate", gate), ("up", up), down]),
            _ => None,
        }
    }

    /// Length of the layer's file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.stride.saturating_mul(self.xxh3.len() as u64)
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// "flashflood-pack".
    pub format: String,
    /// 2.
    pub version: u64,
    /// Of the text of the manifest itself, in which these digits are zeros; none in packs from before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// The `config.json` of the model, as it was.
    pub config: serde_json::Value,
    /// What the pack was made from.
    pub source: SourceDescription,
    /// Records start at multiples of this.
    pub record_align: u64,
    /// The resident file.
    pub resident: FileSum,
    /// The files beside the weights, by name: tokenizer, chat template and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, FileSum>>,
    /// One per layer with routed experts, in order.
    pub layers: Vec<LayerRecords>,
}

/// What is read before the rest is believed to have the keys of this version.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: String,
    #[serde(default)]
    version: serde_json::Value,
}

impl Manifest {
    /// Reads the text of a manifest, of this version or the first. `path` is for messages. That the parts agree with the
    /// model's shapes is seen when the model asks for its weights.
    ///
    /// # Errors
    /// Anything that is not a manifest of these versions whose every value holds.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Manifest, PackError> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(FileError::syntax(path, NOT_A_MANIFEST))?;
        let head = Head::deserialize(&value).map_err(FileError::syntax(path, NOT_A_MANIFEST))?;
        let manifest = match head.version.as_u64() {
            Some(VERSION) if head.format == FORMAT => {
                Manifest::deserialize(value).map_err(FileError::syntax(path, NOT_A_MANIFEST))?
            }
            Some(version_1::VERSION) if head.format == FORMAT => version_1::read(path, value)?,
            version => return Err(unknown(path, &head, version).into()),
        };
        manifest.check(path)?;
        manifest.check_seal(path, text)?;
        Ok(manifest)
    }

    /// The text of the file, with its own checksum.
    pub(super) fn sealed(&self) -> serde_json::Result<String> {
        let unsealed = serde_json::to_string_pretty(&Manifest { checksum: Some(Checksum(0)), ..self.clone() })?;
        let sum = Checksum(xxh3_64(unsealed.as_bytes()));
        Ok(unsealed.replacen(&seal(Checksum(0)), &seal(sum), 1))
    }

    fn check_seal(&self, path: &Path, text: &str) -> Result<(), PackError> {
        let Some(expected) = self.checksum else {
            return match self.files {
                None => Ok(()),
                Some(_) => Err(FileError::missing(path, "checksum", "that of the manifest".to_owned()).into()),
            };
        };
        let found = Checksum(xxh3_64(text.replacen(&seal(expected), &seal(Checksum(0)), 1).as_bytes()));
        super::verify::compare(path, || "the manifest".into(), 0, expected, found)
    }

    fn check(&self, path: &Path) -> Result<(), FileError> {
        if !self.record_align.is_power_of_two() || !(4096..=1 << 20).contains(&self.record_align) {
            return Err(FileError::new(path, "record_align", "a power of two from 4096 to 1048576", self.record_align));
        }
        for (n, layer) in self.layers.iter().enumerate() {
            let key = |field: &str| format!("layers[{n}].{field}");
            if layer.formats().is_none() {
                let expected = "`gate_up`, or `gate` and `up` that differ";
                let found: Vec<&str> = layer.named().map(|(name, _)| name).filter(|name| *name != "down").collect();
                return Err(FileError::new(path, format!("layers[{n}]"), expected, format!("{found:?}")));
            }
            for (name, format) in layer.named() {
                if !format.is_known() {
                    return Err(FileError::new(path, key(name), KNOWN_FORMATS, format!("{format:?}")));
                }
            }
            let least = stride(layer.bytes, self.record_align);
            if layer.stride != least {
                return Err(FileError::new(path, key("stride"), least.to_string(), layer.stride));
            }
        }
        let is_ascending = self.layers.is_sorted_by(|a, b| a.layer < b.layer);
        if !is_ascending {
            let found: Vec<usize> = self.layers.iter().map(|layer| layer.layer).collect();
            return Err(FileError::new(path, "layers", "layers in ascending order", format!("{found:?}")));
        }
        Ok(())
    }
}

fn seal(sum: Checksum) -> String {
    format!("\"checksum\": \"{sum}\"")
}

/// What formats there are.
pub(super) const KNOWN_FORMATS: &str =
    "numbers, blocks, MXFP4, NVFP4, FP8, or affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128";

const NOT_A_MANIFEST: &str = "not a manifest that can be read";

fn unknown(path: &Path, head: &Head, version: Option<u64>) -> FileError {
    let hint = match version {
        _ if head.format != FORMAT => "this is not a flashflood pack",
        Some(found) if found > VERSION => "a newer flashflood made this pack; update, or make the pack again",
        _ => "an older flashflood made this pack; make it again with `flashflood pack`",
    };
    let expected = format!("{FORMAT} version {VERSION}");
    FileError::new(path, "", expected, format!("{:?} version {}", head.format, head.version)).hint(hint)
}

/// Bytes from one record of `bytes` bytes to the next.
pub(super) fn stride(bytes: usize, align: u64) -> u64 {
    (bytes as u64).checked_next_multiple_of(align).unwrap_or(u64::MAX)
}
