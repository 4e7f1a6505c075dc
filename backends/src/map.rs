//! Read-only memory maps of weight files.
//!
//! Only resident weights are read through a map; experts are read explicitly (their views are never touched).

use std::fs::File;
use std::io;
use std::path::Path;

/// A file mapped read-only. The map lives as long as this value.
///
/// The file must not be shortened while it is mapped: as for any mapped file, the operating system then ends the
/// process (SIGBUS) when a missing page is touched.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a whole file read-only.
///
/// # Errors
/// What the operating system says: no such file, no permission, not a regular file.
pub fn map_file(path: &Path) -> io::Result<Mapped> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // SAFETY: the map is read-only and is only ever seen as plain bytes, for which every value is valid. What is left
    // is that another process rewrites the file meanwhile: weight files are written once and replaced by rename.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Mapped(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_bytes_of_a_file_and_refuses_a_folder() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let read = std::fs::read(&path).expect("the manifest of this crate is readable");
        assert_eq!(map_file(&path).expect("maps").as_ref(), &read[..]);
        assert!(map_file(Path::new(env!("CARGO_MANIFEST_DIR"))).is_err());
    }
}
