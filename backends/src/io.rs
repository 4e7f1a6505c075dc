//! Positioned reads of files: what the expert store reads with, the same on every platform.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file opened for positioned reads. Threads may read from it at once: no read moves a shared cursor.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
}

/// The cause inside an [`io::ErrorKind::UnexpectedEof`] of [`ReadFile::read_exact_at`]: how far the read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortRead {
    /// Bytes asked for.
    pub expected: usize,
    /// Bytes that came before the file ended.
    pub found: usize,
}

impl fmt::Display for ShortRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file ended after {} of {} bytes", self.found, self.expected)
    }
}

impl std::error::Error for ShortRead {}

impl From<ShortRead> for io::Error {
    fn from(short: ShortRead) -> Self {
        io::Error::new(io::ErrorKind::UnexpectedEof, short)
    }
}

impl ReadFile {
    /// Opens a file for reading; a folder is an error.
    pub fn open(path: impl AsRef<Path>) -> io::Result<ReadFile> {
        let file = File::open(path)?;
        // Unix opens folders happily and fails only at the first read
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "expected a file, found a folder"));
        }
        Ok(ReadFile { file })
    }

    /// Bytes of the file now.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the file holds no byte.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` with the bytes at `offset`. A file that ends before is [`io::ErrorKind::UnexpectedEof`] with a
    /// [`ShortRead`] inside.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let expected = buf.len();
        let mut found = 0;
        while found < expected {
            match read_at(&self.file, &mut buf[found..], offset + found as u64) {
                Ok(0) => return Err(ShortRead { expected, found }.into()),
                Ok(n) => found += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // moves the cursor too, which nothing here looks at
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn file_with(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("flashflood-io-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn reads_at_an_offset() {
        let path = file_with("offset", b"0123456789");
        let file = ReadFile::open(&path).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        let mut buf = [0; 4];
        file.read_exact_at(&mut buf, 3).unwrap();
        assert_eq!(&buf, b"3456");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_short_read_says_how_far_it_came() {
        let path = file_with("short", b"0123456789");
        let file = ReadFile::open(&path).unwrap();
        let error = file.read_exact_at(&mut [0; 8], 6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let short = error.get_ref().unwrap().downcast_ref::<ShortRead>().unwrap();
        assert_eq!(*short, ShortRead { expected: 8, found: 4 });
        assert_eq!(error.to_string(), "the file ended after 4 of 8 bytes");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_folder_is_not_a_file() {
        assert!(ReadFile::open(std::env::temp_dir()).is_err());
    }
}
