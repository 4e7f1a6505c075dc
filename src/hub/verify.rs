//! Holds files that were downloaded against the hashes that they are known by: of the hub's cache, of a folder that a
//! client of the hub downloaded into, and of ollama's store.
//!
//! ```text
//! snapshots/COMMIT/FILE -> blobs/HASH            the cache: a link into the blobs, which are named after their hash
//! .cache/huggingface/download/FILE.metadata      `hf download --local-dir`: the commit, the hash, a time, each a line
//! blobs/sha256-HASH                              ollama
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::HubError;
use super::hash::Expected;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;
/// What the names of ollama's blobs begin with.
const OLLAMA: &str = "sha256-";

/// Listens to [`verify_downloaded`].
type Observer<'a> = dyn Fn(Verified) + Sync + 'a;

/// What [`verify_downloaded`] tells while it works, from several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Bytes that there are hashes for.
    Total(u64),
    /// More of them are read.
    Advanced(u64),
}

/// What was held against its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownloadReport {
    /// Files that are what they should be.
    pub intact: usize,
    /// Files that nobody knows the hash of.
    pub unknown: Vec<PathBuf>,
}

/// Reads the file at `path`, or every file of the folder, and compares hashes.
///
/// # Errors
/// The first file that is not as it was published, and what the system refuses.
pub fn verify_downloaded(path: &Path, observer: &Observer<'_>) -> Result<DownloadReport, HubError> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    let mut report = DownloadReport::default();
    let mut known = Vec::new();
    for file in files {
        match expected(path, &file) {
            Some(hash) => {
                let bytes = fs::metadata(&file).map_err(HubError::io("read", &file))?.len();
                known.push((file, hash, bytes));
            }
            None => report.unknown.push(file),
        }
    }
    observer(Verified::Total(known.iter().map(|(.., bytes)| bytes).sum()));
    let check = |(file, hash, bytes): &(PathBuf, Expected, u64)| check(file, hash, *bytes, observer).err();
    match known.par_iter().find_map_first(check) {
        Some(error) => Err(error),
        None => Ok(DownloadReport { intact: known.len(), ..report }),
    }
}

/// The files that a model has: not those of clients' book-keeping.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), HubError> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(HubError::io("read", path))? {
        let entry = entry.map_err(HubError::io("read", path))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// What the contents of a file of the model at `root` must come to; `None` where nobody says.
fn expected(root: &Path, file: &Path) -> Option<Expected> {
    let of = |digits: &str| {
        let digits = digits.trim().trim_matches('"').to_owned();
        let hash = if digits.len() == 64 { Expected::Sha256(digits) } else { Expected::GitBlob(digits) };
        hash.is_whole().then_some(hash)
    };
    let name = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    if let Some(digits) = name(file)?.strip_prefix(OLLAMA) {
        return of(digits);
    }
    if let Ok(target) = fs::read_link(file) {
        return of(&name(&target)?);
    }
    let within = if root == file { file.file_name()?.as_ref() } else { file.strip_prefix(root).ok()? };
    let folder = if root == file { root.parent()? } else { root };
    let mut metadata = folder.join(".cache/huggingface/download").join(within).into_os_string();
    metadata.push(".metadata");
    of(fs::read_to_string(metadata).ok()?.lines().nth(1)?)
}

fn check(path: &Path, expected: &Expected, bytes: u64, observer: &Observer<'_>) -> Result<(), HubError> {
    let mut file = File::open(path).map_err(HubError::io("open", path))?;
    let (mut buffer, mut hash) = (vec![0; CHUNK], expected.start(bytes));
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hash.update(&buffer[..read]);
                observer(Verified::Advanced(read as u64));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(HubError::io("read", path)(error)),
        }
    }
    let found = hash.finish();
    match found == expected.digits() {
        true => Ok(()),
        false => Err(HubError::Changed { path: path.to_owned(), expected: expected.digits().to_owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const QUIET: &Observer<'static> = &|_| {};
    // of "hello\n"
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[cfg(unix)]
    #[test]
    fn blobs_are_held_against_their_names() {
        let root = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/abc"));
        [&blobs, &snapshot].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        for (name, hash) in [("config.json", GIT), ("model.safetensors", SHA256)] {
            fs::write(blobs.join(hash), "hello\n").unwrap();
            std::os::unix::fs::symlink(Path::new("../../blobs").join(hash), snapshot.join(name)).unwrap();
        }
        fs::write(snapshot.join("mine.txt"), "x").unwrap();
        let report = verify_downloaded(&snapshot, QUIET).unwrap();
        assert_eq!((report.intact, report.unknown), (2, vec![snapshot.join("mine.txt")]));
        for hash in [GIT, SHA256] {
            fs::write(blobs.join(hash), "hellp\n").unwrap();
            let error = verify_downloaded(&snapshot, QUIET).unwrap_err().to_string();
            assert!(error.contains(hash) && error.contains("hint:"), "{error}");
            fs::write(blobs.join(hash), "hello\n").unwrap();
        }
    }

    #[test]
    fn local_folders_and_ollamas_blobs_are_known_too() {
        let root = tempfile::tempdir().unwrap();
        let notes = root.path().join(".cache/huggingface/download/sub");
        fs::create_dir_all(&notes).unwrap();
        fs::create_dir_all(root.path().join("sub")).unwrap();
        let file = root.path().join("sub/a.bin");
        fs::write(&file, "hello\n").unwrap();
        fs::write(notes.join("a.bin.metadata"), format!("commit\n{GIT}\n1.0\n")).unwrap();
        let report = verify_downloaded(root.path(), QUIET).unwrap();
        assert_eq!((report.intact, report.unknown.len()), (1, 0));
        fs::write(&file, "hello").unwrap();
        assert!(matches!(verify_downloaded(root.path(), QUIET), Err(HubError::Changed { .. })));
        let blob = root.path().join(format!("{OLLAMA}{SHA256}"));
        fs::write(&blob, "hello\n").unwrap();
        assert_eq!(verify_downloaded(&blob, QUIET).unwrap().intact, 1);
        fs::write(&blob, "hello!").unwrap();
        assert!(verify_downloaded(&blob, QUIET).is_err());
    }
}
