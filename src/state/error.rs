//! Why a session file cannot be used or made; every message names the file, what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

/// What can be wrong with session files. None of it is more than the loss of time: the prompt is computed again.
#[derive(Debug, thiserror::Error)]
pub enum SessionFileError {
    /// Whatever the system refuses.
    #[error("{path}: cannot {action}: {source}", path = .path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Such as "write".
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Not a session file, or one of another version.
    #[error("{path}: expected {expected}, found {found}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A state of another model, or computed otherwise.
    #[error("{path}: a session of another model: expected {expected}, found {found}", path = .path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The model that is open.
        expected: String,
        /// The file's.
        found: String,
    },
    /// Bytes that are not as they were written.
    #[error("{path}: damaged: {what}: expected {expected}, found {found}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A session that alone is more than the folder may hold.
    #[error("the session takes {needed}, its folder may hold {space} (hint: raise --session-space)")]
    NoSpace {
        /// Bytes, for people.
        needed: String,
        /// Bytes, for people.
        space: String,
    },
}

impl SessionFileError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SessionFileError {
        move |source| SessionFileError::Io { path: path.to_owned(), action, source }
    }
}
