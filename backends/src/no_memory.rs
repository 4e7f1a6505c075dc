//! What happens when there is no memory for what cannot do without: std ends the program by a signal then, with no word of
//! what to do about it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread asked for last and that were not there; 0 when all were. Without a constructor or a
    /// destructor, so that allocators and handlers of signals may look at it.
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which remembers what it could not give: for programs that call [`explain_no_memory`].
pub struct RememberingAllocator;

/// Whoever asks may do without, so nothing more happens here.
fn remember(given: *mut u8, bytes: usize) -> *mut u8 {
    if given.is_null() {
        let _ = REFUSED.try_with(|refused| refused.set(bytes));
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

/// For whoever goes on without the memory that this thread asked for last: when something else ends the program, that is
/// not the reason.
pub fn forget_refused() {
    let _ = REFUSED.try_with(|refused| refused.set(0));
}

/// Bytes that this thread asked for last and that were not there.
#[cfg(any(unix, test))]
fn refused() -> Option<usize> {
    REFUSED.try_with(Cell::get).ok().filter(|bytes| *bytes > 0)
}

/// To be called before there are threads. Where memory that is not there ends the program, it ends with a hint and exit
/// code 1 instead of a signal. For programs whose allocator is [`RememberingAllocator`]; on Windows std's own message is
/// the last word.
pub fn explain_no_memory() {
    // glibc keeps 64 MiB of addresses for each of up to 8 arenas a processor, which are then missing for what is needed
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if crate::memory::left_by_limits().is_some_and(|left| left >> 26 < 8 * crate::machine::threads() as u64) {
        // SAFETY: the call takes numbers, and no other thread runs yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    #[cfg(unix)]
    {
        use crate::last_words::{Line, end, handle};

        extern "C" fn aborted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            if let Some(bytes) = refused() {
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

/// What helps where threads cannot be had.
pub const NO_THREADS_HINT: &str = "raise ulimit -u, ulimit -v, or the container's limit of processes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_remembers_what_it_was_refused_until_it_is_told_to_forget() {
        let layout = Layout::from_size_align(isize::MAX as usize - 64, 1).expect("a layout");
        // SAFETY: the layout is not of size zero, and nothing was given that could be lost.
        let given = unsafe { RememberingAllocator.alloc(std::hint::black_box(layout)) };
        assert!(std::hint::black_box(given).is_null());
        assert_eq!(refused(), Some(layout.size()));
        assert_eq!(std::thread::spawn(refused).join().expect("it ends"), None);
        forget_refused();
        assert_eq!(refused(), None);
    }
}
