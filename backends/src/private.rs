//! Files that are nobody else's business: only their owner may read them, and their names cannot be known before.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

/// Makes a file that was not there before, for its owner alone. A link of that name is not followed.
///
/// # Errors
/// What the system says; `AlreadyExists` where anything has that name.
pub fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // an exclusive open follows no link
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes a file in `folder` for its owner alone, whose name begins with `start`, ends with `end`, and cannot be foreseen.
///
/// # Errors
/// What the system says.
pub fn new_file_in(folder: &Path, start: &str, end: &str) -> io::Result<(PathBuf, File)> {
    loop {
        // keys of the hasher come from the system's random numbers
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let path = folder.join(format!("{start}.{:016x}.{end}", hasher.finish()));
        match new_file(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a folder and those above it, for their owner alone. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it was made").permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_and_no_links() {
        let root = tempfile::tempdir().expect("makes a folder");
        let inner = root.path().join("a/b");
        folder(&inner).expect("makes it");
        folder(&inner).expect("it is there");
        assert_eq!(mode(&inner), 0o700);
        let (path, _) = new_file_in(&inner, "name", "part").expect("makes it");
        assert_eq!(mode(&path), 0o600);
        let (other, _) = new_file_in(&inner, "name", "part").expect("makes another");
        assert_ne!(path, other);
        let link = inner.join("link");
        std::os::unix::fs::symlink(root.path().join("victim"), &link).expect("makes a link");
        assert!(new_file(&link).is_err() && !root.path().join("victim").exists());
    }
}
