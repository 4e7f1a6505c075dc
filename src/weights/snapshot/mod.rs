//! Snapshots of the Hugging Face hub as a source of weights: every name, dtype and shape is held against what the model
//! asks for.
//!
//! What releases do differently on disk ends here: prefixes, fused projections, the 1 of `1 + w`, MLX's triples.

mod experts;
pub(crate) mod prefixes;
mod quantization;
mod reader;
mod stored;

use super::layout::{ExpertFile, LayerExperts};
use super::matrix::{Matrix, Vector};
use super::names::Names;
use super::safetensors::TensorSet;
use super::source::{ExpertShape, MatrixRole, VectorRole, WeightSource};
use crate::file_error::FileError;
use reader::Reader;

pub(crate) use quantization::Quantization;
#[cfg(test)]
pub(crate) use quantization::{Mode, Widths};

/// A snapshot with the names of its family.
pub(crate) struct Snapshot {
    tensors: TensorSet,
    quantization: Option<Quantization>,
    names: Names,
    /// In front of the trunk's tensors, and the name of lm_head.
    layout: (&'static str, &'static str),
    /// Norms on disk lack the 1 that the family adds.
    plus_one: bool,
}

impl Snapshot {
    /// The weights in `tensors`. `quantization` is the section of the snapshot's `config.json` (without one, bits and
    /// groups follow from the shapes). Tensors of a vision tower and of an MTP head are left alone.
    ///
    /// # Errors
    /// No embedding under any known name.
    pub(crate) fn new(
        tensors: TensorSet,
        quantization: Option<Quantization>,
        names: Names,
    ) -> Result<Snapshot, FileError> {
        let Some(layout) = prefixes::layout(&tensors) else {
            let expected = prefixes::LAYOUTS.map(|(trunk, _)| format!("`{trunk}embed_tokens.weight`")).join(", ");
            let found = format!("none of them among {} tensors", tensors.names().count());
            return Err(FileError::new(tensors.root(), "", format!("one of the tensors {expected}"), found));
        };
        let plus_one = names.norms_plus_one && !prefixes::is_mlx(&tensors);
        Ok(Snapshot { tensors, quantization, names, layout, plus_one })
    }

    fn reader(&self) -> Reader<'_> {
        Reader { tensors: &self.tensors, quantization: self.quantization.as_ref() }
    }

    /// What the release calls a module.
    fn module(&self, name: &str) -> String {
        if name == "lm_head" {
            let (_, head) = self.layout;
            let known = [head, "lm_head", "language_model.lm_head"];
            let found = known.into_iter().find(|name| self.reader().has(name));
            return found.unwrap_or(head).to_owned();
        }
        format!("{}{}", self.layout.0, self.names.in_release(name))
    }

    /// The part of a fused tensor that `name` is, where the release has that.
    fn fused(&self, name: &str, cols: usize) -> Option<Result<Matrix, FileError>> {
        let (fused, called, ranges) = self.names.fused_for(name)?;
        let (layer, _) = super::names::of_layer(name)?;
        let at = format!("{}layers.{layer}.", self.layout.0);
        let module = format!("{at}{}", fused.module);
        self.reader().has(&module).then_some(())?;
        let whole = self.reader().matrix(&module, fused.rows, cols);
        Some(whole.map(|whole| whole.list_rows(format!("{at}{called}.weight"), ranges)))
    }
}

impl WeightSource for Snapshot {
    fn matrix(&self, name: &str, rows: usize, cols: usize, _: MatrixRole) -> Result<Matrix, FileError> {
        match self.fused(name, cols) {
            Some(fused) => fused,
            None => self.reader().matrix(&self.module(name), rows, cols),
        }
    }

    fn vector(&self, name: &str, shape: &[usize], role: VectorRole) -> Result<Vector, FileError> {
        let module = self.module(name);
        match role {
            VectorRole::Norm | VectorRole::PlainNorm => {
                let mut weights = self.reader().vector(&format!("{module}.weight"), &[shape.to_vec()])?;
                if self.plus_one && role == VectorRole::Norm {
                    weights.iter_mut().for_each(|weight| *weight += 1.0);
                }
                Ok(weights)
            }
            VectorRole::Taps => {
                // both orders of the axes are the same bytes: one of the two has length 1
                let [channels, taps] = [shape[0], shape[1]];
                let shapes = [vec![channels, 1, taps], vec![channels, taps, 1]];
                self.reader().vector(&format!("{module}.weight"), &shapes)
            }
            VectorRole::Decay | VectorRole::DecayBias => self.reader().vector(&module, &[shape.to_vec()]),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.reader().has(&self.module(name))
    }

    fn experts(&self, layer: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError> {
        let at = format!("{}layers.{layer}.{}.", self.layout.0, self.names.experts.module);
        experts::layer(&self.reader(), &self.names.experts, shape, layer, &at)
    }

    fn files(&self) -> Vec<ExpertFile> {
        self.tensors.files().iter().cloned().map(ExpertFile::Path).collect()
    }
}

/// The dtypes of weights that are not quantised, for messages.
const FLOATS: &str = "BF16, F16 or F32";
