//! Work on what strangers wrote, on a thread of its own: with a stack that is deep enough for what calls itself, and given
//! up when it takes too long or nobody waits for it.
//!
//! A thread cannot be ended from outside. What was given up goes on until it finds its own end, and while [`MOST_LEFT`] do,
//! nothing new is begun, and whoever comes waits for a while: strangers can keep so many cores busy and no more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Threads that were given up and still run.
const MOST_LEFT: usize = 2;

/// How often the wish of whoever waits is asked for.
const POLL: Duration = Duration::from_millis(20);

/// Threads for one kind of work.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    /// Of the threads, for debuggers.
    name: &'static str,
    /// Bytes of their stacks.
    stack: usize,
    limit: Duration,
    /// Threads that were given up and still run.
    left: Arc<AtomicUsize>,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GivenUp {
    /// It was not done in time.
    #[error("it takes longer than {} s", .0.as_secs_f32())]
    TooLong(Duration),
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Unwanted,
    /// Others that took too long still run.
    #[error("{0} others that took too long still run; try again later")]
    Busy(usize),
    /// The system has no thread or no memory for it.
    #[error("no thread could be started for it: {0}")]
    NoThread(std::io::Error),
    /// A panic's message.
    #[error("{0}")]
    Panicked(String),
}

impl Aside {
    /// Threads called `name` with `stack` bytes of stack, each for `limit` at most.
    pub(crate) fn new(name: &'static str, stack: usize, limit: Duration) -> Self {
        Aside { name, stack, limit, left: Arc::default() }
    }

    /// Threads that were given up and still run.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// Does `work`, and waits for it as long as `is_wanted` says.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        is_wanted: &dyn Fn() -> bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GivenUp> {
        let asked = Instant::now();
        // those that were given up often end soon: somebody left while a grammar was made
        loop {
            match self.left.load(Ordering::Acquire) {
                left if left < MOST_LEFT => break,
                _ if !is_wanted() => return Err(GivenUp::Unwanted),
                left if asked.elapsed() > self.limit => return Err(GivenUp::Busy(left)),
                _ => std::thread::sleep(POLL),
            }
        }
        let since = Instant::now();
        let (done, outcome) = sync_channel(1);
        let thread = std::thread::Builder::new().name(self.name.to_owned()).stack_size(self.stack);
        // whoever waits and the thread: the second one to leave finds the work given up or done
        let running = Running { left: self.left.clone(), is_done: Arc::default() };
        let is_done = running.is_done.clone();
        let work = move || {
            let running = running;
            let made = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message_of(&*panic));
            drop(running);
            // nobody listens when it was given up
            let _ = done.send(made);
        };
        thread.spawn(work).map_err(GivenUp::NoThread)?;
        let reason = loop {
            match outcome.recv_timeout(POLL) {
                Ok(made) => return made.map_err(GivenUp::Panicked),
                Err(RecvTimeoutError::Disconnected) => break GivenUp::Panicked("the thread ended".to_owned()),
                Err(RecvTimeoutError::Timeout) if !is_wanted() => break GivenUp::Unwanted,
                Err(RecvTimeoutError::Timeout) if since.elapsed() > self.limit => break GivenUp::TooLong(self.limit),
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        self.left.fetch_add(1, Ordering::AcqRel);
        if is_done.fetch_add(1, Ordering::AcqRel) > 0 {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
        Err(reason)
    }
}

/// A thread's own word that it came to its end.
struct Running {
    left: Arc<AtomicUsize>,
    is_done: Arc<AtomicUsize>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_done.fetch_add(1, Ordering::AcqRel) > 0 {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What a panic said.
pub(crate) fn message_of(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    said.unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn what_takes_too_long_is_given_up_and_counted() {
        let patient = Aside::new("aside", 256 << 10, Duration::from_secs(60));
        assert!(matches!(patient.run(&|| true, || 7), Ok(7)));
        let panicked = patient.run(&|| true, || -> u8 { panic!("no") });
        assert!(matches!(panicked, Err(GivenUp::Panicked(said)) if said == "no"));
        let aside = Aside::new("aside", 256 << 10, Duration::from_millis(60));
        let ends: Vec<_> = (0..MOST_LEFT)
            .map(|_| {
                let (end, ended) = channel::<()>();
                assert!(matches!(aside.run(&|| true, move || ended.recv().is_ok()), Err(GivenUp::TooLong(_))));
                end
            })
            .collect();
        assert!(matches!(aside.run(&|| true, || 7), Err(GivenUp::Busy(MOST_LEFT))));
        drop(ends);
        // they find their end, and there is room again
        let since = Instant::now();
        while aside.left.load(Ordering::Acquire) > 0 {
            assert!(since.elapsed() < Duration::from_secs(10));
            std::thread::sleep(POLL);
        }
        // a machine that is busy may take longer than this one has patience
        assert!(!matches!(aside.run(&|| true, || 7), Err(GivenUp::Busy(_))));
    }

    #[test]
    fn nobody_waits_for_what_nobody_wants() {
        let aside = Aside::new("aside", 256 << 10, Duration::from_secs(600));
        let (end, ended) = channel::<()>();
        assert!(matches!(aside.run(&|| false, move || ended.recv().is_ok()), Err(GivenUp::Unwanted)));
        drop(end);
    }
}
