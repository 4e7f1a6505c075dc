//! One tensor or one quantised triple at a time, checked against the shape that the config asks for.

use crate::formats::safetensors::{Dtype, Tensor, TensorSet};
use crate::formats::{ScaleType, WeightFormat};
use crate::model::bind::BindError;
use crate::model::quantization::{Affine, Quantization};
use crate::model::weights::{Matrix, MatrixBlock, Vector};

pub(super) struct Reader<'a> {
    pub(super) tensors: &'a TensorSet,
    pub(super) quantization: Option<&'a Quantization>,
    /// Norms on disk lack the 1.
    pub(super) plus_one: bool,
}

/// The tensors of a matrix, or of one matrix of every expert.
pub(super) struct Streams<'a> {
    pub(super) format: WeightFormat,
    pub(super) codes: &'a Tensor,
    /// Scales and biases, where the format has them.
    pub(super) scales: Option<(&'a Tensor, &'a Tensor)>,
}

const FLOATS: &str = "BF16, F16 or F32";

impl<'a> Reader<'a> {
    /// A tensor that must be there.
    pub(super) fn tensor(&self, name: &str, expected: impl FnOnce() -> String) -> Result<&'a Tensor, BindError> {
        self.tensors.get(name).ok_or_else(|| BindError::Missing {
            path: self.tensors.root().to_owned(),
            tensor: name.to_owned(),
            expected: expected(),
        })
    }

    pub(super) fn wrong(&self, tensor: &Tensor, expected: String) -> BindError {
        BindError::Tensor {
            path: self.tensors.path_of(tensor).to_owned(),
            tensor: tensor.name.clone(),
            expected,
            found: format!("{} {:?}", tensor.dtype, tensor.shape),
        }
    }

    fn not_finite(&self, tensor: &Tensor, place: String, found: f32) -> BindError {
        let path = self.tensors.path_of(tensor).to_owned();
        BindError::NotFinite { path, tensor: tensor.name.clone(), place, found }
    }

    /// A small tensor as f32, in one of `shapes`.
    pub(super) fn vector(&self, name: &str, shapes: &[&[usize]]) -> Result<Vector, BindError> {
        let expected = || {
            let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
            format!("{FLOATS} {}", shapes.join(" or "))
        };
        let tensor = self.tensor(name, expected)?;
        let values = tensor.to_f32().filter(|_| shapes.contains(&&tensor.shape[..]));
        let values = values.ok_or_else(|| self.wrong(tensor, expected()))?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(i) => Err(self.not_finite(tensor, format!("element {i}"), values[i])),
            None => Ok(values),
        }
    }

    /// A norm that is `1 + w` in the model, as a plain weight.
    pub(super) fn norm(&self, name: &str, len: usize) -> Result<Vector, BindError> {
        let mut weights = self.vector(name, &[&[len]])?;
        if self.plus_one {
            weights.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(weights)
    }

    /// The matrix `module` of `[rows, cols]`, dense or quantised, with finite scales.
    pub(super) fn matrix(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix, BindError> {
        let Streams { format, codes, scales } = self.streams(module, &[], rows, cols)?;
        if let Some((scales, biases)) = scales {
            self.finite_rows(scales)?;
            self.finite_rows(biases)?;
        }
        let (scales, biases) = scales.map(|(s, b)| (s.bytes.clone(), b.bytes.clone())).unwrap_or_default();
        let block = MatrixBlock { rows, codes: codes.bytes.clone(), scales, biases };
        Ok(Matrix { name: codes.name.clone(), rows, cols, format, blocks: vec![block] })
    }

    /// The tensors of the matrix `module`, each of shape `[lead.., rows, ..]`; their data is not read.
    pub(super) fn streams(
        &self,
        module: &str,
        lead: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Streams<'a>, BindError> {
        let codes = self.tensor(&format!("{module}.weight"), || {
            format!("{FLOATS} {:?}, or an MLX-quantised triple", shape(lead, rows, cols))
        })?;
        let scales = format!("{module}.scales");
        if codes.dtype != Dtype::U32 && self.tensors.get(&scales).is_none() {
            return self.dense(codes, &shape(lead, rows, cols));
        }
        let scales = self.tensor(&scales, || format!("the scales of `{}`", codes.name))?;
        let biases = self.tensor(&format!("{module}.biases"), || format!("the biases of `{}`", codes.name))?;
        let scale_type = match scales.dtype {
            Dtype::BF16 => ScaleType::Bf16,
            Dtype::F16 => ScaleType::F16,
            Dtype::F32 => ScaleType::F32,
            _ => return Err(self.wrong(scales, format!("scales in {FLOATS}"))),
        };
        let said = self.quantization.and_then(|quantization| quantization.module(module));
        let affine = match said {
            Some(affine) => affine,
            None => affine_of_shapes(codes, scales, cols)
                .ok_or_else(|| self.wrong(codes, format!("codes of {cols} columns, packed as MLX does")))?,
        };
        let format = affine.with_scales(scale_type);
        let source = match (said, self.quantization) {
            (Some(_), Some(quantization)) => format!(", as {} says", quantization.path.display()),
            _ => String::new(),
        };
        let check = |tensor: &Tensor, dtype: Dtype, last: usize| {
            let shape = shape(lead, rows, last);
            match tensor.dtype == dtype && tensor.shape == shape {
                true => Ok(()),
                false => Err(self.wrong(tensor, format!("{dtype} {shape:?} ({format}{source})"))),
            }
        };
        let group = usize::from(affine.group);
        if !cols.is_multiple_of(group) {
            return Err(self.wrong(scales, format!("groups that divide {cols} columns ({format}{source})")));
        }
        check(codes, Dtype::U32, cols * usize::from(affine.bits) / 32)?;
        check(scales, scales.dtype, cols / group)?;
        check(biases, scales.dtype, cols / group)?;
        Ok(Streams { format, codes, scales: Some((scales, biases)) })
    }

    /// `codes` as a dense matrix (or several) of `shape`.
    pub(super) fn dense(&self, codes: &'a Tensor, shape: &[usize]) -> Result<Streams<'a>, BindError> {
        let format = match codes.dtype {
            Dtype::BF16 => WeightFormat::Bf16,
            Dtype::F16 => WeightFormat::F16,
            Dtype::F32 => WeightFormat::F32,
            _ => {
                return Err(self.wrong(codes, format!("{FLOATS} {shape:?}, or an MLX-quantised triple")));
            }
        };
        match codes.shape == shape {
            true => Ok(Streams { format, codes, scales: None }),
            false => Err(self.wrong(codes, format!("{} {shape:?}", codes.dtype))),
        }
    }

    fn finite_rows(&self, scales: &Tensor) -> Result<(), BindError> {
        match first_not_finite(scales) {
            Some((i, value)) => {
                let row = i / scales.shape.last().copied().unwrap_or(1).max(1);
                Err(self.not_finite(scales, format!("row {row}"), value))
            }
            None => Ok(()),
        }
    }
}

fn shape(lead: &[usize], rows: usize, last: usize) -> Vec<usize> {
    [lead, &[rows, last]].concat()
}

/// Bits and group size, from the last dimensions alone.
fn affine_of_shapes(codes: &Tensor, scales: &Tensor, cols: usize) -> Option<Affine> {
    let words = *codes.shape.last()?;
    let groups = *scales.shape.last()?;
    let bits = WeightFormat::BITS.into_iter().find(|&bits| cols * usize::from(bits) / 32 == words)?;
    let group = WeightFormat::GROUPS.into_iter().find(|&group| groups.checked_mul(usize::from(group)) == Some(cols))?;
    Some(Affine { bits, group })
}

/// The first NaN or infinity of a float tensor, in place: gigabytes of scales are not copied to be looked at.
fn first_not_finite(tensor: &Tensor) -> Option<(usize, f32)> {
    let pairs = || tensor.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    let found = |(i, value): (usize, f32)| (!value.is_finite()).then_some((i, value));
    match tensor.dtype {
        Dtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).enumerate().find_map(found),
        Dtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).enumerate().find_map(found),
        Dtype::F32 => {
            let words = tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            words.enumerate().find_map(found)
        }
        _ => None,
    }
}
