//! What a program says when it cannot go on, from where little more than that may be done: a handler of a signal.

use std::sync::atomic::{AtomicBool, Ordering};

/// Longer than what is said: pipes take as much without another's text between.
const MOST: usize = 1024;

/// Writes the parts to standard error, together, and ends the program with exit code 1. Nothing is allocated and nothing
/// else of the process runs, so that handlers of signals may call it. Of several threads that do, one speaks.
pub(crate) fn end(parts: &[&[u8]]) -> ! {
    static SPEAKS: AtomicBool = AtomicBool::new(false);
    while SPEAKS.swap(true, Ordering::Relaxed) {
        // SAFETY: the call may be made in a handler of a signal; the thread that speaks ends the program.
        unsafe { libc::pause() };
    }
    let (text, len) = joined(parts);
    let mut text = &text[..len];
    while !text.is_empty() {
        // SAFETY: the pointer and length are those of a slice; the call may be made in a handler of a signal.
        let written = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        match usize::try_from(written) {
            Ok(written) if written > 0 => text = &text[written.min(text.len())..],
            // nobody reads
            _ => break,
        }
    }
    // SAFETY: the call may be made in a handler of a signal, and does not return.
    unsafe { libc::_exit(1) }
}

/// The parts one after the other, as far as there is room, and how long they are.
fn joined(parts: &[&[u8]]) -> ([u8; MOST], usize) {
    let (mut text, mut len) = ([0; MOST], 0);
    for (to, from) in text.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
        len += 1;
    }
    (text, len)
}

/// Lets `handler` be called at `signal`, on the stack that std has for it when that of the thread is full. What was called
/// before, for a handler that leaves a signal to it.
pub(crate) fn handle(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
) -> Option<libc::sigaction> {
    // SAFETY: a zeroed `sigaction` is one without flags and with an empty mask; the handler is of the type that one with
    // SA_SIGINFO has; both pointers are to locals.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        (libc::sigaction(signal, &raw const action, &raw mut before) == 0).then_some(before)
    }
}

/// A text that fits into a line, without what terminals take for orders.
pub(crate) struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// The end of `text`, where it is too long.
    pub(crate) fn of(text: &[u8]) -> Line {
        let mut line = Line { bytes: [0; 512], len: 0 };
        let end = &text[text.len().saturating_sub(line.bytes.len())..];
        for (to, from) in line.bytes.iter_mut().zip(end) {
            *to = if from.is_ascii_control() { b'?' } else { *from };
        }
        line.len = end.len();
        line
    }

    /// A number in decimal digits.
    pub(crate) fn of_number(mut number: usize) -> Line {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            // a digit
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Line::of(&digits[first..]);
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_said_together() {
        let (text, len) = joined(&[b"error: ", b"", b"a\n"]);
        assert_eq!(&text[..len], b"error: a\n");
        assert_eq!(joined(&[&[b'x'; 600], &[b'y'; 600]]).1, MOST);
    }

    #[test]
    fn lines_are_short_and_plain() {
        assert_eq!(Line::of(b"/models/a\x1b[2J\nb").bytes(), b"/models/a?[2J?b");
        assert_eq!(Line::of(&[b'x'; 2000]).bytes(), &[b'x'; 512]);
        for (number, text) in [(0, "0"), (1_048_576, "1048576"), (usize::MAX, "18446744073709551615")] {
            if usize::BITS == 64 {
                assert_eq!(Line::of_number(number).bytes(), text.as_bytes());
            }
        }
    }
}
