//! What happens when there is no memory for what cannot do without: std ends the program by a signal then, with no word of
//! what to do about it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that were asked for last and not there; 0 when all were.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which remembers what it could not give: for programs that call [`explain_no_memory`].
pub struct RememberingAllocator;

/// Whoever asks may do without, so nothing more happens here.
fn remember(given: *mut u8, bytes: usize) -> *mut u8 {
    if given.is_null() {
        REFUSED.store(bytes, Ordering::Relaxed);
    }
    given
}

// SAFETY: every call is the system allocator's, with the same arguments and the same result.
unsafe impl GlobalAlloc for RememberingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises, passed on
        remember(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises, passed on
        remember(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises, passed on
        remember(unsafe { System.realloc(start, layout, size) }, size)
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises, passed on
        unsafe { System.dealloc(start, layout) }
    }
}

/// Bytes that were asked for last and not there, of a program whose allocator is [`RememberingAllocator`].
pub fn refused_memory() -> Option<usize> {
    match REFUSED.load(Ordering::Relaxed) {
        0 => None,
        bytes => Some(bytes),
    }
}

/// To be called before there are threads. Where memory that is not there ends the program, it ends with a hint and exit code 1 instead of a signal. For programs
/// whose allocator is [`RememberingAllocator`]; on Windows std's own message is the last word.
pub fn explain_no_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if crate::memory::has_limits() {
        // glibc keeps 64 MiB of addresses for each thread, which are then missing for what is needed
        // SAFETY: the call takes numbers, and no other thread runs yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    #[cfg(unix)]
    {
        use crate::last_words::{Line, end, handle};

        extern "C" fn aborted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            if let Some(bytes) = refused_memory() {
                let bytes = Line::of_number(bytes);
                end(&[
                    b"error: there is no memory for ",
                    bytes.bytes(),
                    b" bytes more\nhint: ",
                    NO_MEMORY_HINT.as_bytes(),
                    b"\n",
                ]);
            }
            // `abort` ends the program when a handler returns
        }
        handle(libc::SIGABRT, aborted);
    }
}

/// What helps where memory is short.
pub const NO_MEMORY_HINT: &str =
    "end other programs, raise the limit of this one (ulimit -v), or take a smaller --ctx or --expert-cache";
