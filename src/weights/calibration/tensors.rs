//! Tensors of a calibration's files, to write and to read.

use std::borrow::Cow;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView, View};

use crate::file_error::FileError;

/// Tensors to be written.
#[derive(Default)]
pub(super) struct TensorsOut<'a>(Vec<(String, Raw<'a>)>);

struct Raw<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl View for Raw<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> TensorsOut<'a> {
    pub(super) fn floats(&mut self, name: String, shape: Vec<usize>, values: &'a [f32]) {
        self.0.push((name, Raw { dtype: Dtype::F32, shape, bytes: bytemuck::cast_slice(values) }));
    }

    pub(super) fn words(&mut self, name: String, shape: Vec<usize>, values: &'a [u32]) {
        self.0.push((name, Raw { dtype: Dtype::U32, shape, bytes: bytemuck::cast_slice(values) }));
    }

    pub(super) fn shorts(&mut self, name: String, shape: Vec<usize>, values: &'a [i16]) {
        self.0.push((name, Raw { dtype: Dtype::I16, shape, bytes: bytemuck::cast_slice(values) }));
    }

    pub(super) fn halves(&mut self, name: String, shape: Vec<usize>, values: &'a [bf16]) {
        self.0.push((name, Raw { dtype: Dtype::BF16, shape, bytes: bytemuck::cast_slice(values) }));
    }

    pub(super) fn serialise(self) -> Result<Vec<u8>, SafeTensorError> {
        safetensors::serialize(self.0, None)
    }
}

/// Tensors of a file that was read.
pub(super) struct Tensors<'a> {
    path: &'a Path,
    all: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, FileError> {
        let all = SafeTensors::deserialize(bytes).map_err(FileError::syntax(path, "not a layer of a calibration"))?;
        Ok(Tensors { path, all })
    }

    pub(super) fn error(&self, name: &str, expected: impl Into<String>, found: impl std::fmt::Display) -> FileError {
        FileError::new(self.path, name, expected, found).hint("make the calibration again")
    }

    /// The first of a tensor's sizes, where it is there.
    pub(super) fn rows(&self, name: &str) -> Option<usize> {
        self.all.tensor(name).ok()?.shape().first().copied()
    }

    fn view(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<TensorView<'a>, FileError> {
        let expected = format!("{dtype:?} {shape:?}");
        let Ok(view) = self.all.tensor(name) else {
            return Err(FileError::missing(self.path, name, expected).hint("make the calibration again"));
        };
        if view.dtype() != dtype || view.shape() != shape {
            return Err(self.error(name, expected, format!("{:?} {:?}", view.dtype(), view.shape())));
        }
        Ok(view)
    }

    pub(super) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, FileError> {
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(self.view(name, Dtype::F32, shape)?.data());
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.error(name, "finite numbers", format!("{} at {at}", values[at]))),
        }
    }

    pub(super) fn words(&self, name: &str, shape: &[usize]) -> Result<Vec<u32>, FileError> {
        Ok(bytemuck::pod_collect_to_vec(self.view(name, Dtype::U32, shape)?.data()))
    }

    pub(super) fn shorts(&self, name: &str, shape: &[usize]) -> Result<Vec<i16>, FileError> {
        Ok(bytemuck::pod_collect_to_vec(self.view(name, Dtype::I16, shape)?.data()))
    }

    pub(super) fn halves(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, FileError> {
        Ok(bytemuck::pod_collect_to_vec(self.view(name, Dtype::BF16, shape)?.data()))
    }
}
