//! The engine handle: a thread that owns the model.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use flashflood::{Engine, Language, OpenRequest, Session};
use flashflood_backends::{NO_THREADS_HINT, machine};
use serde_json::{Value, json};

use crate::flashflood_session;
use crate::text::{Failure, json as parsed, panic_text};

/// What the engine's thread is asked to do.
pub(crate) type Work = Box<dyn FnOnce(&mut Session<'_>) + Send>;

/// A loaded model.
#[expect(non_camel_case_types, reason = "the name in C")]
pub struct flashflood_engine {
    /// Dropped when the engine is closed: then the thread ends.
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    description: Value,
    /// Kept until the engine is closed, so that handles of closed sessions stay good.
    sessions: Mutex<Vec<Arc<flashflood_session>>>,
}

/// What sessions know of their engine.
pub(crate) struct Shared {
    work: Mutex<Option<Sender<Work>>>,
    closing: AtomicBool,
    /// Address of the session whose state the engine has.
    answered: AtomicUsize,
    pub(crate) language: Arc<Language>,
}

impl Shared {
    /// Runs `work` on the engine's thread, and waits for what it sends.
    pub(crate) fn submit(&self, work: Work) -> Result<(), Failure> {
        let sender = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || Failure::Other("the engine is closed".to_owned());
        sender.as_ref().ok_or_else(gone)?.send(work).map_err(|_| gone())
    }

    /// The engine's state is this session's from now on.
    pub(crate) fn answers(&self, session: &flashflood_session) {
        self.answered.store(std::ptr::from_ref(session).addr(), Ordering::Relaxed);
    }

    /// Whether no other session has answered since this one did. Handles live as long as the engine, so that no two have
    /// the same address.
    pub(crate) fn has_answered_last(&self, session: &flashflood_session) -> bool {
        self.answered.load(Ordering::Relaxed) == std::ptr::from_ref(session).addr()
    }

    /// Whether answers must end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

impl flashflood_engine {
    pub(crate) fn open(options: &str) -> Result<Self, Failure> {
        start_threads()?;
        let open = request(options)?;
        let (work, todo) = channel::<Work>();
        let (tell, told) = channel();
        let run = move || match opened(&open) {
            Err(failure) => drop(tell.send(Err(failure))),
            Ok((language, mut engine)) => {
                let description = json!({
                    "model": open.model,
                    "device": engine.device(),
                    "context": engine.context(),
                    "memory": engine.plan(),
                });
                match engine.session() {
                    Err(error) => drop(tell.send(Err(Failure::of(error)))),
                    Ok(mut session) => {
                        let _ = tell.send(Ok((language, description)));
                        compute(&mut session, &todo);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("flashflood".to_owned()).spawn(run).map_err(Failure::of)?;
        match told.recv() {
            Ok(Ok((language, description))) => {
                let shared = Shared {
                    work: Mutex::new(Some(work)),
                    closing: AtomicBool::new(false),
                    answered: AtomicUsize::new(0),
                    language,
                };
                Ok(flashflood_engine { shared: Arc::new(shared), thread, description, sessions: Mutex::default() })
            }
            Ok(Err(failure)) => Err(failure),
            // it ended without a word
            Err(_) => Err(match thread.join() {
                Err(panic) => Failure::Panic(panic_text(&*panic)),
                Ok(()) => Failure::Panic("the engine's thread ended".to_owned()),
            }),
        }
    }

    pub(crate) fn describe(&self) -> Value {
        self.description.clone()
    }

    pub(crate) fn new_session(&self) -> Arc<flashflood_session> {
        let session = Arc::new(flashflood_session::new(self.shared.clone()));
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session.clone());
        session
    }

    /// Ends what runs and waits for it.
    pub(crate) fn close(self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let sessions = self.sessions.into_inner().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().for_each(|session| session.close());
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // a panic of the thread was told to whoever waited for it
        let _ = self.thread.join();
    }
}

/// Does what is asked, until the engine is closed. Work catches its own panics.
fn compute(session: &mut Session<'_>, todo: &Receiver<Work>) {
    while let Ok(work) = todo.recv() {
        work(session);
    }
}

fn opened(open: &OpenRequest) -> Result<(Arc<Language>, Engine), Failure> {
    let engine = open.open().map_err(Failure::of)?;
    Ok((engine.language().map_err(Failure::of)?, engine))
}

fn request(options: &str) -> Result<OpenRequest, Failure> {
    OpenRequest::from_json(&parsed(options, "options_json")?).map_err(|e| Failure::Other(format!("options_json: {e}")))
}

/// Starts the threads that compute, unless the process has them: a library's own default takes whatever number the
/// environment names, and thousands of them come to no end.
pub(crate) fn start_threads() -> Result<(), Failure> {
    // rayon tries once
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let count = machine::threads();
        match rayon::ThreadPoolBuilder::new().num_threads(count).build_global() {
            // what the system said; an error without it is that there are threads
            Err(error) if error.source().is_some() => {
                Err(format!("the system has no {count} threads: {error} (hint: {NO_THREADS_HINT})"))
            }
            _ => Ok(()),
        }
    });
    started.clone().map_err(Failure::Other)
}

/// Where memory would go.
pub(crate) fn memory_plan(options: &str) -> Result<Value, Failure> {
    start_threads()?;
    Ok(json!(request(options)?.memory_plan().map_err(Failure::of)?))
}
