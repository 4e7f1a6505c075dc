//! Where the bytes of mapped files lie in them: whoever wants bytes once reads them there, and gets an error of the disk as
//! one. Whoever touches the map gets a signal.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::sync::TryLockError;
use std::sync::{Arc, PoisonError, RwLock};

/// A place in a file that is mapped.
#[derive(Clone, Debug)]
pub struct Origin {
    file: Arc<Known>,
    /// From the start of the file.
    pub offset: u64,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) path: PathBuf,
    /// Of the file that was mapped: another may have its name since.
    identity: [u64; 3],
}

/// The maps of this process by their first addresses, with their lengths.
static MAPS: RwLock<BTreeMap<usize, (usize, Arc<Known>)>> = RwLock::new(BTreeMap::new());

/// Where `bytes` lie in a file; `None` for those that are not mapped.
pub fn origin(bytes: &[u8]) -> Option<Origin> {
    let start = bytes.as_ptr().addr();
    let maps = MAPS.read().unwrap_or_else(PoisonError::into_inner);
    let (first, (len, file)) = maps.range(..=start).next_back()?;
    let offset = start - first;
    let is_inside = !bytes.is_empty() && offset.checked_add(bytes.len())? <= *len;
    is_inside.then(|| Origin { file: file.clone(), offset: offset as u64 })
}

impl Origin {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Opens the file: maps need no descriptors, and a model may have more files than a process may have open.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::Other`] for another file of this name.
    pub fn open(&self) -> io::Result<File> {
        let file = File::open(&self.file.path)?;
        match identity(&file.metadata()?) == self.file.identity {
            true => Ok(file),
            false => Err(io::Error::other("another file has this name now")),
        }
    }
}

/// What is mapped at an address.
#[cfg(unix)]
pub(crate) enum AtAddress {
    File(Arc<Known>),
    /// No file.
    Nothing,
    /// Another thread maps a file just now: nobody can say.
    Busy,
}

/// What has a map at `address`. It allocates nothing and waits for nobody, so that a handler of a signal that came of a
/// read of that address may call it.
#[cfg(unix)]
pub(crate) fn origin_at(address: usize) -> AtAddress {
    let maps = match MAPS.try_read() {
        Ok(maps) => maps,
        Err(TryLockError::Poisoned(maps)) => maps.into_inner(),
        Err(TryLockError::WouldBlock) => return AtAddress::Busy,
    };
    match maps.range(..=address).next_back() {
        // a map ends with its last page
        Some((first, (len, file))) if address - first < len.next_multiple_of(crate::PAGE) => {
            AtAddress::File(file.clone())
        }
        _ => AtAddress::Nothing,
    }
}

/// Remembers a map until it is forgotten.
pub(crate) fn remember(map: &[u8], path: &Path, metadata: &Metadata) {
    // the process may go to another folder
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = Known { path, identity: identity(metadata) };
    let mut maps = MAPS.write().unwrap_or_else(PoisonError::into_inner);
    maps.insert(map.as_ptr().addr(), (map.len(), Arc::new(known)));
}

/// Forgets a map that is about to go: its addresses may have other bytes then.
pub(crate) fn forget(map: &[u8]) {
    MAPS.write().unwrap_or_else(PoisonError::into_inner).remove(&map.as_ptr().addr());
}

/// The same after the file was shortened or written to: whoever reads it finds out.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> [u64; 3] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev(), metadata.ino(), 0]
}

/// The best that std tells; another after the file was shortened.
#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> [u64; 3] {
    let made = metadata.created().ok().and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
    let made = made.unwrap_or_default();
    [metadata.len(), made.as_secs(), u64::from(made.subsec_nanos())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MapOutcome, map_file};

    #[test]
    fn bytes_of_maps_have_a_place_in_a_file() {
        let folder = tempfile::tempdir().expect("makes a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 10_000]).expect("writes");
        let MapOutcome::Mapped(mapped) = map_file(&path).expect("there is such a file") else { return };
        let bytes = mapped.as_ref();
        let found = origin(&bytes[5000..6000]).expect("it is mapped");
        assert_eq!((found.path(), found.offset), (&path as &Path, 5000));
        assert!(found.open().is_ok());
        assert!(origin(&bytes[..0]).is_none() && origin(&[1, 2, 3]).is_none() && origin(&vec![0; 1 << 20]).is_none());
        let other = folder.path().join("other");
        std::fs::write(&other, [8; 10_000]).expect("writes");
        let _ = std::fs::rename(&other, &path);
        #[cfg(unix)]
        assert_eq!(found.open().expect_err("another file has its name").kind(), io::ErrorKind::Other);
    }
    #[test]
    fn paths_are_absolute() {
        // the manifest of this crate, whose folder tests run in
        let MapOutcome::Mapped(mapped) = map_file(Path::new("Cargo.toml")).expect("there is such a file") else {
            return;
        };
        let found = origin(mapped.as_ref()).expect("it is mapped");
        assert!(found.path().is_absolute() && found.open().is_ok(), "{found:?}");
        #[cfg(unix)]
        {
            let start = mapped.as_ref().as_ptr().addr();
            assert!(matches!(origin_at(start), AtAddress::File(file) if file.path == found.path()));
            assert!(matches!(origin_at(8), AtAddress::Nothing));
        }
    }
}
