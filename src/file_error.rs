//! What can be wrong with a file, in one type: where, what was expected, what was found, and what helps.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use flashflood_backends::NO_MEMORY_HINT;

/// A file or folder that is not what it should be. Its text names the path, the place in it, what was expected and what
/// was found, and on a second line a hint where there is one.
#[derive(Debug)]
pub struct FileError(Box<Fields>);

#[derive(Debug)]
struct Fields {
    path: PathBuf,
    /// In the file: a key, a tensor, a record; empty for the file itself.
    place: String,
    problem: Problem,
    hint: String,
}

#[derive(Debug)]
enum Problem {
    Unexpected { expected: String, found: String },
    Missing { expected: String },
    Io { action: String, source: io::Error },
    Syntax { expected: String, source: Box<dyn Error + Send + Sync> },
}

impl From<Fields> for FileError {
    fn from(fields: Fields) -> Self {
        FileError(Box::new(fields))
    }
}

impl FileError {
    /// `place` of the file at `path` holds something else than it should. An empty place is the file itself.
    pub(crate) fn new(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl fmt::Display,
    ) -> Self {
        let problem = Problem::Unexpected { expected: expected.into(), found: found.to_string() };
        Fields { path: path.to_owned(), place: place.into(), problem, hint: String::new() }.into()
    }

    /// `place` is not in the file, or the file is not there.
    pub(crate) fn missing(path: &Path, place: impl Into<String>, expected: impl Into<String>) -> Self {
        let problem = Problem::Missing { expected: expected.into() };
        Fields { path: path.to_owned(), place: place.into(), problem, hint: String::new() }.into()
    }

    /// For `map_err`: the system refused `action` ("read", "create", "read 17 bytes at offset 3").
    pub(crate) fn io(action: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let (action, path) = (action.into(), path.to_owned());
        move |source| {
            let hint = if source.kind() == io::ErrorKind::OutOfMemory { NO_MEMORY_HINT } else { "" };
            let problem = Problem::Io { action, source };
            Fields { path, place: String::new(), problem, hint: hint.to_owned() }.into()
        }
    }

    /// For `map_err`: the file's text does not parse; `expected` is what it should be ("not valid JSON" reads well too).
    pub(crate) fn syntax<E: Error + Send + Sync + 'static>(
        path: &Path,
        expected: impl Into<String>,
    ) -> impl FnOnce(E) -> FileError {
        let (path, expected) = (path.to_owned(), expected.into());
        move |source| {
            let problem = Problem::Syntax { expected, source: Box::new(source) };
            Fields { path, place: String::new(), problem, hint: String::new() }.into()
        }
    }

    /// Whether `bytes` only stand for a file that git-lfs would have fetched.
    pub(crate) fn is_git_lfs(bytes: &[u8]) -> bool {
        bytes.starts_with(b"version https://git-lfs")
    }

    /// The file at `path` is such a pointer.
    pub(crate) fn git_lfs(path: &Path) -> FileError {
        FileError::new(path, "", "the file itself", "a git-lfs pointer")
            .hint("git lfs pull fetches the file that it stands for")
    }

    /// The same with a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// The same about another place of the file.
    #[must_use]
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.0.place = place.into();
        self
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Key, tensor or record in the file; empty for the file itself.
    pub(crate) fn place(&self) -> &str {
        &self.0.place
    }

    /// Whether the place is not there at all.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.0.problem, Problem::Missing { .. })
    }

    /// What the system said, where it refused something.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.0.problem {
            Problem::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.path.display())?;
        let colon = if self.0.place.is_empty() { "" } else { ": " };
        let place = &self.0.place;
        match &self.0.problem {
            Problem::Unexpected { expected, found } => write!(f, "{place}{colon}expected {expected}, found {found}")?,
            Problem::Missing { expected } if place.is_empty() => write!(f, "missing, expected {expected}")?,
            Problem::Missing { expected } => write!(f, "{place} is missing: expected {expected}")?,
            Problem::Io { action, source } => write!(f, "{place}{colon}cannot {action}: {source}")?,
            Problem::Syntax { expected, source } => write!(f, "{place}{colon}{expected}: {source}")?,
        }
        match self.0.hint.is_empty() {
            true => Ok(()),
            false => write!(f, "\nhint: {}", self.0.hint),
        }
    }
}

impl Error for FileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_what_and_what_helps() {
        let path = Path::new("pack/manifest.json");
        let error = FileError::new(path, "`version`", "2", 1).hint("update");
        assert_eq!(error.to_string(), "pack/manifest.json: `version`: expected 2, found 1\nhint: update");
        let error = FileError::missing(path, "`format`", "a string");
        assert_eq!(error.to_string(), "pack/manifest.json: `format` is missing: expected a string");
        assert!(error.is_missing() && error.io_error().is_none());
        let error = FileError::missing(path, "", "by the index");
        assert_eq!(error.to_string(), "pack/manifest.json: missing, expected by the index");
        let error = FileError::io("read", path)(io::ErrorKind::NotFound.into());
        assert!(error.to_string().starts_with("pack/manifest.json: cannot read: "), "{error}");
        assert_eq!(error.io_error().map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
