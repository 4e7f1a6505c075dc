//! What an engine does, for whoever looks: its experts, and where the time of its steps goes. Nothing is written down while
//! nobody looks, and nobody who looks is waited for.

#![cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the server's clients look"))]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::experts::ExpertActivity;

/// Steps that are remembered. Who looks less often than every so many does not hear of all of them.
const STEPS: usize = 256;

/// A pause that is longer is no part of a token's time: nobody asked for one.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where the time of a step went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepTime {
    pub(crate) tokens: usize,
    /// Whether they were a prompt's.
    pub(crate) is_prompt: bool,
    /// Waiting for reads of experts.
    pub(crate) disk: Duration,
    /// Waiting for the device.
    pub(crate) device: Duration,
    /// All else within the step.
    pub(crate) host: Duration,
    /// Between the step before and this one: choosing a token, and whoever takes it.
    pub(crate) between: Duration,
}

/// Time that was spent waiting, so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub(crate) disk: Duration,
    pub(crate) device: Duration,
}

/// A step that runs.
pub(crate) struct BegunStep {
    since: Instant,
    waits: Waits,
}

/// What an engine does.
pub(crate) struct Activity {
    watchers: AtomicUsize,
    experts: Option<Arc<ExpertActivity>>,
    steps: Mutex<Steps>,
}

#[derive(Default)]
struct Steps {
    last: VecDeque<StepTime>,
    /// All that there were.
    count: u64,
    ended: Option<Instant>,
}

/// Somebody who looks, as long as this lives.
pub(crate) struct Watcher(Arc<Activity>);

impl Activity {
    pub(super) fn new(experts: Option<Arc<ExpertActivity>>) -> Self {
        Activity { watchers: AtomicUsize::new(0), experts, steps: Mutex::default() }
    }

    /// Looks from now on.
    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        let mut steps = self.steps();
        if self.watchers.fetch_add(1, Ordering::Relaxed) == 0 {
            // what was before is nobody's
            steps.ended = None;
            steps.last.clear();
            self.experts.iter().for_each(|experts| experts.watch(true));
        }
        Watcher(self.clone())
    }

    pub(crate) fn experts(&self) -> Option<&ExpertActivity> {
        self.experts.as_deref()
    }

    /// How many look.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        // a list of times is right after every statement
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins; `None` when nobody looks.
    pub(crate) fn begin(&self, waits: impl FnOnce() -> Waits) -> Option<BegunStep> {
        (self.watchers() > 0).then(|| BegunStep { since: Instant::now(), waits: waits() })
    }

    /// The step that began is done.
    pub(crate) fn end(&self, begun: &BegunStep, tokens: usize, is_prompt: bool, waits: Waits) {
        let now = Instant::now();
        let (disk, device) =
            (waits.disk.saturating_sub(begun.waits.disk), waits.device.saturating_sub(begun.waits.device));
        let host = (now - begun.since).saturating_sub(disk + device);
        let mut steps = self.steps();
        let pause = steps.ended.map(|ended| begun.since.saturating_duration_since(ended));
        let between = pause.filter(|pause| *pause <= LONGEST_PAUSE).unwrap_or_default();
        steps.ended = Some(now);
        steps.count += 1;
        steps.last.push_back(StepTime { tokens, is_prompt, disk, device, host, between });
        let over = steps.last.len().saturating_sub(STEPS);
        steps.last.drain(..over);
    }

    /// The steps since `seen`, which becomes now; the last [`STEPS`] at most.
    pub(crate) fn steps_since(&self, seen: &mut u64) -> Vec<StepTime> {
        let steps = self.steps();
        let new = usize::try_from(steps.count - *seen).unwrap_or(usize::MAX).min(steps.last.len());
        *seen = steps.count;
        steps.last.range(steps.last.len() - new..).copied().collect()
    }

    /// All steps there were, for whoever begins to look.
    pub(crate) fn step_count(&self) -> u64 {
        self.steps().count
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _steps = self.0.steps();
        if self.0.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.experts.iter().for_each(|experts| experts.watch(false));
        }
    }
}
