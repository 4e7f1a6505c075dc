//! The pack format.

use std::path::Path;

use crate::model::ModelSource;

/// What can go wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Packs cannot be read yet.
    #[error("{path}: packs cannot be read yet", path = .0.display())]
    Unsupported(std::path::PathBuf),
}

/// Opens the pack in the folder `path`.
///
/// # Errors
/// Always.
pub fn open(path: &Path) -> Result<ModelSource, PackError> {
    Err(PackError::Unsupported(path.to_owned()))
}
