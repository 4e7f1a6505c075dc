//! New files, in folders that others may write to: no link of theirs is followed, and names cannot be known before. Private
//! ones are nobody else's business: only their owner may read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Makes a file that was not there before, for its owner alone. A link of that name is not followed.
///
/// # Errors
/// What the system says; `AlreadyExists` where anything has that name.
pub fn new_private_file(path: &Path) -> io::Result<File> {
    let options = new();
    #[cfg(unix)]
    let options = {
        let mut options = options;
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
    };
    options.open(path)
}

/// An exclusive open follows no link.
fn new() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options
}

/// Makes a file for its owner alone in the place of the file or link of that name.
///
/// # Errors
/// What the system says; `AlreadyExists` where somebody was faster.
pub fn private_file_in_place_of(path: &Path) -> io::Result<File> {
    remove(path)?;
    new_private_file(path)
}

/// The same for a file that others may read, as far as the user lets them.
///
/// # Errors
/// As [`private_file_in_place_of`].
pub fn shared_file_in_place_of(path: &Path) -> io::Result<File> {
    remove(path)?;
    new().open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens the file at `path` to read it and to write more, or makes it, for whoever the user lets read it. A link of that
/// name is refused, with a hint.
///
/// # Errors
/// What the system says.
pub fn file_to_go_on_with(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    options.open(path).map_err(|error| match std::fs::symlink_metadata(path).is_ok_and(|known| known.is_symlink()) {
        true => io::Error::new(error.kind(), "a link has this name (hint: remove the link)"),
        false => error,
    })
}

/// Makes a file in `folder` for its owner alone, whose name begins with `start`, ends with `end`, and cannot be foreseen.
///
/// # Errors
/// What the system says.
pub fn new_private_file_in(folder: &Path, start: &str, end: &str) -> io::Result<(PathBuf, File)> {
    unforeseen(folder, start, end, new_private_file)
}

/// The same for a file that others may read, as far as the user lets them.
///
/// # Errors
/// What the system says.
pub fn new_shared_file_in(folder: &Path, start: &str, end: &str) -> io::Result<(PathBuf, File)> {
    unforeseen(folder, start, end, |path| new().open(path))
}

/// Removes what programs that were killed left of [`new_private_file_in`] in `folder`, where it is older than an hour.
pub fn remove_left_over(folder: &Path, start: &str, end: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let middle = || name.to_str()?.strip_prefix(start)?.strip_prefix('.')?.strip_suffix(end)?.strip_suffix('.');
        let is_ours =
            middle().is_some_and(|middle| middle.len() == 16 && middle.bytes().all(|b| b.is_ascii_hexdigit()));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_ours && age().is_some_and(|age| age > Duration::from_secs(3600)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn unforeseen(
    folder: &Path,
    start: &str,
    end: &str,
    make: impl Fn(&Path) -> io::Result<File>,
) -> io::Result<(PathBuf, File)> {
    loop {
        // keys of the hasher come from the system's random numbers
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let path = folder.join(format!("{start}.{:016x}.{end}", hasher.finish()));
        match make(&path) {
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
pub fn private_folder(path: &Path) -> io::Result<()> {
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
        private_folder(&inner).expect("makes it");
        private_folder(&inner).expect("it is there");
        assert_eq!(mode(&inner), 0o700);
        let (path, _) = new_private_file_in(&inner, "name", "part").expect("makes it");
        assert_eq!(mode(&path), 0o600);
        let (other, _) = new_private_file_in(&inner, "name", "part").expect("makes another");
        assert_ne!(path, other);
        let link = inner.join("link");
        std::os::unix::fs::symlink(root.path().join("victim"), &link).expect("makes a link");
        assert!(new_private_file(&link).is_err() && !root.path().join("victim").exists());
    }

    #[test]
    fn links_are_replaced_or_refused() {
        let root = tempfile::tempdir().expect("makes a folder");
        let victim = root.path().join("victim");
        std::fs::write(&victim, "kept").expect("writes");
        let link = root.path().join("link");
        let make_link = || {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&victim, &link).expect("makes a link");
        };
        make_link();
        let refused = file_to_go_on_with(&link).expect_err("a link is not followed").to_string();
        assert!(refused.contains("(hint: remove the link)"), "{refused}");
        private_file_in_place_of(&link).expect("takes its place");
        assert_eq!(mode(&link), 0o600);
        make_link();
        shared_file_in_place_of(&link).expect("takes its place");
        assert_eq!(mode(&link) & 0o400, 0o400);
        assert_eq!(std::fs::read_to_string(&victim).expect("reads"), "kept");
        let (left, _) = new_shared_file_in(root.path(), "main", "part").expect("makes it");
        let (young, _) = new_shared_file_in(root.path(), "main", "part").expect("makes it");
        let other = root.path().join("main.part");
        let old = File::options().write(true).open(&left).expect("opens");
        old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).expect("sets the time");
        std::fs::write(&other, "").expect("writes");
        remove_left_over(root.path(), "main", "part");
        assert!(!left.exists() && young.exists() && other.exists());
    }
}
