//! `manifest.json`: what is in a pack, checked before anything else of it is believed.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PackError;
use crate::experts::SlotLayout;
use crate::formats::WeightFormat;
use crate::model::Config;

pub(super) const FORMAT: &str = "flashflood-pack";
pub(super) const VERSION: u64 = 1;

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
            if found != 0 && !WeightFormat::BITS.contains(&found) {
                let expected = "2, 3, 4, 5, 6 or 8, or 0 to keep what the source has";
                return Err(PackError::Option { option, expected, found: u16::from(found) });
            }
        }
        if !WeightFormat::GROUPS.contains(&self.group) {
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
}

impl fmt::Display for SourceDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackOptions { bits, resident_bits, group, .. } = self.options;
        let down = self.options.down();
        write!(
            f,
            "bits {bits}, down bits {down}, resident bits {resident_bits}, group {group}, from {} weights, source {}",
            self.experts, self.fingerprint
        )
    }
}

/// Length and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Length.
    pub bytes: u64,
    /// Of all its bytes.
    pub xxh3: Checksum,
}

/// The records of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecords {
    /// Where the matrices lie in a record, and how they are stored.
    pub slot: SlotLayout,
    /// Bytes from one record to the next.
    pub stride: u64,
    /// Of the first `slot.bytes` bytes of each record.
    pub xxh3: Vec<Checksum>,
}

impl LayerRecords {
    /// Length of the layer's file.
    pub fn bytes(&self) -> u64 {
        self.stride.saturating_mul(self.xxh3.len() as u64)
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// "flashflood-pack".
    pub format: String,
    /// 1.
    pub version: u64,
    /// Shapes and constants.
    pub config: Config,
    /// What the pack was made from.
    pub source: SourceDescription,
    /// Records start at multiples of this.
    pub record_align: u64,
    /// The resident file.
    pub resident: FileSum,
    /// One per layer, in order.
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
    /// Reads the text of a manifest and checks that its parts agree. `path` is for messages.
    ///
    /// # Errors
    /// Anything that is not a manifest of this version whose every value holds.
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, PackError> {
        let json = |source| PackError::Json { path: path.to_owned(), source };
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.format != FORMAT || head.version != VERSION {
            let hint = match head.version.as_u64() {
                _ if head.format != FORMAT => "this is not a flashflood pack",
                Some(found) if found > VERSION => "a newer flashflood made this pack; update, or make the pack again",
                _ => "an older flashflood made this pack; make it again with `flashflood pack`",
            };
            return Err(PackError::Version {
                path: path.to_owned(),
                expected: format!("{FORMAT} version {VERSION}"),
                found: format!("{:?} version {}", head.format, head.version),
                hint,
            });
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(json)?;
        manifest.check(path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<(), PackError> {
        let value = |key: &str, expected: String, found: String| {
            Err(PackError::Value { path: path.to_owned(), key: key.to_owned(), expected, found })
        };
        self.config.check(path).map_err(|e| PackError::Config(Box::new(e)))?;
        if self.config.norm_plus_one {
            return value("config.norm_plus_one", "false (norms of a pack are plain weights)".into(), "true".into());
        }
        if !self.record_align.is_power_of_two() || !(4096..=1 << 20).contains(&self.record_align) {
            return value("record_align", "a power of two from 4096 to 1048576".into(), self.record_align.to_string());
        }
        if self.layers.len() != self.config.layers.len() {
            return value("layers", format!("{} layers", self.config.layers.len()), self.layers.len().to_string());
        }
        for (n, layer) in self.layers.iter().enumerate() {
            let key = |field: &str| format!("layers[{n}].{field}");
            for (name, format, cols) in [
                ("gate_up", layer.slot.gate_up.format, self.config.hidden),
                ("down", layer.slot.down.format, self.config.moe_intermediate),
            ] {
                if let Err(expected) = check_format(format, cols) {
                    return value(&key(&format!("slot.{name}.format")), expected, format!("{format}"));
                }
            }
            let slot = slot_layout(&self.config, layer.slot.gate_up.format, layer.slot.down.format);
            if slot != layer.slot {
                return value(&key("slot"), format!("{slot:?}"), format!("{:?}", layer.slot));
            }
            let stride = stride(&slot, self.record_align);
            if layer.stride != stride {
                return value(&key("stride"), stride.to_string(), layer.stride.to_string());
            }
            if layer.xxh3.len() != self.config.experts {
                let expected = format!("{} checksums, one per expert", self.config.experts);
                return value(&key("xxh3"), expected, layer.xxh3.len().to_string());
            }
        }
        Ok(())
    }
}

/// The slot of one layer.
pub(super) fn slot_layout(config: &Config, gate_up: WeightFormat, down: WeightFormat) -> SlotLayout {
    SlotLayout::new(config.hidden, config.moe_intermediate, gate_up, down)
}

/// Bytes from one record to the next.
pub(super) fn stride(slot: &SlotLayout, align: u64) -> u64 {
    (slot.bytes as u64).next_multiple_of(align)
}

/// Whether `format` exists and fits rows of `cols` columns; what was expected where not.
pub(super) fn check_format(format: WeightFormat, cols: usize) -> Result<(), String> {
    if let WeightFormat::Affine { bits, group, .. } = format
        && (!WeightFormat::BITS.contains(&bits) || !WeightFormat::GROUPS.contains(&group))
    {
        return Err("affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128".into());
    }
    if !cols.is_multiple_of(format.column_multiple()) {
        return Err(format!("a format whose groups divide {cols} columns"));
    }
    Ok(())
}
