//! A [`Gguf`] as a [`WeightSource`]: every name, type and shape is held against what the model asks for.

use super::names::GgufNames;
use super::{Gguf, Tensor, plain, types};
use crate::file_error::FileError;
use crate::weights::in_memory;
use crate::weights::layout::{ExpertFile, LayerExperts};
use crate::weights::matrix::{Matrix, MatrixBlock, Vector};
use crate::weights::source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
use flashflood_formats::{MOST_STREAMS, WeightFormat};

/// The tensors of a model with what the files of its family do with them.
pub(crate) struct GgufSource {
    gguf: Gguf,
    names: GgufNames,
}

impl GgufSource {
    /// The weights of `gguf`, of a model with `layers` layers. Layers after those guess tokens, and are left alone.
    ///
    /// # Errors
    /// A tensor that models of the family do not have: without it, something else than the model would be computed.
    pub(crate) fn new(gguf: Gguf, names: GgufNames, layers: usize) -> Result<GgufSource, FileError> {
        match gguf.tensors.values().find(|tensor| !names.knows(&tensor.name, layers)) {
            None => Ok(GgufSource { gguf, names }),
            Some(tensor) => {
                let expected = "only tensors that this architecture computes with";
                let found = format!("{} {:?}", tensor.kind.name, tensor.shape);
                Err(FileError::new(gguf.path_of(tensor), format!("tensor `{}`", tensor.name), expected, found))
            }
        }
    }

    /// A matrix as one tensor, or as rows of a fused one.
    fn stored(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, FileError> {
        let called = format!("{}.weight", self.names.in_file(name));
        if let Some(tensor) = self.gguf.get(&called) {
            return self.gguf.matrix(tensor, rows, cols);
        }
        let fused = self.names.fused_for(name).find_map(|(layer, fused, ranges)| {
            Some((self.gguf.get(&format!("blk.{layer}.{}.weight", fused.module))?, fused.rows, ranges))
        });
        match fused {
            Some((tensor, all, ranges)) => Ok(self.gguf.matrix(tensor, all, cols)?.list_rows(called, ranges)),
            None => Err(self.gguf.missing(&called, &[rows, cols])),
        }
    }
}

impl WeightSource for GgufSource {
    fn matrix(&self, name: &str, rows: usize, cols: usize, _: MatrixRole) -> Result<Matrix, FileError> {
        let matrix = self.stored(name, rows, cols)?;
        let turned = name.ends_with(".attention.q") || name.ends_with(".attention.k");
        Ok(match self.names.interleaved_heads {
            Some(dim) if turned => halves(&matrix.in_memory()?, dim),
            _ => matrix,
        })
    }

    fn vector(&self, name: &str, shape: &[usize], role: VectorRole) -> Result<Vector, FileError> {
        let called = vector_name(&self.names, name, role);
        let tensor = self.gguf.get(&called).ok_or_else(|| self.gguf.missing(&called, shape))?;
        let mut values = self.gguf.vector(tensor, shape)?;
        if role == VectorRole::Decay {
            // -exp(A_log) is stored
            if let Some(i) = values.iter().position(|value| *value >= 0.0) {
                return Err(self.gguf.bad_number(tensor, i, "a number below 0", values[i]));
            }
            values.iter_mut().for_each(|value| *value = (-*value).ln());
        }
        Ok(values)
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.get(&format!("{}.weight", self.names.in_file(name))).is_some()
    }

    fn experts(&self, layer: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError> {
        super::experts::layer(&self.gguf, layer, shape)
    }

    fn files(&self) -> Vec<ExpertFile> {
        self.gguf.files.iter().cloned().map(ExpertFile::Path).collect()
    }
}

/// What files call the vector `name`.
pub(super) fn vector_name(names: &GgufNames, name: &str, role: VectorRole) -> String {
    let called = names.in_file(name);
    match role {
        VectorRole::Norm | VectorRole::PlainNorm | VectorRole::Taps => format!("{called}.weight"),
        VectorRole::Decay => called,
        VectorRole::DecayBias => format!("{called}.bias"),
    }
}

/// The rows of heads of `dim` elements whose two halves lie interleaved, one half after the other.
fn halves(matrix: &Matrix, dim: usize) -> Matrix {
    let half = dim / 2;
    matrix.copy_rows((0..matrix.rows).map(|row| row / dim * dim + row % dim % half * 2 + row % dim / half))
}

impl Gguf {
    pub(super) fn missing(&self, name: &str, shape: &[usize]) -> FileError {
        FileError::missing(self.root(), format!("tensor `{name}`"), format!("one of {shape:?}"))
    }

    pub(super) fn wrong(&self, tensor: &Tensor, expected: impl Into<String>) -> FileError {
        let found = format!("{} {:?}", tensor.kind.name, tensor.shape);
        FileError::new(self.path_of(tensor), format!("tensor `{}`", tensor.name), expected, found)
    }

    fn bad_number(&self, tensor: &Tensor, i: usize, expected: &str, found: f32) -> FileError {
        let place = format!("tensor `{}`, element {i}", tensor.name);
        FileError::new(self.path_of(tensor), place, expected, found)
    }

    /// How the rows of `tensor`, which must be of `shape`, are stored.
    pub(super) fn format(&self, tensor: &Tensor, shape: &[usize]) -> Result<WeightFormat, FileError> {
        if tensor.plain_shape() != plain(shape) {
            return Err(self.wrong(tensor, format!("{shape:?}")));
        }
        let cols = shape.last().copied().unwrap_or(1);
        let fits = |format: &WeightFormat| {
            let row = cols / tensor.kind.block * tensor.kind.bytes;
            cols.is_multiple_of(format.column_multiple()) && format.stream_bytes(cols)[0] == row
        };
        match tensor.format() {
            Some(format) if fits(&format) => Ok(format),
            Some(format) => {
                Err(self.wrong(tensor, format!("rows of a multiple of {} elements", format.column_multiple())))
            }
            None => {
                let expected = format!("one of the types {}", types::computed_with().join(", "));
                Err(self.wrong(tensor, expected).hint("this type is not read: take another file of this model"))
            }
        }
    }

    fn matrix(&self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Matrix, FileError> {
        let format = self.format(tensor, &[rows, cols])?;
        let mut streams: [bytes::Bytes; MOST_STREAMS] = Default::default();
        streams[0] = tensor.bytes.clone();
        Ok(Matrix { name: tensor.name.clone(), rows, cols, format, blocks: vec![MatrixBlock { rows, streams }] })
    }

    /// A small tensor as f32.
    fn vector(&self, tensor: &Tensor, shape: &[usize]) -> Result<Vector, FileError> {
        // dimensions of 1 come and go
        let fits = || tensor.shape.iter().filter(|dim| **dim != 1).eq(shape.iter().filter(|dim| **dim != 1));
        let Some(WeightFormat::Dense(dense)) = tensor.format().filter(|_| fits()) else {
            return Err(self.wrong(tensor, format!("F32, F16 or BF16 {shape:?}")));
        };
        let mut values = vec![0.0; shape.iter().product()];
        dense.unpack(&in_memory(&tensor.bytes)?, &mut values);
        match values.iter().position(|value| !value.is_finite()) {
            Some(i) => Err(self.bad_number(tensor, i, "a finite number", values[i])),
            None => Ok(values),
        }
    }
}
