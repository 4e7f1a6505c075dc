//! What the store does, for whoever looks: which experts are in memory, and which were just used or read.
//!
//! There is no queue. Every expert has one word, which the last change to it overwrites: what is kept does not grow, nobody
//! is waited for, and who looks rarely sees where things stand. While nobody looks, only what a read or an eviction changes
//! is written down, beside which one word more is nothing.

#![cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the server's clients look"))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::stats::StoreStats;
use crate::weights::ExpertLayout;

/// Where an expert is, and what was last done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertState {
    /// On the disk alone.
    Left = 0,
    /// In memory.
    There = 1,
    /// In memory, and just used.
    Used = 2,
    /// In memory, and just read.
    Read = 3,
}

impl ExpertState {
    fn of(word: u64) -> Self {
        match word & 3 {
            0 => Self::Left,
            1 => Self::There,
            2 => Self::Used,
            _ => Self::Read,
        }
    }
}

/// A change: the layer with experts, the expert, and what is so now.
pub(crate) type Change = (usize, usize, ExpertState);

/// The words of all experts.
pub(crate) struct ExpertActivity {
    /// Where each layer's words begin, and where the last one's end.
    starts: Vec<usize>,
    /// An [`ExpertState`] below the number of the request that brought it.
    words: Vec<AtomicU64>,
    /// The number of the last request. The store alone counts it, and writes the words of one before it counts the next.
    request: AtomicU64,
    is_watched: AtomicBool,
    stats: Mutex<StoreStats>,
}

impl ExpertActivity {
    pub(super) fn new(layout: &ExpertLayout) -> Self {
        let mut starts = vec![0];
        starts.extend(layout.layers.iter().scan(0, |sum, layer| {
            *sum += layer.experts;
            Some(*sum)
        }));
        let words = (0..layout.experts()).map(|_| AtomicU64::new(0)).collect();
        let (request, is_watched) = (AtomicU64::new(1), AtomicBool::new(false));
        ExpertActivity { starts, words, request, is_watched, stats: Mutex::default() }
    }

    /// Experts of each layer that has some.
    pub(crate) fn layers(&self) -> Vec<usize> {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Whether uses are written down from now on.
    pub(crate) fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// A request begins.
    pub(super) fn next_request(&self) {
        // one thread counts; what it wrote before is seen by whoever sees the count
        self.request.store(self.request.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    pub(super) fn set(&self, layer: usize, expert: u32, state: ExpertState) {
        let word = self.request.load(Ordering::Relaxed) << 2 | state as u64;
        self.words[self.starts[layer] + expert as usize].store(word, Ordering::Relaxed);
    }

    /// Tells the counters, if somebody looks.
    pub(super) fn tell(&self, stats: &StoreStats) {
        if self.is_watched() {
            *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = *stats;
        }
    }

    /// The counters as they were told last.
    pub(crate) fn stats(&self) -> StoreStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has changed since `seen`, which becomes now; with 0, what is in memory. A change may be told twice, and none is
    /// left out but those that a later one has overtaken.
    pub(crate) fn changes_since(&self, seen: &mut u64) -> Vec<Change> {
        let is_first = *seen == 0;
        let since = std::mem::replace(seen, self.request.load(Ordering::Acquire));
        let mut changes = Vec::new();
        for (layer, range) in self.starts.windows(2).enumerate() {
            for (expert, word) in self.words[range[0]..range[1]].iter().enumerate() {
                let word = word.load(Ordering::Relaxed);
                let state = ExpertState::of(word);
                if is_first && state != ExpertState::Left {
                    changes.push((layer, expert, ExpertState::There));
                } else if !is_first && word >> 2 >= since {
                    changes.push((layer, expert, state));
                }
            }
        }
        changes
    }
}
