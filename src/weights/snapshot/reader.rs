//! One tensor or one quantised matrix at a time, checked against the shape that the model asks for.

use bytes::Bytes;

use super::FLOATS;
use super::quantization::Quantization;
use super::stored::{FIRST, Found};
use crate::file_error::FileError;
use crate::weights::in_memory;
use crate::weights::matrix::{Matrix, MatrixBlock, Vector};
use crate::weights::read_mapped::StreamBuffers;
use crate::weights::safetensors::{Dtype, Tensor, TensorSet};
use flashflood_formats::{MOST_STREAMS, Stored, WeightFormat};

pub(super) struct Reader<'a> {
    pub(super) tensors: &'a TensorSet,
    pub(super) quantization: Option<&'a Quantization>,
}

/// The tensors of a matrix, or of one matrix of every expert, in the order that `stored` takes them.
pub(super) struct Tensors<'a> {
    pub(super) stored: Stored,
    pub(super) tensors: Vec<&'a Tensor>,
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
        let values = tensor.read_f32()?.filter(|_| shapes.contains(&tensor.shape));
        let values = values.ok_or_else(|| self.wrong(tensor, expected()))?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(i) => Err(self.not_finite(tensor, format!("element {i}"), values[i])),
            None => Ok(values),
        }
    }

    /// Whether there is a matrix of this name, however it is stored.
    pub(super) fn has(&self, module: &str) -> bool {
        FIRST.iter().any(|name| self.tensors.get(&format!("{module}.{name}")).is_some())
    }

    /// The matrix `module` of `[rows, cols]`, dense or quantised, with finite scales.
    pub(super) fn matrix(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix, FileError> {
        let Tensors { stored, tensors } = self.streams(module, &[], rows, cols)?;
        self.check_order(module)?;
        let format = stored.format();
        let bytes = format.stream_bytes(cols);
        let described = stored.tensors(rows, cols);
        let as_it_is = |i: usize| described.iter().position(|tensor| tensor.stream == Some(i));
        let mut written: [Vec<u8>; MOST_STREAMS] =
            std::array::from_fn(|i| vec![0; if as_it_is(i).is_some() { 0 } else { rows * bytes[i] }]);
        // those that stay as they are nobody looks at here
        let read: Vec<Bytes> = tensors
            .iter()
            .zip(&described)
            .map(|(tensor, described)| match described.stream.is_some() || tensors.len() == 1 {
                true => Ok(tensor.bytes.clone()),
                false => in_memory(&tensor.bytes),
            })
            .collect::<Result<_, FileError>>()?;
        let read: Vec<&[u8]> = read.iter().map(|bytes| &bytes[..]).collect();
        stored.arrange(rows, cols, &read, written.each_mut().map(|bytes| &mut bytes[..]));
        let mut written = written.into_iter();
        let streams = std::array::from_fn(|i| {
            let written = written.next().unwrap_or_default();
            as_it_is(i).map_or_else(|| Bytes::from(written), |tensor| tensors[tensor].bytes.clone())
        });
        let block = MatrixBlock { rows, streams };
        // dense weights are gigabytes that nobody has read yet: only scales are looked at
        if tensors.len() > 1 {
            let mut buffers = StreamBuffers::default();
            if let Some(bad) = buffers.numbers((format, cols), &block)?.first_not_finite() {
                // what is rewritten comes from the tensor in the stream's place
                let holder = as_it_is(bad.stream).unwrap_or(bad.stream.min(tensors.len() - 1));
                return Err(self.not_finite(tensors[holder], format!("row {}", bad.row), bad.value));
            }
        }
        Ok(Matrix { name: tensors[0].name.clone(), rows, cols, format, blocks: vec![block] })
    }

    /// The tensors of the matrix `module`, each of shape `[lead.., rows, ..]`; their data is not read.
    pub(super) fn streams(
        &self,
        module: &str,
        lead: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Tensors<'a>, FileError> {
        let Some(Found { stored, names }) = self.stored(module, rows, cols)? else {
            let weight = self.tensor(&format!("{module}.weight"), || format!("{FLOATS} {:?}", [rows, cols]))?;
            return self.dense(weight, &shape(lead, rows, cols));
        };
        self.checked(stored, names, lead, rows, cols)
    }

    /// The tensors `names`, held against what `stored` expects.
    pub(super) fn checked(
        &self,
        stored: Stored,
        names: Vec<String>,
        lead: &[usize],
        rows: usize,
        cols: usize,
    ) -> Result<Tensors<'a>, FileError> {
        let format = stored.format();
        let named = |name: &String| {
            let part = name.rsplit('.').next().unwrap_or_default();
            self.tensor(name, || format!("the {part} of `{}`", names[0]))
        };
        let tensors: Vec<&Tensor> = names.iter().map(named).collect::<Result<_, _>>()?;
        let [col_multiple, row_multiple] = stored.multiples();
        if !cols.is_multiple_of(col_multiple) || !rows.is_multiple_of(row_multiple) {
            let rows = match rows.is_multiple_of(row_multiple) {
                true => String::new(),
                false => format!("{rows} rows and "),
            };
            let expected = format!("groups that divide {rows}{cols} columns ({format}{})", self.said());
            return Err(self.wrong(tensors[1], expected));
        }
        for (tensor, expected) in tensors.iter().zip(stored.tensors(rows, cols)) {
            let fits = |dtype: &Dtype| {
                let own = expected.shape(*dtype);
                let is_one =
                    own.is_empty() && tensor.shape.get(lead.len()..).is_some_and(|own| own.iter().all(|n| *n == 1));
                *dtype == tensor.dtype
                    && (tensor.shape == [lead, &own].concat() || is_one && tensor.shape.starts_with(lead))
            };
            if !expected.dtypes.iter().any(fits) {
                let dtype = expected.dtypes.iter().find(|dtype| **dtype == tensor.dtype).or(expected.dtypes.first());
                let what = dtype.map_or_else(String::new, |dtype| {
                    format!("{dtype} {:?} ({format}{})", [lead, &expected.shape(*dtype)].concat(), self.said())
                });
                return Err(self.wrong(tensor, what));
            }
        }
        Ok(Tensors { stored, tensors })
    }

    /// A matrix of every expert in one tensor, `[experts, rows, cols]`: numbers, or FP8 with scales beside it.
    pub(super) fn fused(&self, name: &str, [experts, rows, cols]: [usize; 3]) -> Result<Tensors<'a>, FileError> {
        let tensor = self.tensor(name, || format!("{FLOATS} {:?}", [experts, rows, cols]))?;
        if tensor.dtype != Dtype::F8_E4M3 {
            return self.dense(tensor, &[experts, rows, cols]);
        }
        let scales = format!("{name}_scale_inv");
        let scale = self.tensor(&scales, || format!("the scales of `{name}`"))?;
        let stored = self.fp8(tensor, scale, rows, cols)?;
        self.checked(stored, vec![name.to_owned(), scales], &[experts], rows, cols)
    }

    /// `codes` as a dense matrix (or several) of `shape`.
    pub(super) fn dense(&self, codes: &'a Tensor, shape: &[usize]) -> Result<Tensors<'a>, FileError> {
        let Some(dense) = codes.dense() else {
            return Err(self.wrong(codes, format!("{FLOATS} {shape:?}, or a quantised matrix")));
        };
        match codes.shape == shape {
            true => Ok(Tensors { stored: Stored::Streams(WeightFormat::Dense(dense)), tensors: vec![codes] }),
            false => Err(self.wrong(codes, format!("{} {shape:?}", codes.dtype))),
        }
    }
}

fn shape(lead: &[usize], rows: usize, last: usize) -> Vec<usize> {
    [lead, &[rows, last]].concat()
}
