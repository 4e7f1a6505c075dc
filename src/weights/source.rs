use crate::file_error::FileError;

use super::layout::{ExpertFile, LayerExperts};
use super::matrix::{Matrix, Vector};

/// What a matrix is for: how `inspect` counts it, whether a pack quantises it, and how large random weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixRole {
    /// Rows are looked up by token.
    Embedding,
    /// Gives the logits.
    Head,
    /// Projections of attention.
    Attention,
    /// Projections of a gated delta-net.
    DeltaNet,
    /// Decay and β of a gated delta-net: a few rows that steer its whole state.
    DeltaNetGate,
    /// Feed-forward of a dense layer.
    FeedForward,
    /// The expert that every token uses.
    SharedExpert,
    /// Its scalar gate.
    SharedGate,
    /// Chooses the experts.
    Router,
}

impl MatrixRole {
    /// The part of a model that it is counted with.
    pub(crate) fn part(self) -> &'static str {
        match self {
            MatrixRole::Embedding => "embedding",
            MatrixRole::Head => "lm_head",
            MatrixRole::Attention => "attention",
            MatrixRole::DeltaNet | MatrixRole::DeltaNetGate => "delta-net",
            MatrixRole::FeedForward => "feed-forward",
            MatrixRole::SharedExpert | MatrixRole::SharedGate => "shared experts",
            MatrixRole::Router => "router",
        }
    }

    /// Whether a pack leaves it as it is: small, and everything else depends on it.
    pub(crate) fn is_kept(self) -> bool {
        matches!(self, MatrixRole::Router | MatrixRole::SharedGate | MatrixRole::DeltaNetGate)
    }
}

/// What a vector is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorRole {
    /// Weight of a norm. Releases of some families store `w` of `1 + w`; a source gives the plain weight.
    Norm,
    /// Weight of a norm that is stored as it is in every release.
    PlainNorm,
    /// Taps of a convolution.
    Taps,
    /// Logarithm of a decay.
    Decay,
    /// Added to the input of a decay.
    DecayBias,
}

impl VectorRole {
    /// The part of a model that it is counted with.
    pub(crate) fn part(self) -> &'static str {
        match self {
            VectorRole::Norm | VectorRole::PlainNorm => "norms",
            VectorRole::Taps | VectorRole::Decay | VectorRole::DecayBias => "delta-net",
        }
    }
}

/// The routed experts of one layer, as a model asks for them: gate and up `[width, hidden]`, down `[hidden, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    /// Experts of the layer.
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Residual width.
    pub hidden: usize,
    /// Width of an expert.
    pub width: usize,
}

/// Where a model's weights come from. Names are canonical: those of the model, whatever a release calls its tensors
/// (see [`names`](super::names)).
pub trait WeightSource {
    /// The matrix `name` of `[rows, cols]`, in whatever format the source has it.
    ///
    /// # Errors
    /// A matrix that is missing, of another shape, or with scales that are not finite.
    fn matrix(&self, name: &str, rows: usize, cols: usize, role: MatrixRole) -> Result<Matrix, FileError>;

    /// The vector `name`, of `shape` flattened.
    ///
    /// # Errors
    /// A vector that is missing, of another shape, or not finite.
    fn vector(&self, name: &str, shape: &[usize], role: VectorRole) -> Result<Vector, FileError>;

    /// Whether there is a matrix of this name.
    fn has(&self, name: &str) -> bool;

    /// The routed experts of layer `layer`. Places refer to [`files`](Self::files).
    ///
    /// # Errors
    /// An expert that is missing or not as the others; its weights are not read.
    fn experts(&self, layer: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError>;

    /// The files that experts lie in.
    fn files(&self) -> Vec<ExpertFile>;
}
