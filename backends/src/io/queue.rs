//! Direct reads through the system's queue (Linux io_uring): all pieces of a read are with the disk at once, for one
//! system call and no thread each.

use std::fs::File;
use std::io;

/// A read is queued in pieces of this many bytes: several even of a record of 2 MB, few enough to cost nothing.
#[cfg(target_os = "linux")]
const PIECE: usize = 512 << 10;

/// Whether this system lets this process have a queue; containers often refuse it.
pub(super) fn is_there() -> bool {
    #[cfg(target_os = "linux")]
    {
        static THERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *THERE.get_or_init(|| io_uring::IoUring::new(2).is_ok())
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Reads blocks into `blocks`: how many bytes came before the first piece that came short, which the caller reads on
/// from. Buffer, offset and length are as direct reads want them.
#[cfg(target_os = "linux")]
pub(super) fn read(file: &File, blocks: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::cell::RefCell;
    thread_local! {
        static RING: RefCell<Option<io_uring::IoUring>> = const { RefCell::new(None) };
    }
    // a single piece gains nothing
    if blocks.len() <= PIECE {
        return super::read_at(file, blocks, offset);
    }
    RING.with_borrow_mut(|ring| {
        let ring = match ring {
            Some(ring) => ring,
            // a limit on locked memory may allow some threads a ring and not others
            None => match io_uring::IoUring::new(ENTRIES) {
                Ok(new) => ring.insert(new),
                Err(_) => return super::read_at(file, blocks, offset),
            },
        };
        read_pieces(ring, file, blocks, offset)
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(file: &File, blocks: &mut [u8], offset: u64) -> io::Result<usize> {
    super::read_at(file, blocks, offset)
}

/// Pieces of one read in flight at once.
#[cfg(target_os = "linux")]
const ENTRIES: u32 = 64;

#[cfg(target_os = "linux")]
fn read_pieces(ring: &mut io_uring::IoUring, file: &File, blocks: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let descriptor = io_uring::types::Fd(file.as_raw_fd());
    let total = blocks.len();
    // the first byte that did not come, and why if there was an error
    let mut end = total;
    let mut error = None;
    let mut pieces = blocks.chunks_mut(PIECE).enumerate();
    let mut flying = 0;
    loop {
        while flying < ENTRIES {
            let Some((index, piece)) = pieces.next() else { break };
            let at = offset + (index * PIECE) as u64;
            let read = io_uring::opcode::Read::new(descriptor, piece.as_mut_ptr(), piece.len() as u32);
            let entry = read.offset(at).build().user_data(index as u64);
            // SAFETY: the file is open and `blocks` borrowed until this function returns, which it does only when every
            // entry it pushed has completed; the pieces do not overlap.
            if unsafe { ring.submission().push(&entry) }.is_err() {
                // there is room for ENTRIES, of which `flying` are taken
                unreachable!("the queue has room");
            }
            flying += 1;
        }
        if flying == 0 {
            break;
        }
        if let Err(e) = ring.submit_and_wait(1)
            && !matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
        {
            // The system would still write into memory that the caller is about to free; nothing safe is left to do.
            eprintln!("error: waiting for reads of the disk: {e}");
            std::process::abort();
        }
        for done in ring.completion() {
            flying -= 1;
            let first = done.user_data() as usize * PIECE;
            let wanted = PIECE.min(total - first);
            let found = usize::try_from(done.result()).unwrap_or(0);
            if found < wanted && first + found < end {
                end = first + found;
                // the one furthest to the front counts
                error = (done.result() < 0).then(|| io::Error::from_raw_os_error(-done.result()));
            }
        }
    }
    match error {
        // what came before the error is found again by whoever reads on
        Some(error) if end == 0 => Err(error),
        _ => Ok(end),
    }
}
