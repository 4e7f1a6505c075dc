//! Why a session file cannot be used or made; every message names the file, what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

use crate::file_error::FileError;

/// What can be wrong with session files. None of it is more than the loss of time: the prompt is computed again.
#[derive(Debug, thiserror::Error)]
pub enum SessionFileError {
    /// The file: what the system refuses, another version, bytes that are not as they were written.
    #[error(transparent)]
    File(#[from] FileError),
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
    /// Keys and values of the same model in another format.
    #[error("{path}: a session whose keys and values are kept as {found}: expected {expected} (hint: --kv {found})", path = .path.display())]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// How the engine keeps them.
        expected: String,
        /// How the file does.
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
        move |source| FileError::io(action, path)(source).into()
    }
    pub(super) fn damaged(path: &Path, what: &str, expected: impl Into<String>, found: &str) -> SessionFileError {
        FileError::new(path, format!("damaged: {what}"), expected, found).into()
    }
}
