//! The C library: about fifteen functions over [`flashflood::Engine`] and [`flashflood::Session`].
//!
//! An engine handle owns a thread, on which the model is loaded and everything is computed. Whoever calls a function waits
//! for that thread, and callbacks run on the caller's thread. A session handle is one conversation's switches: cancel,
//! suspend, and whether an answer is being made. While one is suspended, answers of the others wait. State that conversations share is found by comparing prompts, so
//! sessions need no state of their own, and their answers are computed one after the other.
//!
//! Nothing is global but the pool of threads that compute. No panic leaves a function. Misuse is defined where C allows it:
//!
//! | misuse | what happens |
//! | --- | --- |
//! | a null handle, a null string, text that is not UTF-8 | an error (functions without errors do nothing) |
//! | two answers at a time on one session | the second call is an error, at once |
//! | a session after `flashflood_session_close` | an error, as long as its engine is open |
//! | a session that is cancelled or closed while it answers | the answer ends at a token, `send` returns |
//! | a schema that no grammar can be made of in two seconds | an error |
//! | closing an engine while its sessions answer | answers end at a token; close returns after them |
//! | a callback that calls `send`, `save`, `restore` or `flashflood_engine_close` | an error (close: nothing); `cancel`, `suspend`, `resume` and `flashflood_session_close` are allowed there |
//! | saving the state of a session when another one has answered since | an error |
//!
//! Not defined, as everywhere in C: a handle after its engine's `flashflood_engine_close`, and freeing twice.
//!
//! Sessions are freed with their engine, not by `flashflood_session_close`, which makes the third line possible; a closed
//! one takes about a hundred bytes.

mod check;
mod engine;
mod session;
mod text;

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use serde_json::Value;

pub use engine::flashflood_engine;
pub use session::flashflood_session;

use text::{Failure, caught, give, read, read_options, report};

/// Told what happens while an answer is made, on the thread that called `flashflood_session_send`. `event_json` is an
/// object with a `type`, and lives until the callback returns:
///
/// - `{"type": "prefill", "done": 512, "total": 4096}`
/// - `{"type": "thinking", "text": ".."}`, `{"type": "text", "text": ".."}`
/// - `{"type": "tool_call_begin", "id": "..", "name": ".."}`, a call whose arguments follow
/// - `{"type": "tool_call_arguments", "id": "..", "piece": ".."}`, more of the text of its arguments
/// - `{"type": "tool_call", "id": "..", "name": "..", "arguments": {..}}`, the whole call
/// - `{"type": "suspended", "reason": "host|thermal|machine"}`, `{"type": "resumed"}`: nothing is computed between them
/// - `{"type": "done", "finish": "stop|length|context|cancelled", "statistics": {..}}`, the last one; `statistics` is null
///   when nothing was computed
#[expect(non_camel_case_types, reason = "the name in C")]
pub type flashflood_event = Option<extern "C" fn(context: *mut c_void, event_json: *const c_char)>;

/// The library's version, such as "0.1.0". Not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn flashflood_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Where memory would go, as JSON; nothing is loaded. `options_json` is as for `flashflood_engine_open`. NULL and an error
/// when the model does not fit, or cannot be read. To be freed with `flashflood_string_free`.
///
/// # Safety
/// `options_json` is null or ends with a zero; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_memory_plan(options_json: *const c_char, error: *mut *mut c_char) -> *mut c_char {
    // SAFETY: the caller's promise, passed on
    let result = caught(|| engine::memory_plan(unsafe { read_options(options_json) }?));
    // SAFETY: the caller's promise about `error`
    unsafe { give(result, error) }
}

/// Loads a model, which may take minutes. `options_json` is NULL or an object:
/// `{"model": "/path", "device": "auto|gpu|cpu", "context": 8192, "kv": "f16", "rope_scaling": "auto|none|yarn:4",
/// "expert_cache": "auto|all|8GB", ..}`; without `model` it is the small model inside the library. NULL and an error when
/// that fails.
///
/// # Safety
/// `options_json` is null or ends with a zero; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_engine_open(
    options_json: *const c_char,
    error: *mut *mut c_char,
) -> *mut flashflood_engine {
    // SAFETY: the caller's promise, passed on
    let result = caught(|| flashflood_engine::open(unsafe { read_options(options_json) }?));
    match result {
        Ok(engine) => Box::into_raw(Box::new(engine)),
        Err(failure) => {
            // SAFETY: the caller's promise about `error`
            unsafe { report(&failure, error) };
            std::ptr::null_mut()
        }
    }
}

/// Device, model and memory plan as JSON. To be freed with `flashflood_string_free`.
///
/// # Safety
/// `engine` is null or an open engine; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_engine_describe(
    engine: *const flashflood_engine,
    error: *mut *mut c_char,
) -> *mut c_char {
    // SAFETY: the caller's promise: null or an engine that is not closed
    let result = caught(|| Ok(unsafe { engine.as_ref() }.ok_or(Failure::Null("engine"))?.describe()));
    // SAFETY: the caller's promise about `error`
    unsafe { give(result, error) }
}

/// Ends running answers at a token, waits for them, and frees the engine and its sessions. NULL is nothing.
///
/// # Safety
/// `engine` is null or an open engine, and no call but a running `flashflood_session_send` uses it or its sessions now or
/// later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_engine_close(engine: *mut flashflood_engine) {
    if engine.is_null() {
        return;
    }
    let _ = caught(|| {
        text::not_in_callback()?;
        // SAFETY: not null, made by `flashflood_engine_open`, and closed once: the caller's promise
        let engine = unsafe { Box::from_raw(engine) };
        engine.close();
        Ok(Value::Null)
    });
}

/// A new conversation on an engine. NULL and an error when that fails.
///
/// # Safety
/// `engine` is null or an open engine; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_new(
    engine: *mut flashflood_engine,
    error: *mut *mut c_char,
) -> *mut flashflood_session {
    // SAFETY: the caller's promise: null or an engine that is not closed
    let result = caught(|| Ok(unsafe { engine.as_ref() }.ok_or(Failure::Null("engine"))?.new_session()));
    match result {
        // the engine keeps one count until it is closed, so the pointer stays good
        Ok(session) => Arc::as_ptr(&session).cast_mut(),
        Err(failure) => {
            // SAFETY: the caller's promise about `error`
            unsafe { report(&failure, error) };
            std::ptr::null_mut()
        }
    }
}

/// Answers a request, and returns when the answer is done: 0, or -1 and an error. `request_json` is the body of OpenAI's
/// `/v1/chat/completions`, with the whole history: what is known of it is not computed again. `event` may be NULL.
///
/// # Safety
/// `session` is null or of an open engine; strings are null or end with a zero; `error` is null or can be written to;
/// `event` may be called with `context` on this thread until the function returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_send(
    session: *mut flashflood_session,
    request_json: *const c_char,
    event: flashflood_event,
    context: *mut c_void,
    error: *mut *mut c_char,
) -> c_int {
    let result = caught(|| {
        // SAFETY: the caller's promises
        let (session, request) = unsafe { (session::of(session)?, read(request_json, "request_json")?) };
        session.send(request, |json| {
            if let Some(event) = event {
                text::called_back(|| event(context, json.as_ptr()));
            }
        })
    });
    // SAFETY: the caller's promise about `error`
    unsafe { text::status(result, error) }
}

/// Turns a switch of a session; a null one has none.
///
/// # Safety
/// `session` is null or of an open engine.
unsafe fn switch(session: *mut flashflood_session, turn: impl FnOnce(&flashflood_session)) {
    let _ = caught(|| {
        // SAFETY: the caller's promise
        turn(&*unsafe { session::of(session) }?);
        Ok(())
    });
}

/// Ends the answer that is being made at its next token, and a grammar that is being made for it at once, from any thread.
/// Without one it does nothing.
///
/// # Safety
/// `session` is null or of an open engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_cancel(session: *mut flashflood_session) {
    // SAFETY: the caller's promise
    unsafe { switch(session, |session| session.cancel()) };
}

/// Pauses the answer that is being made, and those to come, at a token or a layer of the prompt, from any thread. After the
/// event `suspended` nothing is given to the GPU until `flashflood_session_resume`; what it was given before ends within
/// a layer's time.
///
/// # Safety
/// `session` is null or of an open engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_suspend(session: *mut flashflood_session) {
    // SAFETY: the caller's promise
    unsafe { switch(session, |session| session.suspend(true)) };
}

/// Goes on after `flashflood_session_suspend`, from any thread.
///
/// # Safety
/// `session` is null or of an open engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_resume(session: *mut flashflood_session) {
    // SAFETY: the caller's promise
    unsafe { switch(session, |session| session.suspend(false)) };
}

/// Keeps the state of the session's last answer in a file in `folder`, which is made where there is none: 0, or -1 and an
/// error, also when another session has answered since. What was kept before stays as it was until the new file is whole;
/// then it goes, when it is the same conversation's.
///
/// # Safety
/// `session` is null or of an open engine; `folder` is null or ends with a zero; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_save(
    session: *mut flashflood_session,
    folder: *const c_char,
    error: *mut *mut c_char,
) -> c_int {
    // SAFETY: the caller's promises
    let result = caught(|| unsafe { session::of(session)?.save(read(folder, "folder")?) });
    // SAFETY: the caller's promise about `error`
    unsafe { text::status(result, error) }
}

/// Takes the state that a file of `folder` has of the beginning of a request's prompt: 0, also where there is none, or -1
/// and an error, such as a file that is damaged (the prompt is computed then). `request_json` is as for `flashflood_session_send`.
///
/// # Safety
/// `session` is null or of an open engine; strings are null or end with a zero; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_restore(
    session: *mut flashflood_session,
    folder: *const c_char,
    request_json: *const c_char,
    error: *mut *mut c_char,
) -> c_int {
    let result = caught(|| {
        // SAFETY: the caller's promises
        let session = unsafe { session::of(session) }?;
        // SAFETY: the caller's promises
        let (folder, request) = unsafe { (read(folder, "folder")?, read(request_json, "request_json")?) };
        session.restore(folder, request)
    });
    // SAFETY: the caller's promise about `error`
    unsafe { text::status(result, error) }
}

/// Ends a session; an answer that is being made ends at its next token. NULL is nothing.
///
/// # Safety
/// `session` is null or of an open engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_session_close(session: *mut flashflood_session) {
    // SAFETY: the caller's promise
    unsafe { switch(session, |session| session.close()) };
}

/// Runs every kernel against its CPU twin on this machine's GPU, and the small model from end to end: what a bug report
/// carries, as JSON. `options_json` is NULL or `{"shapes": "auto|model|small", "kernels": ["matvec"]}`. Its `mismatches` are
/// empty where all is well. NULL and an error where nothing can be checked. To be freed with `flashflood_string_free`.
///
/// # Safety
/// `options_json` is null or ends with a zero; `error` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_check(options_json: *const c_char, error: *mut *mut c_char) -> *mut c_char {
    // SAFETY: the caller's promise, passed on
    let result = caught(|| check::check(unsafe { read_options(options_json) }?));
    // SAFETY: the caller's promise about `error`
    unsafe { give(result, error) }
}

/// Frees a string that this library gave. NULL is nothing.
///
/// # Safety
/// `string` is null or was given by a function of this library, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flashflood_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: strings are given by `CString::into_raw` alone
        drop(unsafe { std::ffi::CString::from_raw(string) });
    }
}
