//! The list of operations of one step, with the tensors, weights and caches that they touch.
//!
//! A recording does not change from token to token: it is made once for a model and a largest chunk, and the number of
//! tokens, their position, the slots of the experts are values given when it runs.

use std::sync::Arc;

use flashflood_formats::CacheFormat;

use super::op::{Op, Operand};
use super::ops::{DeltaNetShape, Experts, Known, Route};
use super::step::Step;
use crate::weights::Matrix;

/// Most bytes of logits.
const LOGIT_BYTES: usize = 16 << 20;

/// A tensor of activations or state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TensorId(pub(crate) usize);

/// A vector of weights in f32: its place in [`Recording::vectors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VectorId(pub usize);

/// A matrix of weights: its place in [`Recording::matrices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatrixId(pub usize);

/// The cache of one layer: its place in [`Recording::caches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheId(pub usize);

/// How many rows a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// So many rows for every token of the step.
    PerToken(usize),
    /// One for every token that gets logits: [`Recording::logit_rows`] at most.
    PerLogits,
    /// A number that does not depend on the step: state.
    Fixed(usize),
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// Activations and state.
    F32,
    /// Expert ids, packed activations.
    U32,
}

/// A tensor of activations or state: rows of `width` elements, `stride` apart.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec {
    /// Name in dumps and messages.
    pub label: String,
    /// Number of rows.
    pub rows: Rows,
    /// Elements of a row.
    pub width: usize,
    /// Elements from one row to the next: `width` rounded up to 4, so that kernels may read 16 bytes at a time.
    pub stride: usize,
    /// Type.
    pub element: Element,
}

/// Some columns of every row of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// Which tensor.
    pub tensor: TensorId,
    /// First column.
    pub offset: usize,
    /// Columns.
    pub width: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Rows per token (1 unless the tensor says otherwise).
    pub rows_per_token: usize,
}

impl View {
    /// Columns `offset..offset + width` of this view.
    ///
    /// # Panics
    /// When they reach past the view: a mistake in model code.
    pub(crate) fn columns(self, offset: usize, width: usize) -> View {
        assert!(offset + width <= self.width, "columns {offset}+{width} of a view of {}", self.width);
        View { offset: self.offset + offset, width, ..self }
    }
}

/// What a layer keeps of every position: rows of one or more streams, side by side.
#[derive(Clone, Debug)]
pub(crate) struct CacheSpec {
    /// Name in dumps and messages.
    pub label: String,
    /// Attention has two: keys, and values.
    pub streams: Vec<CacheStream>,
}

/// Rows of one kind, one for each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheStream {
    /// Such as "keys".
    pub name: &'static str,
    /// Elements of a row; of keys and values, KV heads times head_dim.
    pub width: usize,
    /// How they are stored. Kernels that read and write a cache know it; all others move bytes.
    pub format: CacheFormat,
}

impl CacheStream {
    /// Bytes of a row: a multiple of 4.
    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.width)
    }

    /// Elements that are stored together: of a head, where the format knows heads.
    fn head(&self) -> usize {
        match self.format {
            CacheFormat::F32 | CacheFormat::F16 => self.width,
            CacheFormat::Q8 { head } | CacheFormat::Tq4 { head } => head,
        }
    }

    /// Rows as they are stored; heads are turned already where they are to be.
    pub(crate) fn pack(&self, rows: &[f32]) -> Vec<u8> {
        let mut words = vec![0; rows.len() / self.width * self.row_bytes() / 4];
        let heads = words.chunks_exact_mut(self.format.words(self.head()));
        heads.zip(rows.chunks_exact(self.head())).for_each(|(words, head)| self.format.pack(head, words));
        bytemuck::cast_slice(&words).to_vec()
    }

    /// The elements of rows.
    pub(crate) fn unpack(&self, bytes: &[u8]) -> Vec<f32> {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
        let mut rows = vec![0.0; bytes.len() / self.row_bytes() * self.width];
        let heads = rows.chunks_exact_mut(self.head());
        heads.zip(words.chunks_exact(self.format.words(self.head()))).for_each(|(head, words)| {
            self.format.unpack(words, head);
        });
        rows
    }
}

/// An operation whose operands do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{op} ({label}): {what}: expected {expected}, found {found}")]
pub struct ShapeError {
    /// Kernel name.
    pub op: &'static str,
    /// Label of the operation.
    pub label: String,
    /// Operand.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// What a layer keeps from step to step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LayerState {
    /// Full attention.
    Attention {
        /// Keys and values of every position.
        kv: CacheId,
    },
    /// Gated delta-net.
    DeltaNet {
        /// The last inputs of the convolution, as `DeltaNet::conv` keeps them.
        conv: View,
        /// `[value_heads * key_dim, value_dim]`
        recurrent: View,
        /// Heads and their sizes.
        #[cfg_attr(not(test), expect(dead_code, reason = "what is stored is read by tests alone"))]
        shape: DeltaNetShape,
    },
}

/// One entry of a recording.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a model has some hundreds of them, made once")]
pub(crate) enum Recorded {
    /// A kernel; the label names it in dumps and profiles.
    Kernel {
        /// Such as `layer.3.mixer_out`.
        label: String,
        /// The kernel with its operands.
        kernel: Op,
    },
    /// The router's choice becomes known to the host: the one synchronisation of a layer.
    Route(Route),
    /// The routed experts of one layer, streamed.
    Experts(Box<Experts>),
    /// So many layers of the model are done: whoever watches a prompt is told, and may end it here.
    LayerDone(usize),
}

impl Recorded {
    /// The tensors that it touches.
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        match self {
            Recorded::Kernel { kernel, .. } => kernel.operands(),
            Recorded::Route(route) => route.operands(),
            Recorded::Experts(experts) => experts.operands(),
            Recorded::LayerDone(_) => Vec::new(),
        }
    }
}

/// The operations of one step in order, and everything they touch.
#[derive(Clone, Default)]
pub(crate) struct Recording {
    /// Most tokens a step may have.
    pub max_tokens: usize,
    /// Activations and state.
    pub tensors: Vec<TensorSpec>,
    /// Norms, conv taps, decays.
    pub vectors: Vec<(String, Arc<Vec<f32>>)>,
    /// Projections.
    pub matrices: Vec<Matrix>,
    /// What layers keep of every position.
    pub caches: Vec<CacheSpec>,
    /// State tensors: zero at the start of a session, kept from step to step.
    pub state: Vec<TensorId>,
    /// What each layer keeps from step to step, in the order of the layers.
    pub layers: Vec<LayerState>,
    /// The operations.
    pub steps: Vec<Recorded>,
    /// The embedded tokens: what a step begins with. `[tokens, hidden]`
    pub input: Option<View>,
    /// The logits, `[rows, vocab]`.
    pub logits: Option<View>,
    /// Activations that it has in 8 bits too.
    pub(crate) quantised: Vec<Known>,
}

impl Recording {
    /// An empty recording for steps of at most `max_tokens` tokens.
    pub(crate) fn new(max_tokens: usize) -> Self {
        Recording { max_tokens, ..Default::default() }
    }

    /// Adds a tensor with `rows` rows per token.
    pub(crate) fn tensor(&mut self, label: impl Into<String>, rows: usize, width: usize) -> View {
        self.add(label.into(), Rows::PerToken(rows), width, Element::F32)
    }

    /// Adds the tensor of logits, `[rows, vocab]`.
    pub(crate) fn logits_tensor(&mut self, vocab: usize) -> View {
        let view = self.add("logits".to_owned(), Rows::PerLogits, vocab, Element::F32);
        self.logits = Some(view);
        view
    }

    /// Tokens of a step that may get logits: all of them, or as many as 16 MB hold. A row of a large vocabulary is
    /// 1 MB, and a chunk has thousands of tokens.
    pub(crate) fn logit_rows(&self) -> usize {
        let row = self.logits.map_or(1, |logits| logits.stride * 4);
        (LOGIT_BYTES / row).clamp(1, self.max_tokens.max(1))
    }

    /// Adds a tensor of ids with one row per token.
    pub(crate) fn ids(&mut self, label: impl Into<String>, width: usize) -> View {
        self.add(label.into(), Rows::PerToken(1), width, Element::U32)
    }

    /// Adds a tensor of words with `rows` rows per token.
    pub(crate) fn words(&mut self, label: impl Into<String>, rows: usize, width: usize) -> View {
        self.add(label.into(), Rows::PerToken(rows), width, Element::U32)
    }

    /// Adds a state tensor `[rows, width]`.
    pub(crate) fn state(&mut self, label: impl Into<String>, rows: usize, width: usize) -> View {
        let view = self.add(label.into(), Rows::Fixed(rows), width, Element::F32);
        self.state.push(view.tensor);
        view
    }

    fn add(&mut self, label: String, rows: Rows, width: usize, element: Element) -> View {
        let stride = width.next_multiple_of(4);
        self.tensors.push(TensorSpec { label, rows, width, stride, element });
        let rows_per_token = match rows {
            Rows::PerToken(n) => n,
            Rows::PerLogits => 1,
            Rows::Fixed(_) => 0,
        };
        View { tensor: TensorId(self.tensors.len() - 1), offset: 0, width, stride, rows_per_token }
    }

    /// Adds a vector of weights.
    pub(crate) fn vector(&mut self, label: impl Into<String>, values: &[f32]) -> VectorId {
        self.vectors.push((label.into(), Arc::new(values.to_vec())));
        VectorId(self.vectors.len() - 1)
    }

    /// Adds a matrix of weights.
    pub(crate) fn matrix(&mut self, matrix: Matrix) -> MatrixId {
        self.matrices.push(matrix);
        MatrixId(self.matrices.len() - 1)
    }

    /// Adds a cache of some streams.
    pub(crate) fn cache(&mut self, label: impl Into<String>, streams: Vec<CacheStream>) -> CacheId {
        self.caches.push(CacheSpec { label: label.into(), streams });
        CacheId(self.caches.len() - 1)
    }

    /// Adds a cache of `width` keys and as many values per position.
    pub(crate) fn kv_cache(&mut self, label: impl Into<String>, width: usize, formats: [CacheFormat; 2]) -> CacheId {
        let [keys, values] = formats;
        let stream = |name, format| CacheStream { name, width, format };
        self.cache(label, vec![stream("keys", keys), stream("values", values)])
    }

    /// Appends a kernel after checking the shapes of its operands.
    pub(crate) fn push(&mut self, label: impl Into<String>, kernel: impl Into<Op>) -> Result<(), ShapeError> {
        let (label, kernel) = (label.into(), kernel.into());
        kernel.check(self).map_err(|e| ShapeError { label: label.clone(), ..e })?;
        kernel.outputs().iter().for_each(|view| self.outdate(view.tensor));
        self.steps.push(Recorded::Kernel { label, kernel });
        Ok(())
    }

    /// The specification of a tensor.
    pub(crate) fn spec(&self, id: TensorId) -> &TensorSpec {
        &self.tensors[id.0]
    }

    /// The place of a state tensor in [`Recording::state`].
    ///
    /// # Panics
    /// For a tensor that is no state: a mistake in a kernel.
    pub(crate) fn state_index(&self, id: TensorId) -> usize {
        self.state.iter().position(|state| *state == id).expect("a kernel's state is the recording's")
    }

    /// Elements of a tensor when a step has `max_tokens` tokens.
    pub(crate) fn elements(&self, id: TensorId) -> usize {
        let spec = self.spec(id);
        spec.stride
            * match spec.rows {
                Rows::PerToken(n) => n * self.max_tokens,
                Rows::PerLogits => self.logit_rows(),
                Rows::Fixed(n) => n,
            }
    }

    /// Rows of a tensor that a step writes.
    pub(crate) fn rows(&self, id: TensorId, step: &Step) -> usize {
        match self.spec(id).rows {
            Rows::PerToken(n) => n * step.tokens,
            Rows::PerLogits => step.logit_rows().1,
            Rows::Fixed(n) => n,
        }
    }

    /// Bytes of the largest tensor.
    pub(crate) fn largest_tensor(&self) -> u64 {
        (0..self.tensors.len()).map(|i| self.elements(TensorId(i)) as u64 * 4).max().unwrap_or(0)
    }

    /// Bytes of all activations, or of all state.
    pub(crate) fn tensor_bytes(&self, state: bool) -> u64 {
        (0..self.tensors.len())
            .filter(|&i| self.state.contains(&TensorId(i)) == state)
            .map(|i| self.elements(TensorId(i)) as u64 * 4)
            .sum()
    }

    /// Bytes that one position takes in all caches.
    pub(crate) fn kv_bytes_per_position(&self) -> u64 {
        self.caches.iter().flat_map(|cache| &cache.streams).map(|stream| stream.row_bytes() as u64).sum()
    }

    /// Bytes of all resident weights that a device holds.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let matrices: u64 = self.matrices.iter().map(|m| m.bytes() as u64).sum();
        matrices + self.vectors.iter().map(|(_, v)| v.len() as u64 * 4).sum::<u64>()
    }
}

/// Fails with a [`ShapeError`] unless `found == expected`.
pub(crate) fn expect(
    op: &'static str,
    what: &str,
    expected: impl std::fmt::Debug + PartialEq<usize>,
    found: usize,
) -> Result<(), ShapeError> {
    if expected == found {
        return Ok(());
    }
    Err(shape_error(op, what, format!("{expected:?}"), found))
}

/// A [`ShapeError`] whose label is filled in when the operation is pushed.
pub(crate) fn shape_error(
    op: &'static str,
    what: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> ShapeError {
    ShapeError {
        op,
        label: String::new(),
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
