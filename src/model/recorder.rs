//! Records what a model of a family does: asks its source for weights by name, and appends plain operations. Nothing is
//! computed, and nothing is fused or packed here: see `compute/lower.rs`.

use flashflood_formats::CacheFormat;

use super::shape::Shape;
use crate::compute::ops::{DeltaNetShape, Experts, Matmul, RmsNorm, Route, RowsOf};
use crate::compute::{CacheId, LayerState, Op, Recorded, Recording, ShapeError, VectorId, View};
use crate::file_error::FileError;
use crate::weights::{ExpertShape, Listed, Listing, Matrix, MatrixRole, SlotLayout, VectorRole, WeightSource};

/// Why a model cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// A weight that is missing or not as the model needs it.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// Operands that do not fit together, or that no kernel holds.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// A matrix of a projection: its canonical name in the layer, and its rows.
#[derive(Clone, Copy)]
pub(crate) struct Projection {
    name: &'static str,
    rows: usize,
    role: MatrixRole,
    exact: bool,
}

impl Projection {
    pub(crate) fn new(name: &'static str, rows: usize, role: MatrixRole) -> Self {
        Projection { name, rows, role, exact: false }
    }

    /// One whose input is never rounded.
    pub(crate) fn exact(name: &'static str, rows: usize, role: MatrixRole) -> Self {
        Projection { exact: true, ..Projection::new(name, rows, role) }
    }
}

/// A model being recorded.
pub(crate) struct Recorder<'a> {
    source: &'a dyn WeightSource,
    eps: f32,
    recording: Recording,
    weights: Listing,
    embedding: Option<Matrix>,
    layer: Option<usize>,
    tied: bool,
}

/// A recorded model.
pub(crate) struct RecordedModel {
    /// Plain operations.
    pub(crate) recording: Recording,
    /// All that was asked for.
    pub(crate) weights: Listing,
    /// `[vocab, hidden]`
    pub(crate) embedding: Matrix,
    /// Whether lm_head is the embedding.
    pub(crate) tied: bool,
}

impl<'a> Recorder<'a> {
    /// For steps of one token at most, until the memory plan says otherwise.
    pub(crate) fn new(source: &'a dyn WeightSource, shape: &Shape) -> Self {
        Recorder {
            source,
            eps: shape.rms_eps,
            recording: Recording::new(1),
            weights: Listing::default(),
            embedding: None,
            layer: None,
            tied: false,
        }
    }

    /// What was recorded.
    ///
    /// # Panics
    /// When the model embeds no tokens: a mistake in a family.
    pub(crate) fn finish(mut self) -> RecordedModel {
        self.weights.experts.files = self.source.files();
        let embedding = self.embedding.expect("a forward pass begins with an embedding");
        RecordedModel { recording: self.recording, weights: self.weights, embedding, tied: self.tied }
    }

    /// Epsilon of the model's norms.
    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    /// What follows is layer `i`: names of weights and labels are below it.
    pub(crate) fn begin_layer(&mut self, i: usize) {
        self.layer = Some(i);
    }

    /// Layer `i` is done.
    pub(crate) fn end_layer(&mut self, i: usize) {
        self.layer = None;
        self.recording.steps.push(Recorded::LayerDone(i + 1));
    }

    /// The canonical name of a weight.
    fn name(&self, name: &str) -> String {
        self.layer.map_or_else(|| name.to_owned(), |i| format!("layers.{i}.{name}"))
    }

    /// The label of an operation or a tensor.
    fn label(&self, label: &str) -> String {
        self.layer.map_or_else(|| label.to_owned(), |i| format!("layer.{i}.{label}"))
    }

    /// The embeddings of the step's tokens, `[tokens, hidden]`: rows are looked up by the host.
    pub(crate) fn embed(&mut self, vocab: usize, hidden: usize) -> Result<View, RecordError> {
        let matrix = self.matrix("embed_tokens", vocab, hidden, MatrixRole::Embedding)?;
        self.embedding = Some(matrix);
        let x = self.recording.tensor("x", 1, hidden);
        self.recording.input = Some(x);
        Ok(x)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize, role: MatrixRole) -> Result<Matrix, RecordError> {
        let name = self.name(name);
        let matrix = self.source.matrix(&name, rows, cols, role)?;
        self.weights.resident.push(Listed::Matrix { name, role, matrix: matrix.clone() });
        Ok(matrix)
    }

    /// A vector of the layer, `shape` flattened.
    pub(crate) fn vector(&mut self, name: &str, shape: &[usize], role: VectorRole) -> Result<VectorId, RecordError> {
        let label = self.name(name);
        let values = self.source.vector(&label, shape, role)?;
        let id = self.recording.vector(label.clone(), &values);
        self.weights.resident.push(Listed::Vector { name: label, role, shape: shape.to_vec(), values });
        Ok(id)
    }

    /// A tensor of activations, `rows` rows per token.
    pub(crate) fn tensor(&mut self, label: &str, rows: usize, width: usize) -> View {
        let label = self.label(label);
        self.recording.tensor(label, rows, width)
    }

    /// A tensor of ids, a row per token.
    pub(crate) fn ids(&mut self, label: &str, width: usize) -> View {
        let label = self.label(label);
        self.recording.ids(label, width)
    }

    /// A state tensor of the layer.
    pub(crate) fn state(&mut self, label: &str, rows: usize, width: usize) -> View {
        let label = self.label(label);
        self.recording.state(label, rows, width)
    }

    /// The layer keeps the last inputs of its convolution and a recurrent state.
    pub(crate) fn recurrent_layer(&mut self, conv: View, recurrent: View, shape: DeltaNetShape) {
        self.recording.layers.push(LayerState::DeltaNet { conv, recurrent, shape });
    }

    /// The layer keeps keys and values of every position, `width` each, as they are computed.
    pub(crate) fn attention_cache(&mut self, width: usize) -> CacheId {
        let label = self.layer.map_or_else(String::new, |i| format!("layer.{i}"));
        let kv = self.recording.kv_cache(label, width, [CacheFormat::F32; 2]);
        self.recording.layers.push(LayerState::Attention { kv });
        kv
    }

    /// Appends an operation.
    pub(crate) fn push(&mut self, label: &str, op: impl Into<Op>) -> Result<(), RecordError> {
        let label = self.label(label);
        Ok(self.recording.push(label, op)?)
    }

    /// The RMS norm of `x` by the weight `name`, which is its label too.
    pub(crate) fn norm(&mut self, name: &str, x: View) -> Result<View, RecordError> {
        let weight = self.vector(name, &[x.width], VectorRole::Norm)?;
        let out = self.tensor("normed", 1, x.width);
        let eps = self.eps;
        self.push(name, RmsNorm { x, weight, out, packed: None, eps })?;
        Ok(out)
    }

    /// The products of several matrices with `x`, side by side in one tensor: all of it, and each.
    pub(crate) fn project(
        &mut self,
        label: &str,
        x: View,
        parts: &[Projection],
    ) -> Result<(View, Vec<View>), RecordError> {
        let whole = self.tensor("projected", 1, parts.iter().map(|part| part.rows).sum());
        let (mut views, mut column) = (Vec::new(), 0);
        for part in parts {
            let matrix = self.matrix(part.name, part.rows, x.width, part.role)?;
            let out = whole.columns(column, part.rows);
            self.matmul(label, x, matrix, out, (false, part.exact))?;
            views.push(out);
            column += part.rows;
        }
        Ok((whole, views))
    }

    /// The product of the matrix `name` with `x`, as wide as the residual stream.
    pub(crate) fn product(&mut self, label: &str, x: View, name: &str, role: MatrixRole) -> Result<View, RecordError> {
        let hidden = self.hidden();
        let matrix = self.matrix(name, hidden, x.width, role)?;
        let out = self.tensor(label, 1, hidden);
        self.matmul(label, x, matrix, out, (false, false))?;
        Ok(out)
    }

    /// Adds the product of the matrix `name` with `x` to `onto`.
    pub(crate) fn add_product(
        &mut self,
        label: &str,
        x: View,
        name: &str,
        role: MatrixRole,
        onto: View,
    ) -> Result<(), RecordError> {
        let matrix = self.matrix(name, onto.width, x.width, role)?;
        self.matmul(label, x, matrix, onto, (true, false))
    }

    fn matmul(
        &mut self,
        label: &str,
        x: View,
        matrix: Matrix,
        out: View,
        (accumulate, exact): (bool, bool),
    ) -> Result<(), RecordError> {
        let matrix = self.recording.matrix(matrix);
        self.push(label, Matmul { x: x.into(), matrix, out, accumulate, exact, rows: RowsOf::Tokens, unscaled: None })
    }

    fn hidden(&self) -> usize {
        self.recording.input.map_or(0, |x| x.width)
    }

    /// Asks for the routed experts of the layer, and gives its place among the MoE layers.
    pub(crate) fn begin_experts(&mut self, shape: &ExpertShape) -> Result<usize, RecordError> {
        let layer = self.layer.unwrap_or_default();
        let experts = self.source.experts(layer, shape)?;
        self.weights.experts.layers.push(experts);
        Ok(self.weights.experts.layers.len() - 1)
    }

    /// What a slot of an MoE layer holds.
    pub(crate) fn slot(&self, moe_layer: usize) -> SlotLayout {
        self.weights.experts.layers[moe_layer].slot
    }

    /// The router's choice becomes known.
    pub(crate) fn route(&mut self, route: Route) {
        self.recording.steps.push(Recorded::Route(route));
    }

    /// The routed experts of the layer.
    pub(crate) fn experts(&mut self, op: Experts) -> Result<(), RecordError> {
        let label = self.label("experts");
        op.check(&self.recording).map_err(|e| ShapeError { label, ..e })?;
        self.recording.steps.push(Recorded::Experts(Box::new(op)));
        Ok(())
    }

    /// The logits of `normed`, by lm_head, or by the embedding where they are one and there is no tensor of its own.
    pub(crate) fn logits(&mut self, normed: View, tied: bool) -> Result<(), RecordError> {
        let embedding = self.embedding.clone().expect("a forward pass begins with an embedding");
        self.tied = tied && !self.source.has("lm_head");
        let matrix = match self.tied {
            true => embedding,
            false => self.matrix("lm_head", embedding.rows, normed.width, MatrixRole::Head)?,
        };
        let out = self.recording.logits_tensor(matrix.rows);
        let matrix = self.recording.matrix(matrix);
        let (accumulate, exact, rows) = (false, false, RowsOf::Logits);
        self.push("lm_head", Matmul { x: normed.into(), matrix, out, accumulate, exact, rows, unscaled: None })
    }
}
