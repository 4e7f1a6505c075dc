//! What `config.json` says about quantisation: MLX's bits, group size and mode with overrides per module, and of other methods
//! what the tensors themselves do not show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::prefixes;
use crate::file_error::FileError;
use crate::weights::json::{self, Keys};
use flashflood_formats::{Affine, Scaled, WeightFormat};

/// Bits and group size of a quantised matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widths {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u8,
    /// 32, 64 or 128.
    pub group: u16,
}

/// How MLX quantised a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Codes with scales and biases.
    Affine(Widths),
    /// Small floats with scales.
    Floats(Scaled),
}

/// How the modules of a snapshot are quantised, as its config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// The file, for messages.
    pub path: PathBuf,
    /// MLX's.
    default: Option<Mode>,
    /// By name without the release's prefix; `None`: not quantised.
    modules: HashMap<String, Option<Mode>>,
    /// Rows and columns that share a scale of FP8.
    pub block: [usize; 2],
    /// What GPTQ adds to its stored zero points.
    pub gptq_more: u8,
}

/// Rows and columns that share a scale where a config of FP8 does not say it.
pub(super) const BLOCK: [usize; 2] = [128, 128];

/// The methods of other programs whose tensors can be read.
const METHODS: [&str; 6] = ["fp8", "modelopt", "modelopt_fp4", "compressed-tensors", "gptq", "awq"];

impl Quantization {
    /// Reads `quantization` (or `quantization_config`) of a `config.json`; `None` when there is none. `path` is for
    /// messages.
    ///
    /// # Errors
    /// Methods, bits and group sizes that no kernel handles.
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
        let method = if section.has("quant_method") { section.text("quant_method")? } else { Some("mlx") };
        match method {
            Some("mlx") => Quantization::mlx(path, section),
            Some(method) if METHODS.contains(&method) => Quantization::other(path, section),
            _ => {
                let expected = format!("mlx, {} or none", METHODS.join(", "));
                Err(section.value("quant_method", &expected).hint(INSTEAD))
            }
        }
    }

    fn mlx(path: &Path, section: &Keys<'_>) -> Result<Quantization, FileError> {
        let default = mode(section, None)?;
        let mut modules = HashMap::new();
        for (module, value) in section.iter().filter(|(module, _)| prefixes::is_text(module)) {
            let how = match value {
                Value::Bool(quantised) => quantised.then_some(default),
                _ => match section.object(module)? {
                    Some(keys) => Some(mode(&keys, Some(default))?),
                    None => None,
                },
            };
            modules.insert(prefixes::plain(module).to_owned(), how);
        }
        Ok(Quantization { path: path.to_owned(), default: Some(default), modules, block: BLOCK, gptq_more: 1 })
    }

    /// Of methods whose tensors show the most.
    fn other(path: &Path, section: &Keys<'_>) -> Result<Quantization, FileError> {
        // columns in the order of their importance: each would need the scale of another group
        if section.flag("desc_act")? == Some(true) {
            let error = section.value("desc_act", "false: columns in their own order");
            return Err(error.hint(NO_ACT_ORDER));
        }
        let block = match section.list("weight_block_size")? {
            None => BLOCK,
            Some(list) => sizes(list)
                .ok_or_else(|| section.value("weight_block_size", "two sizes, that of columns a multiple of 32"))?,
        };
        let gptq_more = if section.text("checkpoint_format")? == Some("gptq_v2") { 0 } else { 1 };
        Ok(Quantization { path: path.to_owned(), default: None, modules: HashMap::new(), block, gptq_more })
    }

    /// Whether formats come from the config, and not from the tensors.
    pub(super) fn says_formats(&self) -> bool {
        self.default.is_some()
    }

    /// What the config says about the module `name` (without `.weight`); `None`: that it is not quantised, or nothing.
    pub(crate) fn module(&self, name: &str) -> Option<Mode> {
        self.modules.get(prefixes::plain(name)).copied().unwrap_or(self.default)
    }
}

/// What to fetch in place of columns in the order of their importance.
pub(super) const NO_ACT_ORDER: &str = "take a release without act-order, or one in GGUF, FP8 or MLX's formats";

/// What to fetch in place of what cannot be read.
const INSTEAD: &str = "take a release in GGUF, FP8, NVFP4, GPTQ, AWQ or MLX's formats, or the one in BF16";

fn sizes(list: &[Value]) -> Option<[usize; 2]> {
    let sizes: Vec<usize> = list.iter().filter_map(|size| usize::try_from(size.as_u64()?).ok()).collect();
    let pair = <[usize; 2]>::try_from(sizes).ok()?;
    (pair[0] > 0 && pair[1] > 0 && pair[1] < 1 << 15 && pair[1].is_multiple_of(32)).then_some(pair)
}

fn mode(keys: &Keys<'_>, default: Option<Mode>) -> Result<Mode, FileError> {
    let floats = match keys.text("mode")? {
        // also of a module whose default is another mode: so MLX reads it
        None | Some("affine") => {
            let default = default.map(|default| match default {
                Mode::Affine(widths) => widths,
                Mode::Floats(_) => Widths { bits: 4, group: 64 },
            });
            return affine(keys, default).map(Mode::Affine);
        }
        Some("mxfp4") => Scaled::MXFP4,
        Some("mxfp8") => Scaled::MXFP8,
        Some("nvfp4") => Scaled::NVFP4,
        Some(_) => return Err(keys.value("mode", "affine, mxfp4, mxfp8 or nvfp4").hint(INSTEAD)),
    };
    // these have one group size and width each
    let (bits, group) = (WeightFormat::Scaled(floats).stream_bytes(32)[0] / 4, usize::from(floats.group));
    for (key, only) in [("bits", bits), ("group_size", group)] {
        if keys.has(key) && keys.size(key)? != only {
            return Err(keys.value(key, &format!("{only}, as {floats} has")));
        }
    }
    Ok(Mode::Floats(floats))
}

fn affine(keys: &Keys<'_>, default: Option<Widths>) -> Result<Widths, FileError> {
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
