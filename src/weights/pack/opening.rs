//! What of a pack is held against its manifest when a model opens: the resident weights and the files beside them. Expert
//! records are checked when they are read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use flashflood_backends::positioned::read_exact_at;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Checksum, FileSum, PackError, RESIDENT};
use crate::file_error::FileError;

/// Bytes that are read while those before them are summed up.
const CHUNK: u64 = 4 << 20;

/// Threads that read.
const MOST_READERS: usize = 4;

/// Another tokenizer makes other tokens of the same text; the other files are meant to be edited.
const TOKENIZER: &str = "tokenizer.json";

/// Files of a pack with their sums.
#[derive(Clone, Debug)]
pub(crate) struct PackFiles {
    pub(super) folder: PathBuf,
    pub(super) resident: FileSum,
    /// By name; none in packs from before manifests had them.
    pub(super) files: BTreeMap<String, FileSum>,
}

impl PackFiles {
    /// Reads the files and compares them. Other files than weights and tokenizer may have been edited since the pack was
    /// made: `tell` is told of those.
    ///
    /// # Errors
    /// The first file that is not as it was, and what the system refuses. A disk that fails is an error here, before
    /// anything maps the file.
    pub(crate) fn verify(&self, tell: &dyn Fn(&PackError)) -> Result<(), PackError> {
        for (name, expected) in &self.files {
            let path = self.folder.join(name);
            match check_small(&path, *expected) {
                Err(error) if name != TOKENIZER => tell(&error),
                checked => checked?,
            }
        }
        let path = self.folder.join(RESIDENT);
        let file = File::open(&path).map_err(FileError::io("open", &path))?;
        let found = sum_of(&path, &file, self.resident.bytes)?;
        super::verify::compare(&path, || "resident weights".into(), 0, self.resident.xxh3, found)
    }

    /// The same of files that are small, every one of them.
    pub(super) fn verify_small(&self) -> Result<(), PackError> {
        self.files.iter().try_for_each(|(name, expected)| check_small(&self.folder.join(name), *expected))
    }
}

fn check_small(path: &Path, expected: FileSum) -> Result<(), PackError> {
    let bytes = fs::read(path).map_err(FileError::io("read", path))?;
    let found = FileSum::of(&bytes);
    if found.bytes != expected.bytes {
        let error = FileError::new(path, "", format!("{} bytes", expected.bytes), found.bytes);
        return Err(error.hint("the file was changed since the pack was made, or is damaged").into());
    }
    super::verify::compare(path, || "the file".into(), 0, expected.xxh3, found.xxh3)
}

impl FileSum {
    /// Of bytes that are there.
    pub(super) fn of(bytes: &[u8]) -> Self {
        FileSum { bytes: bytes.len() as u64, xxh3: Checksum(xxh3_64(bytes)) }
    }
}

/// Sums up the first `bytes` bytes of a file: a sum has an order, but the pieces are read by several threads, as copying them
/// out of the page cache takes longer than adding them up.
fn sum_of(path: &Path, file: &File, bytes: u64) -> Result<Checksum, PackError> {
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_READERS);
    std::thread::scope(|scope| {
        let mut pieces = Vec::new();
        for reader in 0..readers as u64 {
            let (full, filled) = sync_channel::<Result<Vec<u8>, FileError>>(1);
            let (empty, emptied) = sync_channel::<Vec<u8>>(2);
            let read = move || {
                for offset in (reader * CHUNK..bytes).step_by(readers * CHUNK as usize) {
                    let mut piece = emptied.try_recv().unwrap_or_default();
                    piece.resize((bytes - offset).min(CHUNK) as usize, 0);
                    let read = read_exact_at(file, &mut piece, offset).map_err(FileError::io("read", path));
                    let failed = read.is_err();
                    if full.send(read.map(|()| piece)).is_err() || failed {
                        break;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("checksum-{reader}"));
            thread.spawn_scoped(scope, read).map_err(FileError::io("start a thread for", path))?;
            pieces.push((filled, empty));
        }
        let mut sum = Xxh3::new();
        for piece in 0..bytes.div_ceil(CHUNK) {
            let (filled, empty) = &pieces[(piece % readers as u64) as usize];
            let piece = filled.recv().expect("a reader sends all of its pieces, or an error")?;
            sum.update(&piece);
            let _ = empty.try_send(piece);
        }
        Ok(Checksum(sum.digest()))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn pieces_are_summed_up_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let whole: Vec<u8> = (0..3 * CHUNK + 5).map(|n| ((n * n) >> 7) as u8).collect();
        fs::write(&path, &whole).unwrap();
        let file = File::open(&path).unwrap();
        for bytes in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            assert_eq!(sum_of(&path, &file, bytes).unwrap(), Checksum(xxh3_64(&whole[..bytes as usize])), "{bytes}");
        }
        assert!(sum_of(&path, &file, 5 * CHUNK).is_err(), "a file that ends early");
    }
}
