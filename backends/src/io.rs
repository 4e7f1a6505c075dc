//! Positioned reads of files: what the expert store reads with, the same on every platform.
//!
//! A file is read through the page cache, or past it where the file system can: then the disk writes straight into the
//! caller's memory, and experts that are kept in slots do not lie in memory twice.

mod direct;
mod queue;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file opened for positioned reads. Threads may read from it at once: no read moves a shared cursor.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
    direct: bool,
    queued: bool,
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
    /// Opens a file for reading through the page cache; a folder is an error.
    pub fn open(path: impl AsRef<Path>) -> io::Result<ReadFile> {
        let file = File::open(path)?;
        // Unix opens folders happily and fails only at the first read
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "expected a file, found a folder"));
        }
        Ok(ReadFile { file, direct: false, queued: false })
    }

    /// Opens a file for reading past the page cache, or through it where the file system refuses that;
    /// [`is_direct`](Self::is_direct) tells which.
    pub fn open_direct(path: impl AsRef<Path>) -> io::Result<ReadFile> {
        let cached = ReadFile::open(&path)?;
        match direct::open(path.as_ref()) {
            Some(file) => Ok(ReadFile { file, direct: true, queued: queue::is_there() }),
            None => Ok(cached),
        }
    }

    /// The same file, read without the system's queue: one positioned read after the other.
    #[must_use]
    pub fn without_queue(self) -> ReadFile {
        ReadFile { queued: false, ..self }
    }

    /// Whether a large read is handed to the system in pieces that are all in flight at once (Linux io_uring). Without
    /// it, a caller that wants the disk's full speed reads pieces on several threads.
    pub fn is_queued(&self) -> bool {
        self.queued
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Drops what the page cache holds of this file, and of no other, so that the next read is one of the disk. False
    /// where the platform has no such request.
    pub fn forget_cached(&self) -> bool {
        forget_cached(&self.file)
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
        let len = buf.len();
        self.read_padded_at(buf, len, offset)
    }

    /// Fills the first `len` bytes of `buf` as [`read_exact_at`](Self::read_exact_at) does; what follows them in `buf`
    /// may be overwritten. A direct read needs no copy when `buf` is an [`AlignedBuffer`](crate::AlignedBuffer) from
    /// its start and `offset` is a multiple of 4096.
    pub fn read_padded_at(&self, buf: &mut [u8], len: usize, offset: u64) -> io::Result<()> {
        if self.direct {
            return direct::read_padded_at(&self.file, buf, len, offset, self.queued);
        }
        let buf = &mut buf[..len];
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

#[cfg(any(target_os = "linux", target_os = "android"))]
fn forget_cached(file: &File) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open as long as `file`; the call takes numbers alone.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) == 0 }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn forget_cached(_file: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::AlignedBuffer;

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
        assert!(ReadFile::open_direct(std::env::temp_dir()).is_err());
    }

    /// Where reads past the cache are refused: procfs always, tmpfs on older kernels (newer ones take the flag and read
    /// as ever).
    #[cfg(target_os = "linux")]
    #[test]
    fn falls_back_to_the_cache() {
        let file = ReadFile::open_direct("/proc/version").unwrap();
        assert!(!file.is_direct());
        let mut buf = [0; 5];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"Linux");
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..9000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = ReadFile::open_direct(&path).unwrap();
        let mut buf = vec![0; 5000];
        file.read_exact_at(&mut buf, 3999).unwrap();
        assert_eq!(buf, bytes[3999..8999]);
    }

    #[test]
    fn queued_reads_end_where_the_file_ends() {
        let bytes: Vec<u8> = (0..5_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let file = ReadFile::open_direct(&path).unwrap();
        for offset in [0, 4096, 1 << 20] {
            check_read(&file, &bytes, offset, bytes.len() - offset, 0, 4096);
            check_read(&file, &bytes, offset, bytes.len() - offset + 1, 0, 4096);
            check_read(&file, &bytes, offset, 40_000_000, 0, 0);
        }
        check_read(&file, &bytes, 8192, 3_000_000, 0, 8192);
    }

    #[test]
    fn pieces_of_a_bounced_read_meet() {
        let bytes: Vec<u8> = (0..20_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let file = ReadFile::open_direct(&path).unwrap();
        let mut buf = vec![0; bytes.len() - 5];
        file.read_exact_at(&mut buf, 5).unwrap();
        assert!(buf == bytes[5..]);
        let error = file.read_exact_at(&mut buf, 7).unwrap_err();
        let short = error.get_ref().unwrap().downcast_ref::<ShortRead>().unwrap();
        assert_eq!(*short, ShortRead { expected: buf.len(), found: buf.len() - 2 });
    }

    /// Any offset, length, address and room, past the end too: what came, how far it came, and what lies beyond.
    fn check_read(file: &ReadFile, bytes: &[u8], offset: usize, len: usize, shift: usize, room: usize) {
        let mut buffer = AlignedBuffer::new(shift + len + room).unwrap();
        buffer.fill(0xa5);
        let outcome = file.read_padded_at(&mut buffer[shift..shift + len + room], len, offset as u64);
        let left = bytes.get(offset..).unwrap_or_default();
        match outcome {
            Ok(()) => assert!(buffer[shift..shift + len] == left[..len]),
            Err(error) => {
                let short = error.get_ref().unwrap().downcast_ref::<ShortRead>().unwrap();
                assert_eq!(*short, ShortRead { expected: len, found: left.len() });
                assert!(left.len() < len);
            }
        }
        assert!(buffer[..shift].iter().all(|&byte| byte == 0xa5));
        assert!(buffer[shift + len + room..].iter().all(|&byte| byte == 0xa5));
    }

    proptest::proptest! {
        #[test]
        fn any_read_equals_the_bytes_of_the_file(
            (file_len, seed) in (0_usize..40_000, proptest::num::u32::ANY),
            reads in proptest::collection::vec(
                (0_usize..12, 0_usize..4200, 0_usize..20_000, 0_usize..8, 0_usize..5000, 0_u8..2), 1..12),
        ) {
            let bytes: Vec<u8> =
                (0..file_len as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            std::fs::write(&path, &bytes).unwrap();
            let open_direct = || ReadFile::open_direct(&path).unwrap();
            let files = [ReadFile::open(&path).unwrap(), open_direct(), open_direct().without_queue()];
            for (block, within, len, shift, room, aligned) in reads {
                // half of the reads are such that no copy is needed
                let (within, shift) = if aligned == 1 { (0, 0) } else { (within, shift) };
                for file in &files {
                    check_read(file, &bytes, block * 4096 + within, len, shift, room);
                }
            }
        }
    }
}
