//! The `quantization` section of an MLX `config.json`: bits and group size, with overrides per module.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::prefixes;
use crate::file_error::FileError;
use crate::weights::json::{self, Keys};
use flashflood_formats::{Affine, ScaleType, WeightFormat};

/// Bits and group size of a quantised matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// 32, 64 or 128.
    pub group: u16,
}

impl Widths {
    /// With the type of its scales.
    pub(crate) fn with_scales(self, scales: ScaleType) -> WeightFormat {
        WeightFormat::Affine(Affine { bits: self.bits, group: self.group, scales })
    }
}

/// How the modules of a snapshot are quantised, as its config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// The file, for messages.
    pub path: PathBuf,
    default: Widths,
    /// By name without the release's prefix; `None`: not quantised.
    modules: HashMap<String, Option<Widths>>,
}

impl Quantization {
    /// Reads `quantization` (or `quantization_config`) of a `config.json`; `None` when there is none. `path` is for
    /// messages.
    ///
    /// # Errors
    /// Another scheme than MLX affine, and bits or group sizes that no kernel handles.
    pub(crate) fn from_json(path: &Path, text: &str) -> Result<Option<Quantization>, FileError> {
        let root = json::parse(path, text)?;
        let root = Keys::root(path, &root)?;
        let text_config = root.object("text_config")?;
        for holder in [Some(root), text_config].into_iter().flatten() {
            for key in ["quantization", "quantization_config"] {
                if let Some(section) = holder.object(key)? {
                    return Quantization::read(path, &section).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn read(path: &Path, section: &Keys<'_>) -> Result<Quantization, FileError> {
        if section.has("quant_method") && section.text("quant_method")? != Some("mlx") {
            return Err(section.value("quant_method", "MLX affine quantisation or none"));
        }
        let default = affine(section, None)?;
        let mut modules = HashMap::new();
        for (module, value) in section.iter().filter(|(module, _)| prefixes::is_text(module)) {
            let how = match value {
                Value::Bool(quantised) => quantised.then_some(default),
                _ => match section.object(module)? {
                    Some(keys) => Some(affine(&keys, Some(default))?),
                    None => None,
                },
            };
            modules.insert(prefixes::plain(module).to_owned(), how);
        }
        Ok(Quantization { path: path.to_owned(), default, modules })
    }

    /// What the config says about the module `name` (without `.weight`); `None`: that it is not quantised.
    pub(crate) fn module(&self, name: &str) -> Option<Widths> {
        self.modules.get(prefixes::plain(name)).copied().unwrap_or(Some(self.default))
    }
}

fn affine(keys: &Keys<'_>, default: Option<Widths>) -> Result<Widths, FileError> {
    if keys.text("mode")?.is_some_and(|mode| mode != "affine") {
        return Err(keys.value("mode", "\"affine\""));
    }
    let bits = match default {
        Some(default) if !keys.has("bits") => default.bits,
        _ => {
            let bits = keys.size("bits")?;
            Affine::BITS
                .into_iter()
                .find(|&known| usize::from(known) == bits)
                .ok_or_else(|| keys.value("bits", "2, 3, 4, 5, 6 or 8"))?
        }
    };
    let group = match default {
        Some(default) if !keys.has("group_size") => default.group,
        _ => {
            let group = keys.size("group_size")?;
            Affine::GROUPS
                .into_iter()
                .find(|&known| usize::from(known) == group)
                .ok_or_else(|| keys.value("group_size", "32, 64 or 128"))?
        }
    };
    Ok(Widths { bits, group })
}
