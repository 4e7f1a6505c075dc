//! The threads that HTTP takes, all of them had before anything is served.
//!
//! Where the system has no thread (a limit of processes of the user or the container), tokio panics while it starts, and
//! later has a request wait until there is one, which may be never. So threads are asked for before it starts, and those
//! that it would start when they are needed are started now and stay.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::ServeError;

/// Threads that read and write connections.
const WORKERS: usize = 2;

/// Threads on which requests are made ready: tokenizing and templates. There need not be many, as requests are text.
const READY: usize = 4;

/// What a thread may take to start: one that takes longer waits for others to end.
const START: Duration = Duration::from_secs(10);

/// As good as for ever, for clocks that cannot count so far.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What HTTP runs on.
///
/// # Errors
/// [`ServeError::Threads`] where the system has none.
pub(super) fn runtime() -> Result<Runtime, ServeError> {
    are_there(WORKERS + READY, |work| std::thread::Builder::new().name("http".to_owned()).spawn(work))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(READY)
        .thread_keep_alive(FOR_GOOD)
        .thread_name("http")
        .enable_all()
        .build()?;
    // each is held until all are there, so that none does the work of two
    let gate = Arc::new(Mutex::new(()));
    let (tell, started) = channel();
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..READY {
        let (gate, tell) = (gate.clone(), tell.clone());
        runtime.spawn_blocking(move || {
            // nobody listens when one of the others did not start
            let _ = tell.send(());
            drop(gate.lock());
        });
    }
    let all = (0..READY).try_for_each(|_| started.recv_timeout(START));
    drop(closed);
    all.map_err(|_| ServeError::Threads(io::ErrorKind::WouldBlock.into()))?;
    Ok(runtime)
}

/// Starts as many threads at a time, and ends them.
fn are_there(
    count: usize,
    mut start: impl FnMut(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
) -> Result<(), ServeError> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = (0..count).map(|_| {
        let gate = gate.clone();
        start(Box::new(move || drop(gate.lock())))
    });
    let threads: io::Result<Vec<JoinHandle<()>>> = threads.collect();
    drop(closed);
    for thread in threads.map_err(ServeError::Threads)? {
        // all that it does is to wait
        let _ = thread.join();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use std::collections::HashSet;
    use std::sync::Barrier;

    #[test]
    fn a_system_without_threads_is_an_error_before_anything_is_served() {
        for there in 0..WORKERS + READY {
            let mut started = 0;
            let few = are_there(WORKERS + READY, |work| {
                started += 1;
                if started > there { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(std::thread::spawn(work)) }
            });
            let error = few.unwrap_err().to_string();
            assert!(error.contains("no thread") && error.contains("(hint: "), "{error}");
        }
        are_there(WORKERS + READY, |work| Ok(std::thread::spawn(work))).unwrap();
    }

    /// They are there from the start and stay: as many at a time as may be, and no other ones.
    #[test]
    fn requests_are_made_ready_on_threads_that_are_there() {
        let runtime = runtime().unwrap();
        let ids = || {
            let together = Arc::new(Barrier::new(READY));
            let works = (0..READY).map(|_| {
                let together = together.clone();
                runtime.spawn_blocking(move || {
                    together.wait();
                    std::thread::current().id()
                })
            });
            let works: Vec<_> = works.collect();
            works.into_iter().map(|work| runtime.block_on(work).unwrap()).collect::<HashSet<_>>()
        };
        let first = ids();
        assert_eq!((first.len(), ids()), (READY, first));
    }
}
