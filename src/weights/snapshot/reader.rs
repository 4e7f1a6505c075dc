//! One tensor or one quantised triple at a time, checked against the shape that the model asks for.

use super::FLOATS;
use super::quantization::{Quantization, Widths};
use crate::file_error::FileError;
use crate::weights::matrix::{Matrix, MatrixBlock, Vector};
use crate::weights::safetensors::{Dtype, Tensor, TensorSet};
use flashflood_formats::{Affine, MOST_STREAMS, WeightFormat, WeightRows};

pub(super) struct Reader<'a> {
    pub(super) tensors: &'a TensorSet,
    pub(super) quantization: Option<&'a Quantization>,
}

/// The tensors of a matrix, or of one matrix of every expert: one for each stream of the format.
pub(super) struct Tensors<'a> {
    pub(super) format: WeightFormat,
    pub(super) streams: Vec<&'a Tensor>,
}

impl<'a> Reader<'a> {
    /// A tensor that must be there.
    pub(super) fn tensor(&self, name: &str, expected: impl FnOnce() -> String) -> Result<&'a Tensor, FileError> {
        let missing = || FileError::missing(self.tensors.root(), format!("tensor `{name}`"), expected());
        self.tensors.get(name).ok_or_else(missing)
    }

    pub(super) fn wrong(&self, tensor: &Tensor, expected: String) -> FileError {
        let found = format!("{} {:?}", tensor.dtype, tensor.shape);
        FileError::new(self.tensors.path_of(tensor), format!("tensor `{}`", tensor.name), expected, found)
    }

    fn not_finite(&self, tensor: &Tensor, place: String, found: f32) -> FileError {
        let place = format!("tensor `{}`, {place}", tensor.name);
        FileError::new(self.tensors.path_of(tensor), place, "a finite number", found)
    }

    /// A small tensor as f32, in one of `shapes`.
    pub(super) fn vector(&self, name: &str, shapes: &[Vec<usize>]) -> Result<Vector, FileError> {
        let expected = || {
            let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
            format!("{FLOATS} {}", shapes.join(" or "))
        };
        let tensor = self.tensor(name, expected)?;
        let values = tensor.to_f32().filter(|_| shapes.contains(&tensor.shape));
        let values = values.ok_or_else(|| self.wrong(tensor, expected()))?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(i) => Err(self.not_finite(tensor, format!("element {i}"), values[i])),
            None => Ok(values),
        }
    }

    /// The matrix `module` of `[rows, cols]`, dense or quantised, with finite scales.
    pub(super) fn matrix(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix, FileError> {
        let Tensors { format, streams } = self.streams(module, &[], rows, cols)?;
        let block = MatrixBlock {
            rows,
            streams: std::array::from_fn(|i| streams.get(i).map(|tensor| tensor.bytes.clone()).unwrap_or_default()),
        };
        // dense weights are gigabytes that nobody has read yet: only scales are looked at
        if streams.len() > 1 {
            let bytes: [&[u8]; MOST_STREAMS] = block.streams.each_ref().map(|bytes| &bytes[..]);
            if let Some(bad) = (WeightRows { format, cols, streams: bytes }).first_not_finite() {
                return Err(self.not_finite(streams[bad.stream], format!("row {}", bad.row), bad.value));
            }
        }
        Ok(Matrix { name: streams[0].name.clone(), rows, cols, format, blocks: vec![block] })
    }

    /// The tensors of the matrix `module`, each of shape `[lead.., rows, ..]`; their data is not read.
    pub(super) fn streams(
        &self,
        module: &str,
        lead: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Tensors<'a>, FileError> {
        let codes = self.tensor(&format!("{module}.weight"), || {
            format!("{FLOATS} {:?}, or an MLX-quantised triple", shape(lead, rows, cols))
        })?;
        if codes.dtype != Dtype::U32 && self.tensors.get(&format!("{module}.scales")).is_none() {
            return self.dense(codes, &shape(lead, rows, cols));
        }
        self.affine(module, codes, lead, rows, cols)
    }

    fn affine(
        &self,
        module: &str,
        codes: &'a Tensor,
        lead: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Tensors<'a>, FileError> {
        let stream =
            |name: &str| self.tensor(&format!("{module}.{name}"), || format!("the {name} of `{}`", codes.name));
        let (scales, biases) = (stream("scales")?, stream("biases")?);
        let Some(dense) = scales.dense() else {
            return Err(self.wrong(scales, format!("scales in {FLOATS}")));
        };
        let said = self.quantization.and_then(|quantization| quantization.module(module));
        let widths = match said {
            Some(widths) => widths,
            None => widths_of_shapes(codes, scales, cols)
                .ok_or_else(|| self.wrong(codes, format!("codes of {cols} columns, packed as MLX does")))?,
        };
        let format = widths.with_scales(dense.scale_type());
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
        let group = usize::from(widths.group);
        if !cols.is_multiple_of(group) {
            return Err(self.wrong(scales, format!("groups that divide {cols} columns ({format}{source})")));
        }
        check(codes, Dtype::U32, cols * usize::from(widths.bits) / 32)?;
        check(scales, scales.dtype, cols / group)?;
        check(biases, scales.dtype, cols / group)?;
        Ok(Tensors { format, streams: vec![codes, scales, biases] })
    }

    /// `codes` as a dense matrix (or several) of `shape`.
    pub(super) fn dense(&self, codes: &'a Tensor, shape: &[usize]) -> Result<Tensors<'a>, FileError> {
        let Some(dense) = codes.dense() else {
            return Err(self.wrong(codes, format!("{FLOATS} {shape:?}, or an MLX-quantised triple")));
        };
        match codes.shape == shape {
            true => Ok(Tensors { format: WeightFormat::Dense(dense), streams: vec![codes] }),
            false => Err(self.wrong(codes, format!("{} {shape:?}", codes.dtype))),
        }
    }
}

fn shape(lead: &[usize], rows: usize, last: usize) -> Vec<usize> {
    [lead, &[rows, last]].concat()
}

/// Bits and group size, from the last dimensions alone.
fn widths_of_shapes(codes: &Tensor, scales: &Tensor, cols: usize) -> Option<Widths> {
    let words = *codes.shape.last()?;
    let groups = *scales.shape.last()?;
    let bits = Affine::BITS.into_iter().find(|&bits| cols * usize::from(bits) / 32 == words)?;
    let group = Affine::GROUPS.into_iter().find(|&group| groups.checked_mul(usize::from(group)) == Some(cols))?;
    Some(Widths { bits, group })
}
