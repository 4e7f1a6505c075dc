//! Opens a model wherever it lies: a Hugging Face snapshot (BF16/F16/F32 or MLX affine), a pack, the embedded model.

use crate::experts::ExpertLayout;
use crate::model::{Config, ModelWeights};

/// A model on disk (or embedded), opened and checked: shapes, dtypes and offsets all agree with the config.
pub struct ModelSource {
    /// Shapes and constants.
    pub config: Config,
    /// Resident weights, as views.
    pub weights: ModelWeights,
    /// Where the routed experts lie.
    pub experts: ExpertLayout,
}
