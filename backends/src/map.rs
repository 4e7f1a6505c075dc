//! Read-only memory maps of weight files.
//!
//! Only resident weights are read through a map; experts are read explicitly (their views are never touched).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::origin;
use crate::positioned::read_exact_at;

/// The bytes of a file, which live as long as this value: mapped read-only, or read.
///
/// The file must not be shortened while it is mapped: as for any mapped file, the operating system then ends the
/// process (SIGBUS) when a missing page is touched.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    /// A map of memory has at least one byte.
    len: usize,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        origin::forget(&self.map);
    }
}

/// What [`map_file`] gives.
#[derive(Debug)]
pub enum MapOutcome {
    /// The file, mapped.
    Mapped(Mapped),
    /// The file system maps no files, as some in user space (FUSE): what the system said.
    Refused(io::Error),
}

/// Maps a whole file read-only.
///
/// # Errors
/// What the operating system says: no such file, no permission, not a regular file, no memory.
pub fn map_file(path: &Path) -> io::Result<MapOutcome> {
    let file = regular(path)?;
    // SAFETY: the map is read-only and is only ever seen as plain bytes, for which every value is valid. What is left
    // is that another process rewrites the file meanwhile: weight files are written once and replaced by rename.
    match unsafe { Mmap::map(&file) } {
        Ok(map) => {
            origin::remember(&map, path, &file.metadata()?);
            Ok(MapOutcome::Mapped(Mapped { len: map.len(), map }))
        }
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(error),
        Err(error) => Ok(MapOutcome::Refused(error)),
    }
}

/// The parts `wanted` of a file, each at its place in memory that is as long as the file. What lies between them is
/// zeros, and takes no memory until somebody touches it.
///
/// # Errors
/// What the operating system says; a part that is not in the file.
pub fn read_parts_of_file(path: &Path, wanted: &[Range<u64>]) -> io::Result<Mapped> {
    let file = regular(path)?;
    let too_long = || io::Error::new(io::ErrorKind::OutOfMemory, "longer than addresses are");
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| too_long())?;
    // address space alone: no promise of memory is asked for
    let mut memory: MmapMut = MmapOptions::new().len(len.max(1)).no_reserve_swap().map_anon()?;
    for part in wanted {
        let inside = || Some(usize::try_from(part.start).ok()?..usize::try_from(part.end).ok()?);
        let place = inside().and_then(|place| memory.get_mut(place));
        let place = place.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        read_exact_at(&file, place, part.start)?;
    }
    Ok(Mapped { map: memory.make_read_only()?, len })
}

fn regular(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(path: &Path) -> Mapped {
        match map_file(path).expect("there is such a file") {
            MapOutcome::Mapped(mapped) => mapped,
            MapOutcome::Refused(error) => panic!("{error}"),
        }
    }

    #[test]
    fn maps_the_bytes_of_a_file_and_refuses_a_folder() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let read = std::fs::read(&path).expect("the manifest of this crate is readable");
        assert_eq!(mapped(&path).as_ref(), &read[..]);
        assert!(map_file(Path::new(env!("CARGO_MANIFEST_DIR"))).is_err());
    }

    #[test]
    fn reads_parts_to_their_places() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let whole = std::fs::read(&path).expect("the manifest of this crate is readable");
        let len = whole.len() as u64;
        let parts = read_parts_of_file(&path, &[2..10, 20..20, len - 5..len]).expect("reads");
        let found = parts.as_ref();
        assert_eq!(
            (found.len(), &found[2..10], &found[whole.len() - 5..]),
            (whole.len(), &whole[2..10], &whole[whole.len() - 5..])
        );
        assert!(found[10..whole.len() - 5].iter().all(|byte| *byte == 0));
        assert_eq!(read_parts_of_file(&path, &[Range { start: 0, end: len }]).expect("reads").as_ref(), &whole[..]);
        for outside in [len..len + 1, 0..u64::MAX] {
            assert!(read_parts_of_file(&path, &[outside]).is_err());
        }
        let empty = tempfile::NamedTempFile::new().expect("makes a file");
        assert_eq!(read_parts_of_file(empty.path(), &[]).expect("reads").as_ref(), b"");
    }

    /// Files of the kernel are read only.
    #[cfg(target_os = "linux")]
    #[test]
    fn says_when_a_file_system_maps_nothing() {
        let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
        if path.exists() {
            assert!(matches!(map_file(path), Ok(MapOutcome::Refused(_))));
        }
    }
}
