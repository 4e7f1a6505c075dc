//! The session handle: the switches of one conversation, and its answers on their way to a callback.

use std::ffi::CString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flashflood::{Event, Finish, Generated, Prepared, Request, Session, SessionFolder, StoreStats, Suspension};
use serde_json::{Value, json};

use crate::engine::Shared;
use crate::text::{Failure, c_string, caught, json as parsed, not_in_callback};

/// Events that a callback may be behind; then the engine waits for it.
const EVENTS: usize = 256;

/// How often a waiting call looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);

/// What session files of a folder may take together.
const FOLDER_SPACE: u64 = 32_000_000_000;

/// One conversation.
#[expect(non_camel_case_types, reason = "the name in C")]
pub struct flashflood_session {
    engine: Arc<Shared>,
    switches: Mutex<Switches>,
    changed: Condvar,
    /// Where it was saved last: its next state takes the place of that one.
    saved: Mutex<Option<(String, SessionFolder)>>,
}

#[derive(Default)]
struct Switches {
    answering: bool,
    cancelled: bool,
    suspended: bool,
    closed: bool,
}

/// What comes from the engine's thread.
enum News {
    Event(Value),
    Done(Result<(), Failure>),
}

/// The session behind a pointer, kept alive while it is used.
///
/// # Safety
/// `session` is null or of an engine that is open.
pub(crate) unsafe fn of(session: *mut flashflood_session) -> Result<Arc<flashflood_session>, Failure> {
    if session.is_null() {
        return Err(Failure::Null("session"));
    }
    // SAFETY: the pointer is an Arc's, of which the open engine keeps one count; the one made here is this call's
    unsafe {
        Arc::increment_strong_count(session);
        Ok(Arc::from_raw(session))
    }
}

impl flashflood_session {
    pub(crate) fn new(engine: Arc<Shared>) -> Self {
        flashflood_session { engine, switches: Mutex::default(), changed: Condvar::new(), saved: Mutex::default() }
    }

    fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cancel(&self) {
        let mut switches = self.switches();
        // without an answer there is nothing to cancel, and the next one is not meant
        switches.cancelled |= switches.answering;
        self.changed.notify_all();
    }

    pub(crate) fn suspend(&self, suspended: bool) {
        self.switches().suspended = suspended;
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        let mut switches = self.switches();
        switches.closed = true;
        self.changed.notify_all();
    }

    /// Answers a request; `on_event` is told JSON.
    pub(crate) fn send(self: &Arc<Self>, request: &str, mut on_event: impl FnMut(CString)) -> Result<(), Failure> {
        let _answering = self.begin()?;
        let prepared = match self.prepared(request, &|| !self.is_over(&self.switches())) {
            // what was given up is not said to be wrong
            Err(_) if self.is_over(&self.switches()) => {
                on_event(c_string(done("cancelled", None).to_string()));
                return Ok(());
            }
            prepared => prepared?,
        };
        let (tell, news) = sync_channel(EVENTS);
        let session = self.clone();
        let turn = Arc::new(Turn::default());
        let its = turn.clone();
        self.engine.submit(Box::new(move |live| {
            if its.begin() {
                let result = caught(|| session.answer(live, &prepared, &tell));
                // nobody listens when the caller's thread panicked
                let _ = tell.send(News::Done(result));
            }
        }))?;
        loop {
            match news.recv_timeout(POLL) {
                Ok(News::Event(event)) => on_event(c_string(event.to_string())),
                Ok(News::Done(result)) => return result,
                // another session answers, or is suspended: this one's turn may never come
                Err(RecvTimeoutError::Timeout) if self.is_over(&self.switches()) && turn.give_up() => {
                    on_event(c_string(done("cancelled", None).to_string()));
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Other("the engine is closed".to_owned())),
            }
        }
    }

    /// On the engine's thread.
    fn answer(&self, live: &mut Session<'_>, prepared: &Prepared, tell: &SyncSender<News>) -> Result<(), Failure> {
        live.reset_expert_stats();
        self.engine.answers(self);
        let event = |event: Value| tell.send(News::Event(event)).is_ok();
        if !self.may_go_on(&event) {
            event(done("cancelled", None));
            return Ok(());
        }
        let mut is_hot = false;
        let made = live.answer(prepared, |happened| {
            let told = match happened {
                // it comes again as long as it lasts
                Event::Suspended(why) if !is_hot => {
                    is_hot = true;
                    Some(json!({"type": "suspended", "reason": reason(why)}))
                }
                Event::Suspended(_) => None,
                Event::Resumed => {
                    is_hot = false;
                    Some(json!({"type": "resumed"}))
                }
                Event::Prefill { done, total } => Some(json!({"type": "prefill", "done": done, "total": total})),
                Event::PrefillLayer(progress) => {
                    let done = progress.tokens() as usize;
                    Some(json!({"type": "prefill", "done": done, "total": progress.total}))
                }
                Event::Thinking(text) => Some(json!({"type": "thinking", "text": text})),
                Event::Text(text) => Some(json!({"type": "text", "text": text})),
                Event::ToolCallBegin { id, name } => Some(json!({"type": "tool_call_begin", "id": id, "name": name})),
                Event::ToolCallArguments { id, piece } => {
                    Some(json!({"type": "tool_call_arguments", "id": id, "piece": piece}))
                }
                Event::ToolCall(call) => {
                    Some(json!({"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}))
                }
                Event::Token { .. } | Event::StopToken { .. } | Event::Prompt(_) | Event::Resting => None,
            };
            told.is_none_or(&event) && self.may_go_on(&event)
        });
        let made = made.map_err(Failure::of)?;
        let word = match made.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ContextFull => "context",
            Finish::Interrupted => "cancelled",
        };
        event(done(word, Some(statistics(&made, &live.expert_stats()))));
        Ok(())
    }

    /// Whether answers of this session must end.
    fn is_over(&self, switches: &Switches) -> bool {
        switches.cancelled || switches.closed || self.engine.is_closing()
    }

    /// Waits while the session is suspended; whether the answer goes on then.
    fn may_go_on(&self, event: &impl Fn(Value) -> bool) -> bool {
        let mut switches = self.switches();
        if !switches.suspended || self.is_over(&switches) {
            return !self.is_over(&switches);
        }
        drop(switches);
        event(json!({"type": "suspended", "reason": "host"}));
        switches = self.switches();
        while switches.suspended && !self.is_over(&switches) {
            // an engine that closes tells its sessions, but the word may come between the two lines above
            let wait = self.changed.wait_timeout(switches, POLL);
            switches = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let goes_on = !self.is_over(&switches);
        drop(switches);
        if goes_on {
            event(json!({"type": "resumed"}));
        }
        goes_on
    }

    pub(crate) fn save(self: &Arc<Self>, folder: &str) -> Result<(), Failure> {
        let (path, session) = (folder.to_owned(), self.clone());
        self.on_engine(move |live| {
            if !session.engine.has_answered_last(&session) {
                return Err(Failure::Other(
                    "another session has answered since, and this one's state is gone".to_owned(),
                ));
            }
            let mut saved = session.saved.lock().unwrap_or_else(PoisonError::into_inner);
            if saved.as_ref().is_none_or(|(folder, _)| *folder != path) {
                *saved =
                    Some((path.clone(), SessionFolder::open(Path::new(&path), FOLDER_SPACE).map_err(Failure::of)?));
            }
            match saved.as_mut() {
                Some((_, folder)) => live.save(folder).map(drop).map_err(Failure::of),
                None => Ok(()),
            }
        })
    }

    pub(crate) fn restore(self: &Arc<Self>, folder: &str, request: &str) -> Result<(), Failure> {
        let (folder, session) = (folder.to_owned(), self.clone());
        let prepared = self.prepared(request, &|| true)?;
        self.on_engine(move |live| {
            let folder = SessionFolder::open(Path::new(&folder), FOLDER_SPACE).map_err(Failure::of)?;
            let restored = live.restore(&folder, prepared.prompt()).map_err(Failure::of)?;
            if restored.path.is_some() {
                session.engine.answers(&session);
            }
            match restored.refused.into_iter().next() {
                Some(refused) if restored.path.is_none() => Err(Failure::of(refused)),
                _ => Ok(()),
            }
        })
    }

    fn prepared(&self, request: &str, is_wanted: &dyn Fn() -> bool) -> Result<Prepared, Failure> {
        let request = Request::from_openai_chat(parsed(request, "request_json")?).map_err(Failure::of)?;
        self.engine.language.prepare_while(request, is_wanted).map_err(Failure::of)
    }

    /// Runs `work` on the engine's thread and waits for it.
    fn on_engine(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Session<'_>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let _answering = self.begin()?;
        let (tell, told) = sync_channel(1);
        self.engine.submit(Box::new(move |live| drop(tell.send(caught(|| work(live))))))?;
        told.recv().unwrap_or_else(|_| Err(Failure::Other("the engine is closed".to_owned())))
    }

    /// Marks the session as busy until what is given is dropped.
    fn begin(self: &Arc<Self>) -> Result<Answering, Failure> {
        not_in_callback()?;
        let mut switches = self.switches();
        if switches.closed {
            return Err(Failure::Other("this session is closed".to_owned()));
        }
        if switches.answering {
            return Err(Failure::Other("this session is answering already; use another one, or wait".to_owned()));
        }
        switches.answering = true;
        switches.cancelled = false;
        Ok(Answering(self.clone()))
    }
}

/// Whether work that was given to the engine has begun, or was given up before.
#[derive(Default)]
struct Turn(AtomicBool);

impl Turn {
    /// Takes the turn; `false` when somebody took it before.
    fn begin(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The same, so that it does not begin.
    fn give_up(&self) -> bool {
        self.begin()
    }
}

/// An answer is being made.
struct Answering(Arc<flashflood_session>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.switches().answering = false;
    }
}

fn reason(why: Suspension) -> &'static str {
    match why {
        Suspension::Thermal => "thermal",
        _ => "machine",
    }
}

/// The last event.
fn done(word: &str, statistics: Option<Value>) -> Value {
    json!({"type": "done", "finish": word, "statistics": statistics})
}

fn statistics(made: &Generated, experts: &StoreStats) -> Value {
    json!({
        "prompt_tokens": made.prompt,
        "reused_tokens": made.reused,
        "tokens": made.tokens.len(),
        "thinking_tokens": made.thinking,
        "prefill_seconds": made.prefill.as_secs_f64(),
        "decode_seconds": made.decode.as_secs_f64(),
        "expert_hits": experts.hits,
        "expert_misses": experts.misses,
        "expert_bytes_read": experts.bytes_read,
    })
}
