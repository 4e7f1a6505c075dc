//! What happens when a part of a mapped file is not there: the disk failed, or somebody shortened the file.

/// Ends the program with a message and exit code 1, where it would end with a signal and none. For programs: a library
/// leaves the signals of its process alone. On Linux only: macOS tells a stack that overflows by the same signal.
pub fn explain_lost_pages() {
    #[cfg(target_os = "linux")]
    system::explain();
}

#[cfg(target_os = "linux")]
mod system {
    const MESSAGE: &[u8] =
        b"error: a part of a model's file could not be read: the disk failed, or the file was shortened\n\
        hint: `flashflood verify MODEL` says which file it is\n";

    extern "C" fn lost(_: libc::c_int) {
        // SAFETY: the bytes are static, and both calls may be made in a handler of a signal. What is lost cannot be gone
        // on without, so nothing returns to it.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }

    pub(super) fn explain() {
        let handler: extern "C" fn(libc::c_int) = lost;
        // SAFETY: a zeroed `sigaction` is one without flags and with an empty mask; the handler is a function of the type
        // that a handler without SA_SIGINFO has, and does what a handler may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    }
}
