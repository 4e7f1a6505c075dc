//! Files opened past the page cache, under one name on every platform, and the reads that such files allow.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;

use super::{ShortRead, queue, read_at};
use crate::AlignedBuffer;

/// Offset, length and address of a direct read are multiples of this, which suits every disk.
pub(super) const BLOCK: usize = 4096;

/// The most that goes through a thread's own buffer at once.
const BOUNCE: usize = 8 << 20;

thread_local! {
    static BOUNCE_BUFFER: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::empty()) };
}

/// Opens `path` for reads past the page cache; `None` where the file system refuses.
pub(super) fn open(path: &Path) -> Option<File> {
    let file = open_past_cache(path).ok()?;
    // some file systems open such a file and refuse its first read
    let mut block = AlignedBuffer::new(BLOCK)?;
    read_at(&file, &mut block[..BLOCK], 0).ok()?;
    Some(file)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_past_cache(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(target_vendor = "apple")]
fn open_past_cache(path: &Path) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let file = File::open(path)?;
    // SAFETY: the descriptor is open as long as `file`, and F_NOCACHE takes an integer and touches no memory.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(file),
    }
}

#[cfg(windows)]
fn open_past_cache(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_FLAG_NO_BUFFERING: u32 = 0x2000_0000;
    std::fs::OpenOptions::new().read(true).custom_flags(FILE_FLAG_NO_BUFFERING).open(path)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
fn open_past_cache(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Fills the first `len` bytes of `buf`. Blocks are read straight into `buf` when they are aligned and it has room for
/// the last one, else through the buffer of the thread.
pub(super) fn read_padded_at(file: &File, buf: &mut [u8], len: usize, offset: u64, queued: bool) -> io::Result<()> {
    let blocks = len.next_multiple_of(BLOCK);
    let is_aligned = buf.as_ptr().addr().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64);
    if !is_aligned || buf.len() < blocks {
        return BOUNCE_BUFFER.with_borrow_mut(|bounce| read_bounced(file, &mut buf[..len], offset, bounce, queued));
    }
    match read_blocks(file, &mut buf[..blocks], len, offset, queued)? {
        found if found < len => Err(ShortRead { expected: len, found }.into()),
        _ => Ok(()),
    }
}

fn read_bounced(file: &File, buf: &mut [u8], offset: u64, bounce: &mut AlignedBuffer, queued: bool) -> io::Result<()> {
    let expected = buf.len();
    let mut found = 0;
    while found < expected {
        let at = offset + found as u64;
        let skip = (at % BLOCK as u64) as usize;
        let piece = (expected - found).min(BOUNCE - BLOCK);
        let blocks = (skip + piece).next_multiple_of(BLOCK);
        if bounce.len() < blocks {
            *bounce = AlignedBuffer::new(blocks).ok_or(io::ErrorKind::OutOfMemory)?;
        }
        let came = read_blocks(file, &mut bounce[..blocks], skip + piece, at - skip as u64, queued)?;
        let came = came.saturating_sub(skip).min(piece);
        buf[found..found + came].copy_from_slice(&bounce[skip..skip + came]);
        found += came;
        if came < piece {
            return Err(ShortRead { expected, found }.into());
        }
    }
    Ok(())
}

/// Reads whole blocks until `wanted` bytes are there or the file ends: how many came.
fn read_blocks(file: &File, blocks: &mut [u8], wanted: usize, offset: u64, queued: bool) -> io::Result<usize> {
    let read = if queued { queue::read } else { read_at };
    let mut found = 0;
    while found < wanted {
        match read(file, &mut blocks[found..], offset + found as u64) {
            Ok(n) if found + n >= wanted => return Ok(found + n),
            // less than a block: the file ends in it
            Ok(n) if n < BLOCK => return Ok(found + n),
            // the next read has to start at a block again
            Ok(n) => found += n - n % BLOCK,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
