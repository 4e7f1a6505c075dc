//! Strings and errors across the boundary.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument that must not be null.
    Null(&'static str),
    /// A string that is not UTF-8.
    NotUtf8(&'static str),
    /// Anything else, as text.
    Other(String),
    /// A bug in this library.
    Panic(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Null(what) => write!(f, "{what} is NULL"),
            Failure::NotUtf8(what) => write!(f, "{what} is not UTF-8"),
            Failure::Other(text) => f.write_str(text),
            Failure::Panic(text) => write!(f, "this is a bug in flashflood: {text}"),
        }
    }
}

impl Failure {
    /// The text of an error and of what caused it.
    pub(crate) fn of(error: impl std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // transparent errors say what their source says
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Failure::Other(text)
    }
}

thread_local! {
    /// Whether this thread is in a callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs a callback of the caller's.
pub(crate) fn called_back(callback: impl FnOnce()) {
    IN_CALLBACK.set(true);
    callback();
    IN_CALLBACK.set(false);
}

/// Refuses what waits for the engine while the engine may wait for this thread.
pub(crate) fn not_in_callback() -> Result<(), Failure> {
    match IN_CALLBACK.get() {
        true => Err(Failure::Other("a callback may cancel, suspend, resume and close its session, no more".to_owned())),
        false => Ok(()),
    }
}

/// Runs `call`; a panic is a failure, and does not reach C.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // what a call leaves half done is behind locks that are used poisoned or not; a session notes steps that are not done
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic))))
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// The options of the caller's; null is JSON's null, which is the default of all.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_options<'a>(string: *const c_char) -> Result<&'a str, Failure> {
    if string.is_null() {
        return Ok("null");
    }
    // SAFETY: the caller's promise, passed on
    unsafe { read(string, "options_json") }
}

/// A string of the caller's; `what` names it in errors.
///
/// # Safety
/// `string` is null or ends with a zero, and does not change while the result is used.
pub(crate) unsafe fn read<'a>(string: *const c_char, what: &'static str) -> Result<&'a str, Failure> {
    if string.is_null() {
        return Err(Failure::Null(what));
    }
    // SAFETY: not null, and the caller promises the zero
    unsafe { CStr::from_ptr(string) }.to_str().map_err(|_| Failure::NotUtf8(what))
}

/// Parses JSON.
pub(crate) fn json(text: &str, what: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::Other(format!("{what}: {e}")))
}

/// A string of ours. A zero within, which JSON text never has, ends it.
pub(crate) fn c_string(text: String) -> CString {
    let mut bytes = text.into_bytes();
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).expect("zeros are cut off")
}

/// A result as a string for C, or null and an error.
///
/// # Safety
/// `error` is null or can be written to.
pub(crate) unsafe fn give(result: Result<Value, Failure>, error: *mut *mut c_char) -> *mut c_char {
    match result {
        Ok(value) => c_string(value.to_string()).into_raw(),
        Err(failure) => {
            // SAFETY: the caller's promise
            unsafe { report(&failure, error) };
            std::ptr::null_mut()
        }
    }
}

/// A result as 0, or -1 and an error.
///
/// # Safety
/// `error` is null or can be written to.
pub(crate) unsafe fn status(result: Result<(), Failure>, error: *mut *mut c_char) -> c_int {
    match result {
        Ok(()) => 0,
        Err(failure) => {
            // SAFETY: the caller's promise
            unsafe { report(&failure, error) };
            -1
        }
    }
}

/// Leaves the text of a failure with the caller, who frees it.
///
/// # Safety
/// `error` is null or can be written to.
pub(crate) unsafe fn report(failure: &Failure, error: *mut *mut c_char) {
    if !error.is_null() {
        // SAFETY: not null, and the caller promises that it can be written to
        unsafe { *error = c_string(failure.to_string()).into_raw() };
    }
}
