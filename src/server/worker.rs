//! The thread that computes: it owns the engine, takes one request after the other, and gives events back.
//!
//! A request is given up, at a token, when its receiver is dropped: the client has left. A client that reads slowly may be
//! [`EVENTS`] events behind; then the engine waits for it, [`PATIENCE`] long, and gives the request up as well, so that one
//! reader cannot hold the others for longer than that.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::keeping::Keeping;
use super::metrics::Metrics;
use crate::state::{SessionMemory, common_prefix};
use crate::{Engine, Event, Finish, Generated, Prepared, Session, SessionError, SessionFolder};

/// Events that a reader may be behind.
pub(crate) const EVENTS: usize = 1024;

/// How long the engine waits for a reader that is further behind.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// A request that is ready to be computed.
pub(crate) struct Job {
    pub(crate) prepared: Prepared,
    pub(crate) events: mpsc::Sender<JobEvent>,
    pub(crate) since: Instant,
    /// The request, for the log.
    pub(crate) span: tracing::Span,
    /// Whether it is one more answer to a request that had its place in the queue.
    pub(crate) goes_on: bool,
}

/// What becomes of a request.
pub(crate) enum JobEvent {
    Part(Event),
    Progress(PromptProgress),
    Done(Generated),
    Failed,
    /// It waited when the wish to stop came.
    Refused(Refused),
}

/// How far the prompt is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PromptProgress {
    pub(crate) total: usize,
    /// Tokens whose state was there.
    pub(crate) reused: usize,
    /// Tokens that are done, reused ones among them; those of a step that runs by the share of its layers.
    pub(crate) done: usize,
    pub(crate) time: Duration,
}

/// Time between two words about the prompt.
const PROGRESS: Duration = Duration::from_millis(200);

/// What is said of a prompt, and when something was said last.
#[derive(Default)]
struct Progress {
    begun: Option<(Instant, usize)>,
    said: Option<Instant>,
}

impl Progress {
    /// What is to be said of an event, if anything.
    fn of(&mut self, event: &Event) -> Option<PromptProgress> {
        let (done, total) = match event {
            Event::Prefill { done, total } => (*done, *total),
            Event::PrefillLayer(progress) => (progress.tokens() as usize, progress.total),
            _ => return None,
        };
        let (begun, reused) = *self.begun.get_or_insert_with(|| (Instant::now(), done));
        if done < total && self.said.is_some_and(|said| said.elapsed() < PROGRESS) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(PromptProgress { total, reused, done, time: begun.elapsed() })
    }
}

/// Why a request does not get into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Stopping,
}

/// Requests that wait.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most: usize,
    aborted: AtomicBool,
}

/// What the queue has for the engine.
enum Next {
    Job(Box<Job>),
    /// Nothing for a while.
    Quiet,
    /// Nothing any more.
    Closed,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    running: bool,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(most: usize) -> Self {
        Queue { waiting: Mutex::default(), changed: Condvar::new(), most, aborted: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // the list is whole after every statement that changes it
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request behind the others. Those whose clients have left make room.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Stopping);
        }
        waiting.jobs.retain(|job| !job.events.is_closed());
        // an engine that has nothing to do takes one more
        if !job.goes_on && waiting.jobs.len() >= self.most + usize::from(!waiting.running) {
            return Err(Refused::Full);
        }
        waiting.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// The next request, which then runs, or that there was none for `quiet`.
    fn next(&self, quiet: Option<Duration>) -> Next {
        let since = Instant::now();
        let mut waiting = self.lock();
        waiting.running = false;
        loop {
            match waiting.jobs.pop_front() {
                Some(job) if job.events.is_closed() => continue,
                Some(job) => {
                    waiting.running = true;
                    return Next::Job(Box::new(job));
                }
                None if waiting.closed => return Next::Closed,
                None => {}
            }
            waiting = match quiet.map(|quiet| quiet.saturating_sub(since.elapsed())) {
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Next::Quiet,
                Some(left) => self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Takes no more requests, and tells those that wait: their clients find another server sooner than this one would
    /// come to them.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let jobs = std::mem::take(&mut waiting.jobs);
        drop(waiting);
        self.changed.notify_all();
        for job in jobs {
            // nothing was sent to it yet, so there is room
            let _ = job.events.try_send(JobEvent::Refused(Refused::Stopping));
        }
    }

    /// Ends what runs at its next token, and what waits at once.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.lock().jobs.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Requests that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().jobs.len()
    }
}

/// Computes requests until the queue is closed and empty.
pub(crate) fn work(
    engine: &mut Engine,
    queue: &Queue,
    metrics: &Metrics,
    sessions: Option<SessionFolder>,
    session_memory: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut session = engine.session()?;
    let mut memory = SessionMemory::new(session_memory);
    // where the conversation that was answered last may part from its next turn
    let mut boundary = 0;
    let mut keeping = sessions.map(Keeping::new);
    loop {
        let job = match queue.next(keeping.as_ref().and_then(Keeping::quiet)) {
            Next::Job(job) => job,
            Next::Quiet => {
                if let Some(keeping) = &mut keeping {
                    keeping.keep_while(&mut session, || queue.depth() == 0);
                }
                continue;
            }
            Next::Closed => break,
        };
        take_up(&mut session, &mut memory, keeping.as_mut(), job.prepared.prompt(), boundary);
        boundary = job.prepared.last_boundary();
        let computed = compute(&mut session, queue, metrics, &job);
        if let Some(keeping) = &mut keeping {
            keeping.changed();
        }
        let end = match computed {
            Ok(Some(done)) => JobEvent::Done(done),
            Ok(None) => continue,
            Err(error) => {
                job.span.in_scope(|| tracing::error!("a request failed: {error}"));
                JobEvent::Failed
            }
        };
        send(&job, queue, end);
    }
    if let Some(keeping) = &mut keeping {
        keeping.keep(&mut session);
    }
    Ok(())
}

/// Makes the session one that begins like `prompt`, if memory or a file has more of it. When the prompt is not the next
/// turn of the session's own conversation, that is kept before.
fn take_up(
    session: &mut Session<'_>,
    memory: &mut SessionMemory,
    mut keeping: Option<&mut Keeping>,
    prompt: &[u32],
    boundary: usize,
) {
    if common_prefix(session.tokens(), prompt) < boundary {
        if let Err(error) = session.keep_in(memory) {
            tracing::warn!("this session is not kept in memory: {error}");
        }
        if let Some(keeping) = &mut keeping {
            keeping.keep(session);
            keeping.begin_another();
        }
    }
    // without a state the prompt is computed, or the answer says what is wrong
    match session.take_from(memory, prompt) {
        Ok(Some(tokens)) => tracing::debug!("{tokens} tokens of another conversation's state are taken from memory"),
        Ok(None) => {}
        Err(error) => tracing::warn!("a session in memory could not be used: {error}"),
    }
    if let Some(keeping) = keeping {
        match session.restore(keeping.folder(), prompt) {
            Ok(restored) => restored.refused.iter().for_each(|refused| tracing::warn!("{refused}")),
            Err(error) => tracing::warn!("a session file could not be used: {error}"),
        }
    }
}

/// One request; `None` when its client has left.
fn compute(
    session: &mut Session<'_>,
    queue: &Queue,
    metrics: &Metrics,
    job: &Job,
) -> Result<Option<Generated>, SessionError> {
    let (mut is_first, mut progress) = (true, Progress::default());
    let made = session.answer(&job.prepared, |event| {
        if is_first && matches!(event, Event::Token { .. }) {
            is_first = false;
            metrics.first_token(job.since.elapsed());
        }
        let is_wanted = matches!(
            event,
            Event::Thinking(_)
                | Event::Text(_)
                | Event::ToolCallBegin { .. }
                | Event::ToolCallArguments { .. }
                | Event::ToolCall(_)
                | Event::Token { probabilities: Some(_), .. }
                | Event::StopToken { .. }
                | Event::Prompt(_)
        );
        let told = progress.of(&event);
        if let Some(told) = told
            && !send(job, queue, JobEvent::Progress(told))
        {
            return false;
        }
        let is_there = if is_wanted { send(job, queue, JobEvent::Part(event)) } else { !job.events.is_closed() };
        is_there && !queue.aborted.load(Ordering::Relaxed)
    })?;
    metrics.computed(&made, session.expert_stats());
    job.span.in_scope(|| {
        tracing::info!(
            read = made.computed,
            reused = made.reused,
            written = made.tokens.len(),
            waited_ms = milliseconds(job.since.elapsed().saturating_sub(made.prefill + made.decode)),
            prefill_ms = milliseconds(made.prefill),
            decode_ms = milliseconds(made.decode),
            finish = ?made.finish,
            "computed"
        );
    });
    Ok((made.finish != Finish::Interrupted).then_some(made))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Gives an event to a reader; `false` when the reader is gone, or takes too long.
fn send(job: &Job, queue: &Queue, mut event: JobEvent) -> bool {
    let mut since = None;
    loop {
        match job.events.try_send(event) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(back)) => event = back,
        }
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        if waited > PATIENCE || queue.aborted.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::{Device, EngineOptions, Request};

    fn job(buffer: usize) -> (Job, mpsc::Receiver<JobEvent>) {
        static PREPARED: std::sync::OnceLock<Prepared> = std::sync::OnceLock::new();
        let prepared = PREPARED.get_or_init(|| {
            let engine = Engine::embedded(&EngineOptions { device: Device::Cpu, ..EngineOptions::default() }).unwrap();
            engine.language().unwrap().prepare(Request::text("a")).unwrap()
        });
        let (events, receiver) = mpsc::channel(buffer);
        let (prepared, span) = (prepared.clone(), tracing::Span::none());
        (Job { prepared, events, since: Instant::now(), span, goes_on: false }, receiver)
    }

    #[test]
    fn the_queue_has_an_end_and_leavers_make_room() {
        let queue = Queue::new(2);
        let mut readers = Vec::new();
        // nothing runs yet: one more than those that wait
        for _ in 0..3 {
            let (job, reader) = job(1);
            queue.submit(job).unwrap();
            readers.push(reader);
        }
        assert_eq!(queue.submit(job(1).0), Err(Refused::Full));
        // one more answer to a request that is there already
        let (more, reader) = job(1);
        queue.submit(Job { goes_on: true, ..more }).unwrap();
        drop(reader);
        readers.remove(1);
        let (last, mut last_reader) = job(1);
        queue.submit(last).unwrap();
        assert!(matches!(queue.next(None), Next::Job(_)));
        assert_eq!((queue.depth(), queue.submit(job(1).0)), (2, Err(Refused::Full)));
        queue.close();
        assert_eq!(queue.submit(job(1).0), Err(Refused::Stopping));
        // those that waited are told at once
        assert!(matches!(queue.next(None), Next::Closed));
        let last = last_reader.blocking_recv();
        assert!(matches!(last, Some(JobEvent::Refused(Refused::Stopping))));
    }

    #[test]
    fn the_queue_tells_of_quiet() {
        let (queue, quiet) = (Queue::new(1), Duration::from_millis(50));
        let since = Instant::now();
        assert!(matches!(queue.next(Some(quiet)), Next::Quiet) && since.elapsed() >= quiet);
        // who came and left does not make it quiet for longer
        let (left, reader) = job(1);
        queue.submit(left).unwrap();
        drop(reader);
        assert!(matches!(queue.next(Some(quiet)), Next::Quiet));
        let (asked, _reader) = job(1);
        queue.submit(asked).unwrap();
        assert!(matches!(queue.next(Some(Duration::ZERO)), Next::Job(_)));
        queue.close();
        assert!(matches!(queue.next(Some(quiet)), Next::Closed));
    }

    #[test]
    fn a_reader_that_does_not_read_is_given_up() {
        let queue = Queue::new(1);
        let (job, mut reader) = job(2);
        let text = || JobEvent::Part(Event::Text(String::new()));
        assert!(send(&job, &queue, text()) && send(&job, &queue, text()));
        let since = Instant::now();
        assert!(!send(&job, &queue, text()));
        assert!(since.elapsed() >= PATIENCE);
        // one that reads in time is waited for
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(PATIENCE / 4);
                reader.blocking_recv().unwrap();
            });
            assert!(send(&job, &queue, text()));
        });
        drop(reader);
        assert!(!send(&job, &queue, text()));
    }
}
