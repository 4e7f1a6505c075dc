//! How each method of quantisation stores a matrix: which tensors a module has, and what they say about themselves.
//!
//! | method | tensors beside or instead of `weight` |
//! | --- | --- |
//! | MLX affine | `scales`, `biases` |
//! | MLX mxfp4, mxfp8, nvfp4 | `scales` of bytes |
//! | FP8 | `weight_scale_inv` for blocks, or `weight_scale` for blocks, rows or the matrix |
//! | modelopt's NVFP4 | `weight_scale`, `weight_scale_2` |
//! | compressed-tensors' NVFP4 and MXFP4 | `weight_packed`, `weight_scale`, `weight_global_scale` |
//! | compressed-tensors' integers | `weight_packed`, `weight_scale`, `weight_zero_point` |
//! | GPTQ, AWQ | `qweight`, `scales`, `qzeros` |

use super::quantization::{BLOCK, Mode, NO_ACT_ORDER};
use super::reader::Reader;
use crate::file_error::FileError;
use crate::weights::in_memory;
use crate::weights::safetensors::{Dtype, Tensor};
use flashflood_formats::{Affine, ScaleType, Scaled, Stored, StoredScales, WeightFormat};

/// What a module's first tensor may be called.
pub(super) const FIRST: [&str; 3] = ["weight", "qweight", "weight_packed"];

/// A module's tensors in the order that `stored` takes them.
pub(super) struct Found {
    pub(super) stored: Stored,
    pub(super) names: Vec<String>,
}

impl<'a> Reader<'a> {
    /// How the module is stored whose `rows` by `cols` may be one of several; `None`: as numbers, one after the other.
    pub(super) fn stored(&self, module: &str, rows: usize, cols: usize) -> Result<Option<Found>, FileError> {
        let get = |name: &str| self.tensors.get(&format!("{module}.{name}"));
        let found = |stored: Stored, names: &[&str]| {
            Ok(Some(Found { stored, names: names.iter().map(|name| format!("{module}.{name}")).collect() }))
        };
        if let Some(codes) = get("qweight") {
            return found(self.by_columns(module, codes, rows, cols)?, &["qweight", "scales", "qzeros"]);
        }
        if let Some(packed) = get("weight_packed") {
            let scale = self.beside(module, "weight_scale", packed)?;
            if packed.dtype != Dtype::U8 {
                let zeros = get("weight_zero_point").is_some();
                let names = ["weight_packed", "weight_scale", "weight_zero_point"];
                return found(self.centred(packed, scale, zeros, cols)?, &names[..if zeros { 3 } else { 2 }]);
            }
            return match get("weight_global_scale") {
                Some(_) => {
                    let names = ["weight_packed", "weight_scale", "weight_global_scale"];
                    found(Stored::MatrixScale { divides: true }, &names)
                }
                None => found(Stored::Streams(WeightFormat::Scaled(Scaled::MXFP4)), &["weight_packed", "weight_scale"]),
            };
        }
        let weight = self.tensor(&format!("{module}.weight"), || {
            format!("{} {:?}, or a quantised matrix", super::FLOATS, [rows, cols])
        })?;
        match weight.dtype {
            Dtype::F8_E4M3 => {
                let name = ["weight_scale_inv", "weight_scale"].into_iter().find(|name| get(name).is_some());
                let name = name.unwrap_or("weight_scale_inv");
                let stored = self.fp8(weight, self.beside(module, name, weight)?, rows, cols)?;
                found(stored, &["weight", name])
            }
            Dtype::U8 => {
                self.beside(module, "weight_scale_2", weight)?;
                found(Stored::MatrixScale { divides: false }, &["weight", "weight_scale", "weight_scale_2"])
            }
            Dtype::U32 => {
                let scales = self.beside(module, "scales", weight)?;
                match scales.dtype {
                    Dtype::U8 => {
                        let format = self.mlx_floats(module, weight, scales, cols)?;
                        found(Stored::Streams(WeightFormat::Scaled(format)), &["weight", "scales"])
                    }
                    _ => found(
                        Stored::Streams(WeightFormat::Affine(self.mlx_affine(module, weight, scales, cols)?)),
                        &["weight", "scales", "biases"],
                    ),
                }
            }
            _ => Ok(None),
        }
    }

    /// The tensor `name` of a module that has `first`.
    fn beside(&self, module: &str, name: &str, first: &Tensor) -> Result<&'a Tensor, FileError> {
        let what = if name.contains("scale") { "scales" } else { name };
        self.tensor(&format!("{module}.{name}"), || format!("the {what} of `{}`", first.name))
    }

    fn scale_type(&self, scales: &Tensor) -> Result<ScaleType, FileError> {
        let dense = scales.dense().ok_or_else(|| self.wrong(scales, format!("scales in {}", super::FLOATS)))?;
        Ok(dense.scale_type())
    }

    pub(super) fn fp8(&self, weight: &Tensor, scale: &Tensor, rows: usize, cols: usize) -> Result<Stored, FileError> {
        if scale.dtype == Dtype::U8 || scale.dtype == Dtype::F8_E8M0 {
            return Ok(Stored::Streams(WeightFormat::Scaled(Scaled::MXFP8)));
        }
        let scales = self.scale_type(scale)?;
        // several matrices in one tensor have the same last dimensions
        let lead = weight.shape.len().saturating_sub(2);
        let own = scale.shape.get(lead.min(scale.shape.len())..).unwrap_or_default();
        let [block_rows, block_cols] = self.quantization.map_or(BLOCK, |quantization| quantization.block);
        match own {
            [] | [1] | [1, 1] if rows > 1 => Ok(Stored::SharedScales { format: Scaled::fp8(0, scales), rows: None }),
            [all, 1] if *all == rows => Ok(Stored::Streams(WeightFormat::Scaled(Scaled::fp8(0, scales)))),
            [high, wide] if [*high, *wide] == [rows.div_ceil(block_rows), cols.div_ceil(block_cols)] => {
                #[expect(clippy::cast_possible_truncation, reason = "the config's reader keeps it below 2^15")]
                let format = Scaled::fp8(block_cols as u16, scales);
                Ok(Stored::SharedScales { format, rows: Some(block_rows) })
            }
            _ => {
                let blocks = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
                let expected = format!("a scale for each {block_rows} x {block_cols} ({blocks:?}), row, or one");
                Err(self.wrong(scale, expected))
            }
        }
    }

    fn mlx_floats(&self, module: &str, codes: &Tensor, scales: &Tensor, cols: usize) -> Result<Scaled, FileError> {
        if let Some(Mode::Floats(said)) = self.quantization.and_then(|quantization| quantization.module(module)) {
            return Ok(said);
        }
        let (words, groups) = (codes.shape.last(), scales.shape.last());
        let fits = |format: &Scaled| {
            let [numbers, scales, _] = WeightFormat::Scaled(*format).stream_bytes(cols);
            words == Some(&(numbers / 4)) && groups == Some(&scales)
        };
        let known = [Scaled::MXFP4, Scaled::MXFP8, Scaled::NVFP4].into_iter().find(fits);
        known.ok_or_else(|| self.wrong(scales, format!("scales of MXFP4, MXFP8 or NVFP4 for {cols} columns")))
    }

    fn mlx_affine(&self, module: &str, codes: &Tensor, scales: &Tensor, cols: usize) -> Result<Affine, FileError> {
        let scale_type = self.scale_type(scales)?;
        match self.quantization.and_then(|quantization| quantization.module(module)) {
            Some(Mode::Affine(widths)) => Ok(Affine { bits: widths.bits, group: widths.group, scales: scale_type }),
            Some(Mode::Floats(floats)) => Err(self.wrong(scales, format!("U8, the scales of {floats}{}", self.said()))),
            None => {
                let bits = codes.shape.last().and_then(|words| bits_of(*words, cols, &Affine::BITS));
                let group = scales.shape.last().and_then(|groups| group_of(*groups, cols));
                match (bits, group) {
                    (Some(bits), Some(group)) => Ok(Affine { bits, group, scales: scale_type }),
                    _ => Err(self.wrong(codes, format!("codes of {cols} columns, packed as MLX does"))),
                }
            }
        }
    }

    /// Integers of compressed-tensors, `[rows, words]`.
    fn centred(&self, packed: &Tensor, scale: &Tensor, zeros: bool, cols: usize) -> Result<Stored, FileError> {
        let bits = packed.shape.last().and_then(|words| bits_of(*words, cols, &[4, 8]));
        let bits = bits.ok_or_else(|| self.wrong(packed, format!("codes of 4 or 8 bits for {cols} columns")))?;
        let (group, scales) = self.groups(scale, scale.shape.last().copied().unwrap_or(0), cols)?;
        // half of the codes times a scale is exact; another zero point times it is not
        let number = if zeros { ScaleType::F32 } else { scales.number };
        Ok(Stored::Centred { format: Affine { bits, group, scales: number }, scales, zeros })
    }

    /// GPTQ and AWQ, whose codes are `[columns, rows]`.
    fn by_columns(&self, module: &str, codes: &Tensor, rows: usize, cols: usize) -> Result<Stored, FileError> {
        let scales = self.beside(module, "scales", codes)?;
        let high = |tensor: &Tensor| tensor.shape.len().checked_sub(2).map_or(0, |i| tensor.shape[i]);
        let (group, scales) = self.groups(scales, high(scales), cols)?;
        let format = |bits: u8| Affine { bits, group, scales: ScaleType::F32 };
        if codes.shape.last() == Some(&(rows / 8)) && high(codes) == cols {
            return Ok(Stored::Awq { format: format(4), scales });
        }
        let bits = bits_of(high(codes), cols, &[2, 4, 8]);
        let bits = bits.ok_or_else(|| self.wrong(codes, format!("codes of 2, 4 or 8 bits for {cols} columns")))?;
        let more = self.quantization.map_or(1, |quantization| quantization.gptq_more);
        Ok(Stored::Gptq { format: format(bits), scales, more })
    }

    /// The group size that kernels have for `count` scales of a row, and how the file's relate to it.
    fn groups(&self, scales: &Tensor, count: usize, cols: usize) -> Result<(u16, StoredScales), FileError> {
        let number = self.scale_type(scales)?;
        let stored = cols.checked_div(count).filter(|stored| stored * count == cols);
        let fits = stored.and_then(|stored| {
            let group = Affine::GROUPS.into_iter().rev().find(|group| stored.is_multiple_of(usize::from(*group)))?;
            Some((group, StoredScales { number, groups: stored / usize::from(group) }))
        });
        fits.ok_or_else(|| self.wrong(scales, format!("scales for groups of a multiple of 32 of {cols} columns")))
    }

    /// Whether the columns of the module are in their own order. Configs say so too, but those of some releases lie in a
    /// file of their own, or do not mention it.
    pub(super) fn check_order(&self, module: &str) -> Result<(), FileError> {
        let found = ["g_idx", "weight_g_idx"].iter().find_map(|name| self.tensors.get(&format!("{module}.{name}")));
        let Some(tensor) = found else { return Ok(()) };
        let bytes = in_memory(&tensor.bytes)?;
        let groups = bytes.as_chunks::<4>().0;
        if groups.iter().map(|group| i32::from_le_bytes(*group)).is_sorted() {
            return Ok(());
        }
        Err(self.wrong(tensor, "groups of columns in their own order".to_owned()).hint(NO_ACT_ORDER))
    }

    /// Where the config says what was expected.
    pub(super) fn said(&self) -> String {
        let says = self.quantization.filter(|quantization| quantization.says_formats());
        says.map_or_else(String::new, |quantization| format!(", as {} says", quantization.path.display()))
    }
}

fn bits_of(words: usize, cols: usize, among: &[u8]) -> Option<u8> {
    among.iter().copied().find(|bits| cols * usize::from(*bits) == words * 32)
}

fn group_of(groups: usize, cols: usize) -> Option<u16> {
    Affine::GROUPS.into_iter().find(|group| groups.checked_mul(usize::from(*group)) == Some(cols))
}
