//! `flashflood serve`: the model over HTTP, in the protocols of OpenAI and Anthropic.
//!
//! One OS thread owns the engine and takes requests from a bounded queue (`worker`); everything else is async and only
//! turns JSON into requests and events into JSON. What the protocols have in common stands in `request` and `answer`;
//! each protocol has a file of its own.

mod answer;
mod auth;
mod body;
mod chat_completions;
mod completion_object;
mod completions;
mod connections;
mod error;
mod infill;
mod keeping;
mod lingering;
mod llama_completion;
mod machine;
mod messages;
mod messages_stream;
mod metrics;
mod model;
mod ollama;
mod request;
mod responses;
mod responses_input;
mod responses_kept;
mod responses_stream;
mod routes;
mod sse;
mod threads;
mod tokenize;
mod worker;

use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{Engine, SessionFolder};
use connections::Connections;
use metrics::Metrics;
use model::Model;
use responses_kept::KeptResponses;
use worker::Queue;

/// How often the wish to stop is looked at.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What requests that were ended get to say so, after the time for draining.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The part of free memory that conversations take which wait for their next turn.
const SESSION_SHARE: u64 = 16;

/// What the state of the last conversation gets to be written: gigabytes, on a slow disk.
const KEEPING: Duration = Duration::from_secs(120);

/// How many of the threads that make requests ready may make grammars, which take up to two seconds.
const GRAMMARS: usize = 2;

/// How the model is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// What callers must know, as `Authorization: Bearer KEY` or `x-api-key: KEY`.
    pub api_key: Option<String>,
    /// Listens on addresses that other machines reach without a key.
    pub insecure: bool,
    /// Web pages that may call, as `https://example.org`; `*` is all.
    pub cors_origins: Vec<String>,
    /// Requests that wait while one is computed; more are refused.
    pub queue: usize,
    /// How long requests may go on after the wish to stop.
    pub drain: Duration,
    /// Connections at a time, as far as the system has descriptors for them.
    pub connections: usize,
    /// How long a request may take to come: its head, and its body, which gets more for its length.
    pub patience: Duration,
    /// What the model is called.
    pub model: String,
    /// Where thoughts stand in a chat's message.
    pub reasoning: ReasoningField,
    /// Where the state of conversations is kept: when another one takes its place, when nobody asks for a while, and at
    /// the end.
    pub sessions: Option<SessionFolder>,
    /// Bytes for the state of conversations that others took the place of; `None` is a sixteenth of what is free once the
    /// model is loaded.
    pub session_memory: Option<u64>,
}

/// Where thoughts stand in a chat's message: clients differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum ReasoningField {
    /// `reasoning_content`, as in llama.cpp, LM Studio and mistral.rs
    #[default]
    #[cfg_attr(feature = "cli", value(name = "reasoning_content"))]
    ReasoningContent,
    /// `reasoning`, as in ollama, mlx_lm and newer vLLM
    Reasoning,
    /// In both
    Both,
    /// Nowhere: thoughts are left out
    None,
}

impl ReasoningField {
    /// Puts thoughts into a message or a piece of one.
    pub(crate) fn put(self, message: &mut Value, thoughts: &str) {
        if matches!(self, Self::ReasoningContent | Self::Both) {
            message["reasoning_content"] = thoughts.into();
        }
        if matches!(self, Self::Reasoning | Self::Both) {
            message["reasoning"] = thoughts.into();
        }
    }
}

/// Why serving ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could use the machine.
    #[error("{address} can be reached from other machines (hint: give an --api-key, or --insecure if that is meant)")]
    Open {
        /// Where it should have listened.
        address: SocketAddr,
    },
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source} (hint: is another server there? --port chooses another port)")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no thread for it.
    #[error(
        "the system has no thread for the server: {0} (hint: raise ulimit -u, or the container's limit of processes)"
    )]
    Threads(io::Error),
    /// Sockets.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The model.
    #[error(transparent)]
    Model(Box<dyn Error + Send + Sync>),
    /// The thread of the engine is gone.
    #[error("the engine ended by itself; this is a bug")]
    EngineGone,
}

/// What every request sees.
pub(crate) struct Server {
    options: ServeOptions,
    /// Set once the model is loaded.
    model: OnceLock<Arc<Model>>,
    queue: Queue,
    metrics: Metrics,
    /// Conversations that a later request may go on from.
    kept: KeptResponses,
    /// Fields that were passed over, each told once.
    ignored: Mutex<HashSet<String>>,
    /// Requests whose grammars are made at a time.
    grammars: Arc<Semaphore>,
    connections: Arc<Connections>,
}

/// Serves until `stop` says so, then lets running requests end. `open` loads the model, on the thread that will compute;
/// until it is done, `/health` says so. `listening` is told the address.
pub fn serve<E: Into<Box<dyn Error + Send + Sync>>>(
    options: ServeOptions,
    open: impl FnOnce() -> Result<Engine, E> + Send + 'static,
    stop: impl Fn() -> bool,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let address = options.address;
    if !address.ip().is_loopback() && options.api_key.is_none() && !options.insecure {
        return Err(ServeError::Open { address });
    }
    let runtime = threads::runtime()?;
    // the model's files and conversations have the other half
    let descriptors = flashflood_backends::descriptors(2 * options.connections as u64) / 2;
    let connections = options.connections.min(usize::try_from(descriptors).unwrap_or(usize::MAX));
    let server = Arc::new(Server {
        connections: Arc::new(Connections::new(connections)),
        queue: Queue::new(options.queue),
        options,
        model: OnceLock::new(),
        metrics: Metrics::default(),
        kept: KeptResponses::default(),
        ignored: Mutex::default(),
        grammars: Arc::new(Semaphore::new(GRAMMARS)),
    });
    let ended = runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
        listening(listener.local_addr()?);
        let engine = start_engine(server.clone(), open).map_err(ServeError::Threads)?;
        run(server.clone(), listener, engine, stop).await
    });
    // a request whose client never reads must not hold the program
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

/// Loads the model and computes, on a thread of its own; tells its end, and an error if that is why.
fn start_engine<E: Into<Box<dyn Error + Send + Sync>>>(
    server: Arc<Server>,
    open: impl FnOnce() -> Result<Engine, E> + Send + 'static,
) -> io::Result<oneshot::Receiver<Result<(), ServeError>>> {
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let work = || -> Result<(), Box<dyn Error + Send + Sync>> {
            let mut engine = open().map_err(Into::into)?;
            let model = Arc::new(Model::of(&engine, server.options.model.clone())?);
            tracing::info!(model = model.name, context = model.language.context(), "ready");
            if server.model.set(model).is_err() {
                unreachable!("only this thread sets the model");
            }
            // what conversations take here the experts lack
            let memory = flashflood_backends::memory::available_memory() / SESSION_SHARE;
            let memory = server.options.session_memory.unwrap_or(memory);
            worker::work(&mut engine, &server.queue, &server.metrics, server.options.sessions.clone(), memory)
        };
        // nobody listens once the server has stopped
        let _ = tell.send(work().map_err(ServeError::Model));
    })?;
    Ok(ended)
}

async fn run(
    server: Arc<Server>,
    listener: TcpListener,
    mut engine: oneshot::Receiver<Result<(), ServeError>>,
    stop: impl Fn() -> bool,
) -> Result<(), ServeError> {
    let (close, closing) = watch::channel(false);
    let mut http = tokio::spawn(connections::accept(server.clone(), listener, closing));
    loop {
        tokio::time::sleep(STOP_POLL).await;
        match engine.try_recv() {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(())) | Err(oneshot::error::TryRecvError::Closed) => return Err(ServeError::EngineGone),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        if stop() {
            break;
        }
    }
    server.queue.close();
    let _ = close.send(true);
    // a connection that has not asked for anything yet need not be waited for
    let quiet = async {
        while server.metrics.in_flight() > 0 {
            tokio::time::sleep(STOP_POLL).await;
        }
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        _ = &mut http => {}
        () = quiet => {}
        () = tokio::time::sleep(server.options.drain) => {
            server.queue.abort();
            let _ = tokio::time::timeout(LAST_WORDS, &mut http).await;
        }
    }
    http.abort();
    // a device should not be left in the middle of a step, nor a session file half written
    let keeps = server.options.sessions.is_some() && server.model.get().is_some();
    let _ = tokio::time::timeout(if keeps { KEEPING } else { LAST_WORDS }, engine).await;
    Ok(())
}
