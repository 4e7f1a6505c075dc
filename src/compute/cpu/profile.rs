//! Where the time of steps goes on the processor.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::compute::step::{KernelTime, ProfiledSteps};

/// Times of operations since it was made.
pub(super) struct Profile {
    times: Vec<KernelTime>,
    steps: ProfiledSteps,
    begun: Instant,
    /// Of the step: in operations, and waiting for reads.
    elsewhere: Duration,
}

impl Profile {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        Profile { times: Vec::new(), steps: ProfiledSteps::default(), begun, elsewhere: Duration::ZERO }
    }

    /// A step begins.
    pub(super) fn begin(&mut self) {
        (self.begun, self.elsewhere) = (Instant::now(), Duration::ZERO);
    }

    /// An operation took from `since` until now.
    pub(super) fn add(&mut self, kernel: &'static str, since: Instant, weight_bytes: u64) {
        let took = since.elapsed();
        self.elsewhere += took;
        let at = self.times.iter().position(|time| time.kernel == kernel).unwrap_or_else(|| {
            self.times.push(KernelTime { kernel, calls: 0, time: Duration::ZERO, weight_bytes: 0 });
            self.times.len() - 1
        });
        let time = &mut self.times[at];
        time.calls += 1;
        time.time += took;
        time.weight_bytes += weight_bytes;
    }

    /// Reads were waited for from `since` until now.
    pub(super) fn has_waited(&mut self, since: Instant) {
        self.elsewhere += since.elapsed();
    }

    /// A step is done.
    pub(super) fn end(&mut self) {
        self.steps.steps += 1;
        self.steps.host += self.begun.elapsed().saturating_sub(self.elsewhere);
    }

    /// Longest first.
    pub(super) fn times(&self) -> Vec<KernelTime> {
        let mut times = self.times.clone();
        times.sort_by_key(|time| std::cmp::Reverse(time.time));
        times
    }

    pub(super) fn steps(&self) -> ProfiledSteps {
        self.steps
    }
}

/// More than caches hold.
const READ: usize = 256 << 20;

/// Bytes a second at which all threads together read memory: the best of five times.
pub(super) fn bandwidth() -> f64 {
    let words = vec![1u64; READ / 8];
    let read = || {
        let since = Instant::now();
        let sum: u64 = words.par_chunks(1 << 16).map(|words| words.iter().fold(0, |sum, word| sum ^ word)).sum();
        black_box(sum);
        since.elapsed().as_secs_f64()
    };
    READ as f64 / (0..5).map(|_| read()).fold(f64::INFINITY, f64::min)
}
