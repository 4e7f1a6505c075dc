//! What happens when a part of a mapped file is not there: the disk failed, or somebody shortened the file.

/// Ends the program with a message that names the file and exit code 1, where it would end with a signal and no word. For
/// programs: a library leaves the signals of its process alone. Windows, which keeps mapped files as long as they are, has
/// no such signal.
pub fn explain_lost_pages() {
    #[cfg(unix)]
    system::explain();
}

#[cfg(unix)]
mod system {
    use std::os::unix::ffi::OsStrExt;
    use std::sync::OnceLock;

    use crate::last_words::{Line, end, handle};
    use crate::origin::{AtAddress, origin_at};

    /// What was called before at the same signal: macOS tells a stack that overflows by it, which std has words for.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    extern "C" fn lost(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system gives a handler with SA_SIGINFO a pointer to what it knows, which for this signal has an
        // address where no process sent it.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
        if !is_sent(code) {
            match origin_at(address) {
                AtAddress::File(file) => {
                    say(&[b"error: ", Line::of(file.path.as_os_str().as_bytes()).bytes(), b": a part of it"])
                }
                AtAddress::Busy => say(&[b"error: ", b"a part of a mapped file", b""]),
                AtAddress::Nothing => {}
            }
        }
        // not a file of ours: whoever had the signal before has it again, when what caused it is tried once more
        if let Some(before) = BEFORE.get() {
            // SAFETY: the pointer is to a value that the system filled in when the handler was set.
            unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
        } else {
            // SAFETY: the call takes numbers; what is called at first ends the program.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        if is_sent(code) {
            // SAFETY: the call takes a number, and may be made in a handler of a signal, after which this one comes.
            unsafe { libc::raise(signal) };
        }
    }

    /// Whether a process sent the signal: nothing that this one did caused it.
    fn is_sent(code: libc::c_int) -> bool {
        // macOS counts the ways to send one from 0x10001 on
        code <= 0 || cfg!(target_vendor = "apple") && code > 0xffff
    }

    fn say([start, name, what]: &[&[u8]; 3]) -> ! {
        end(&[
            start,
            name,
            what,
            b" could not be read: the disk failed, or the file was shortened\n\
            hint: `flashflood verify MODEL` finds what is damaged; a download or a copy of the file may help\n",
        ])
    }

    pub(super) fn explain() {
        if let Some(before) = handle(libc::SIGBUS, lost) {
            let _ = BEFORE.set(before);
        }
    }
}
