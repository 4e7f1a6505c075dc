//! The folder that session files are in: which of them goes on where a prompt begins, and which make room.
//!
//! A file is called after its model and its tokens. It appears under its name when it is whole, and older files go when
//! all of them together take more than the folder may hold, those first that were not used for the longest time.
//!
//! Files hold what people wrote: they are for their owner alone. Whoever writes a file holds a lock on it, so that what a
//! killed program left behind is known.

use std::collections::BTreeSet;
use std::fs::{self, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use flashflood_backends::new_files;
use flashflood_backends::positioned::sync_folder;
use xxhash_rust::xxh3::xxh3_64;

use super::file::{Header, SessionReader, SessionWriter};
use super::{Identity, SessionFileError};
use crate::sizes::bytes_for_people;

const EXTENSION: &str = "session";
/// What a file is called while it is written ends so.
const PART: &str = "part";
/// A file that nobody has written to for so long is what a killed program left behind, where the file system has no locks
/// that say so.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Between making a file and locking it.
const JUST_MADE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(2) };

/// A folder of session files.
#[derive(Clone, Debug)]
pub struct SessionFolder {
    path: PathBuf,
    space: u64,
    /// What this conversation was saved to last: its next turn replaces it.
    saved: Option<PathBuf>,
    /// Formats of keys and values that somebody was told of, which are not the engine's.
    told: Arc<Mutex<BTreeSet<String>>>,
}

/// A file that a prompt can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usable {
    /// The file.
    pub path: PathBuf,
    /// How many tokens of the prompt it has the state of.
    pub tokens: usize,
    used: SystemTime,
}

impl SessionFolder {
    /// Opens the folder, and makes it where there is none. Files in it may take `space` bytes together.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open(path: &Path, space: u64) -> Result<SessionFolder, SessionFileError> {
        new_files::private_folder(path).map_err(SessionFileError::io("create", path))?;
        let folder = SessionFolder { path: path.to_owned(), space, saved: None, told: Arc::default() };
        folder.drop_parts();
        Ok(folder)
    }

    /// What is saved from now on is of another conversation: the file that was saved last stays.
    pub fn begin_another(&mut self) {
        self.saved = None;
    }

    /// Files of the model `identity` that have the state of the beginning of `tokens`, the best first, and what is wrong
    /// with those that cannot be used. Reads headers only. Files that are called after another model are passed over.
    pub(crate) fn find(&self, identity: &Identity, tokens: &[u32]) -> (Vec<Usable>, Vec<SessionFileError>) {
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        let prefix = format!("{:016x}-", identity.fingerprint);
        for (path, _, used) in self.files(EXTENSION) {
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                continue;
            }
            match SessionReader::open(&path, identity) {
                Ok(file) => match file.header.usable(tokens) {
                    0 => {}
                    tokens => usable.push(Usable { path, tokens, used }),
                },
                // another process made room
                Err(SessionFileError::File(e)) if e.io_error().is_some_and(|e| e.kind() == ErrorKind::NotFound) => {}
                // there may be hundreds, and they are looked at for every prompt
                Err(SessionFileError::OtherFormat { ref found, .. }) if !self.tell(found) => {}
                Err(e) => refused.push(e),
            }
        }
        usable.sort_by(|a, b| (b.tokens, b.used, &b.path).cmp(&(a.tokens, a.used, &a.path)));
        (usable, refused)
    }

    /// Whether nobody was told yet of files whose keys and values are kept as `format`.
    fn tell(&self, format: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(format.to_owned())
    }

    /// Says that a file is in use, so that others make room first.
    pub(crate) fn touch(&self, path: &Path) {
        // where that fails, the file is merely dropped sooner
        let _ = fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Writes a file: `write` is given the writer after the header. Replaces what this conversation was saved to before,
    /// and other files whose whole timeline this one begins with; then drops what is beyond the folder's space.
    ///
    /// # Errors
    /// A session larger than the folder may hold, and what the system refuses: then the files are as they were.
    pub(crate) fn save<E: From<SessionFileError>>(
        &mut self,
        header: &Header,
        write: impl FnOnce(&mut SessionWriter) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let bytes = header.file_bytes();
        if bytes > self.space {
            let (needed, space) = (bytes_for_people(bytes), bytes_for_people(self.space));
            return Err(SessionFileError::NoSpace { needed, space }.into());
        }
        let ids: &[u8] = bytemuck::cast_slice(&header.tokens);
        // the same timeline in another format is another file
        let name = format!("{:016x}-{:016x}", header.identity.fingerprint, xxh3_64(ids) ^ header.identity.kv_code());
        let path = self.path.join(format!("{name}.{EXTENSION}"));
        // several programs may save the same timeline at the same time
        let made = new_files::new_private_file_in(&self.path, &name, PART);
        let (part, file) = made.map_err(SessionFileError::io("create a file in", &self.path))?;
        let written = SessionWriter::create(&part, file, header).map_err(E::from).and_then(|mut writer| {
            write(&mut writer)?;
            writer.finish()?;
            fs::rename(&part, &path).map_err(SessionFileError::io("rename to", &path))?;
            Ok(sync_folder(&self.path).map_err(SessionFileError::io("sync", &self.path))?)
        });
        if let Err(e) = written {
            // a half-written file is of no use to anybody
            let _ = fs::remove_file(&part);
            return Err(e);
        }
        self.drop_replaced(header, &path);
        self.saved = Some(path.clone());
        self.make_room(&path);
        Ok(path)
    }

    /// Removes files that the one at `path` replaces.
    fn drop_replaced(&mut self, header: &Header, path: &Path) {
        let mut replaced: Vec<PathBuf> = self.saved.take().into_iter().collect();
        for (other, ..) in self.files(EXTENSION) {
            let Ok(file) = SessionReader::open(&other, &header.identity) else { continue };
            if file.header.tokens.len() < header.tokens.len() && header.tokens.starts_with(&file.header.tokens) {
                replaced.push(other);
            }
        }
        for other in replaced.iter().filter(|other| *other != path) {
            remove(other);
        }
    }

    /// Removes the files that were not used for the longest time until the others fit; never the one at `newest`.
    fn make_room(&self, newest: &Path) {
        self.drop_parts();
        let parts: u64 = self.files(PART).iter().map(|(_, bytes, _)| bytes).sum();
        let mut files = self.files(EXTENSION);
        files.sort_by(|a, b| (a.2, &a.0).cmp(&(b.2, &b.0)));
        let mut all: u64 = parts + files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (path, bytes, _) in files.iter().filter(|(path, ..)| path != newest) {
            if all <= self.space {
                break;
            }
            remove(path);
            all -= bytes;
        }
    }

    /// Removes what killed programs left behind: files that were begun, and that nobody writes.
    fn drop_parts(&self) {
        for (path, _, used) in self.files(PART) {
            let since = used.elapsed().unwrap_or_default();
            // a link is nobody's file
            let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
            let lock = || fs::File::options().write(true).open(&path).map(|file| file.try_lock());
            let is_left = match is_file.then(lock) {
                None => false,
                Some(Ok(Ok(()))) => since >= JUST_MADE,
                Some(Ok(Err(TryLockError::WouldBlock))) => false,
                Some(Ok(Err(TryLockError::Error(_))) | Err(_)) => since > ABANDONED,
            };
            if is_left {
                tracing::info!("{}: a program that was ended left it behind; it is removed", path.display());
                remove(&path);
            }
        }
    }

    /// Files whose name ends in `extension`, with their length and when they were used last. What is no file is listed
    /// too, without a length: whoever opens it says so.
    fn files(&self, extension: &str) -> Vec<(PathBuf, u64, SystemTime)> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension));
        paths
            .filter_map(|path| {
                let meta = fs::metadata(&path).ok()?;
                let bytes = if meta.is_file() { meta.len() } else { 0 };
                Some((path, bytes, meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)))
            })
            .collect()
    }
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        tracing::debug!("{}: cannot remove: {e}", path.display());
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> (tempfile::TempDir, SessionFolder) {
        let root = tempfile::tempdir().unwrap();
        let folder = SessionFolder::open(&root.path().join("sessions"), 1 << 20).unwrap();
        (root, folder)
    }

    #[test]
    fn the_folder_is_its_owners_alone() {
        let (_root, folder) = folder();
        assert_eq!(fs::metadata(&folder.path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_killed_programs_left_behind_goes_and_what_is_written_stays() {
        let (_root, folder) = folder();
        let (left, _) = new_files::new_private_file_in(&folder.path, "left", PART).unwrap();
        let (written, file) = new_files::new_private_file_in(&folder.path, "written", PART).unwrap();
        file.lock().unwrap();
        let victim = folder.path.join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path.join("link.part")).unwrap();
        folder.drop_parts();
        assert!(!left.exists() && written.exists());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        drop(file);
        SessionFolder::open(&folder.path, 1).unwrap();
        assert!(!written.exists());
    }
}
