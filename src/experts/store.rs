//! The expert store: slots under a hard byte budget, filled by positioned reads on worker threads.
//!
//! A request ([`ExpertStore::acquire`]) names the experts of one layer that the router chose. Those in slots are known
//! at once; the others get slots, and their reads start at once, all in parallel. The caller computes what is there,
//! then waits: for some at a time as they land ([`ExpertStore::wait_some`]).
//!
//! Slots belong to layers as long as each layer can hold the experts of a token: a layer then cannot push out what
//! the next one is about to need. A smaller budget makes one set that all layers share.

mod limit;
mod look_ahead;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::activity::{ExpertActivity, ExpertState};
use super::budget::check_slots;
use super::check::check_layout;
use super::policy::{AgedLfu, Policy, SlotUse};
use super::reader::ExpertReader;
use super::sets::SlotSets;
use super::worker::{Done, Job, Workers};
use crate::weights::ExpertLayout;

pub(crate) use super::error::StoreError;
pub(crate) use super::slots::SlotMemory;
pub use super::stats::StoreStats;

/// An expert and the slot it is in, or is on the way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acquired {
    /// The expert, counted from 0 in its layer.
    pub expert: u32,
    /// Its slot.
    pub slot: usize,
    /// Whether its bytes are there; otherwise the slot must be waited for.
    pub hit: bool,
}

/// Slots, what is in them, and the threads that fill them.
///
/// The slots that a request returns stay as they are until the next request, and longer while they are
/// [held](ExpertStore::hold).
pub(crate) struct ExpertStore {
    layout: Arc<ExpertLayout>,
    memory: Arc<dyn SlotMemory>,
    policy: Box<dyn Policy>,
    workers: Workers,
    slots: Vec<Slot>,
    /// One per slot; apart from [`Slot`], because a policy sees a set of them.
    uses: Vec<SlotUse>,
    /// What was known of experts when they left their slots.
    past: HashMap<(usize, u32), SlotUse>,
    /// The slots in which (layer, expert) is ready or being read.
    places: HashMap<(usize, u32), usize>,
    sets: SlotSets,
    /// The most slots of each set that are filled; see [`ExpertStore::set_limit`].
    limits: Vec<usize>,
    request: u64,
    in_flight: usize,
    busy_since: Instant,
    last_finished: Instant,
    stats: StoreStats,
    activity: Arc<ExpertActivity>,
}

#[derive(Debug)]
struct Slot {
    state: State,
    holds: u32,
    /// Read before anybody asked for it, and not asked for since.
    ahead: bool,
}

#[derive(Debug)]
enum State {
    Empty,
    Reading {
        layer: usize,
        expert: u32,
    },
    Ready {
        layer: usize,
        expert: u32,
    },
    /// Empty, with an error that whoever waits for the slot still has to hear.
    Failed(StoreError),
}

impl ExpertStore {
    /// A store with the slots of `memory`, none filled. `threads` (at least 1) read in parallel.
    ///
    /// # Errors
    /// A layout without experts, or one that contradicts itself; slots that are too small or too few; no threads.
    pub(crate) fn new(
        layout: Arc<ExpertLayout>,
        memory: Arc<dyn SlotMemory>,
        reader: Arc<dyn ExpertReader>,
        threads: usize,
    ) -> Result<Self, StoreError> {
        check_layout(&layout)?;
        let (count, slot_bytes) = (memory.slots(), memory.slot_bytes());
        if slot_bytes < layout.slot_bytes() {
            return Err(StoreError::SlotTooSmall { expected: layout.slot_bytes(), found: slot_bytes });
        }
        check_slots(count, slot_bytes as u64, count as u64 * slot_bytes as u64, layout.most_of_a_token())?;
        let sets = SlotSets::new(&layout, count);
        let (now, activity) = (Instant::now(), Arc::new(ExpertActivity::new(&layout)));
        Ok(ExpertStore {
            workers: Workers::start(layout.clone(), memory.clone(), reader, threads)?,
            policy: Box::new(AgedLfu::for_layers(layout.layers.len())),
            layout,
            memory,
            slots: (0..count).map(|_| Slot { state: State::Empty, holds: 0, ahead: false }).collect(),
            uses: vec![SlotUse::default(); count],
            past: HashMap::new(),
            places: HashMap::new(),
            limits: sets.iter().map(|set| set.len()).collect(),
            sets,
            request: 0,
            in_flight: 0,
            busy_since: now,
            last_finished: now,
            stats: StoreStats::default(),
            activity,
        })
    }

    /// The same store with another eviction policy than [`AgedLfu`].
    #[must_use]
    #[cfg(test)]
    pub(crate) fn with_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// The most experts of one layer that one request may name.
    pub(crate) fn capacity(&self, layer: usize) -> usize {
        self.limit_of(layer).min(self.layout.layers[layer].experts)
    }

    /// Whether every expert of the model has a slot, so that none is ever evicted.
    pub(crate) fn holds_all(&self) -> bool {
        let layers = self.layout.layers.iter().zip(&self.limits);
        !self.sets.is_shared() && layers.into_iter().all(|(layer, limit)| layer.experts == *limit)
    }

    /// What it reads: the layers with experts.
    pub(crate) fn layout(&self) -> &ExpertLayout {
        &self.layout
    }

    /// The slot of an expert whose bytes are there.
    #[cfg(test)]
    pub(crate) fn slot_of(&self, layer: usize, expert: u32) -> Option<usize> {
        let slot = *self.places.get(&(layer, expert))?;
        matches!(self.slots[slot].state, State::Ready { .. }).then_some(slot)
    }

    /// Whether an expert is in a slot or on the way to one.
    pub(crate) fn has_place(&self, layer: usize, expert: u32) -> bool {
        self.places.contains_key(&(layer, expert))
    }

    /// What happened so far. Reads under way are not counted.
    pub(crate) fn stats(&self) -> StoreStats {
        self.stats
    }

    /// What it does, for whoever looks.
    pub(crate) fn activity(&self) -> &Arc<ExpertActivity> {
        &self.activity
    }

    /// Sets all counters to zero.
    pub(crate) fn reset_stats(&mut self) {
        self.stats = StoreStats::default();
        self.busy_since = Instant::now();
    }

    /// Gives each of `experts` (distinct, at most [`capacity`](Self::capacity)) a slot and starts the reads of those
    /// that have none. Answers in the order of `experts`. None of them is evicted for another one of the request, nor
    /// is a slot that is held or being read; others may be.
    ///
    /// Blocks only when slots are short because earlier reads were not waited for.
    pub(crate) fn acquire(&mut self, layer: usize, experts: &[u32]) -> Result<Vec<Acquired>, StoreError> {
        self.check_request(layer, experts)?;
        while let Some(done) = self.workers.poll() {
            self.land(done);
        }
        self.request += 1;
        self.activity.next_request();
        let is_watched = self.activity.is_watched();
        for &expert in experts {
            if let Some(&slot) = self.places.get(&(layer, expert)) {
                let known = match std::mem::take(&mut self.slots[slot].ahead) {
                    true => {
                        self.stats.ahead_used += 1;
                        self.past.get(&(layer, expert)).copied().unwrap_or_default()
                    }
                    false => self.uses[slot],
                };
                self.uses[slot] = self.policy.used(known, self.request);
                if is_watched && matches!(self.slots[slot].state, State::Ready { .. }) {
                    self.activity.set(layer, expert, ExpertState::Used);
                }
            }
        }
        let missing = self.make_room(layer, experts)?;
        let freed = self.free_slots(layer, missing.len())?;
        for (&expert, &slot) in missing.iter().zip(&freed) {
            self.start_read(Job { slot, layer, expert })?;
        }
        self.stats.misses += missing.len() as u64;
        self.stats.hits += (experts.len() - missing.len()) as u64;
        self.activity.tell(&self.stats);
        let acquired = experts.iter().map(|&expert| {
            let slot = self.places[&(layer, expert)];
            Acquired { expert, slot, hit: matches!(self.slots[slot].state, State::Ready { .. }) }
        });
        Ok(acquired.collect())
    }

    /// Blocks until the reads into `slots` are done. The first in the list that failed is the error; all that failed
    /// are empty afterwards, so that another request reads them again.
    #[cfg(test)]
    pub(crate) fn wait(&mut self, slots: &[usize]) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for &slot in slots {
            let landed = self.wait_one(slot);
            if outcome.is_ok() {
                outcome = landed;
            }
        }
        outcome
    }

    /// Blocks until a read is done, of `pending` or not, and takes those of `pending` whose reads are done out of it:
    /// each with why its read failed, if it did (it is empty then). Call it again until `pending` is empty: a read of
    /// another slot may hold memory that those of `pending` wait for, and the caller makes it free.
    pub(crate) fn wait_some(&mut self, pending: &mut Vec<usize>) -> Vec<(usize, Result<(), StoreError>)> {
        self.wait_some_within(pending, Duration::MAX).unwrap_or_default()
    }

    /// As [`wait_some`](Self::wait_some), but blocks for `patience` at most: `None` when no read was done by then.
    pub(crate) fn wait_some_within(
        &mut self,
        pending: &mut Vec<usize>,
        patience: Duration,
    ) -> Option<Vec<(usize, Result<(), StoreError>)>> {
        let mut any = false;
        while let Some(done) = self.workers.poll() {
            self.land(done);
            any = true;
        }
        let must_wait = !any && !pending.is_empty() && pending.iter().all(|&slot| self.is_reading(slot));
        if must_wait && !self.block_within(patience) {
            return None;
        }
        let (still, done): (Vec<usize>, Vec<usize>) = pending.iter().partition(|&&slot| self.is_reading(slot));
        *pending = still;
        Some(done.into_iter().map(|slot| (slot, self.wait_one(slot))).collect())
    }

    /// Lets no read begin any more that was asked for, and gives the slots that are waited for all the same: what is read
    /// into them stays, those of reads that had not begun will be empty. The caller waits for all of them.
    pub(crate) fn call_off(&mut self) -> Vec<usize> {
        self.workers.call_off();
        (0..self.slots.len()).filter(|&slot| self.is_reading(slot)).collect()
    }

    /// Keeps slots from being evicted until they are [released](Self::release) as often as they were held: for
    /// commands that are still to run when the next request comes. Panics on a slot that does not exist.
    pub(crate) fn hold(&mut self, slots: &[usize]) {
        for &slot in slots {
            self.slots[slot].holds += 1;
        }
    }

    /// Ends one [`hold`](Self::hold) of each slot. Panics on a slot that does not exist.
    pub(crate) fn release(&mut self, slots: &[usize]) {
        for &slot in slots {
            self.slots[slot].holds = self.slots[slot].holds.saturating_sub(1);
        }
    }

    /// The slots that experts of a layer may be in.
    fn set(&self, layer: usize) -> Range<usize> {
        self.sets.of_layer(layer)
    }

    /// The most slots that experts of a layer may be in now.
    fn limit_of(&self, layer: usize) -> usize {
        self.limits[self.sets.set_of(layer)]
    }

    fn check_request(&self, layer: usize, experts: &[u32]) -> Result<(), StoreError> {
        let Some(count) = self.layout.layers.get(layer).map(|layer| layer.experts) else {
            return Err(StoreError::NoSuchLayer { layer, layers: self.layout.layers.len() });
        };
        let mut sorted = experts.to_vec();
        sorted.sort_unstable();
        if let Some(&expert) = sorted.last()
            && expert as usize >= count
        {
            return Err(StoreError::NoSuchExpert { layer, expert, experts: count });
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(StoreError::Repeated { layer, expert: pair[0] });
        }
        if experts.len() > self.capacity(layer) {
            let (asked, capacity) = (experts.len(), self.capacity(layer));
            return Err(StoreError::TooManyExperts { layer, asked, capacity });
        }
        Ok(())
    }

    /// The experts that have no slot, once enough others can be evicted for them.
    fn make_room(&mut self, layer: usize, experts: &[u32]) -> Result<Vec<u32>, StoreError> {
        loop {
            let has_none = |expert: &u32| !self.places.contains_key(&(layer, *expert));
            let missing: Vec<u32> = experts.iter().copied().filter(has_none).collect();
            if missing.is_empty() {
                return Ok(missing);
            }
            let set = self.set(layer);
            let free = set.clone().filter(|&slot| !self.is_pinned(slot)).count();
            if free >= missing.len() {
                return Ok(missing);
            }
            let may_free = |slot: &usize| self.is_reading(*slot) && !self.is_asked(*slot);
            if !set.clone().any(|slot| may_free(&slot) && self.slots[slot].holds == 0) {
                return Err(self.all_held(layer, missing.len()));
            }
            self.block();
        }
    }

    /// Pins an empty slot for the current request.
    fn claim(&mut self, slot: usize) -> usize {
        self.uses[slot].last_used = self.request;
        slot
    }

    /// Empties the slot of a set that the policy chooses among those that are filled and not pinned.
    fn evict_one(&mut self, set: Range<usize>) -> Option<usize> {
        let pinned = |index: usize| self.is_empty(set.start + index) || self.is_pinned(set.start + index);
        let victim = self.policy.victim(&self.uses[set.clone()], &pinned);
        // whatever a policy answers, a pinned slot is not given away
        let slot = set.start + victim.filter(|&index| index < set.len() && !pinned(index))?;
        if let State::Ready { layer, expert } = self.slots[slot].state {
            self.places.remove(&(layer, expert));
            self.activity.set(layer, expert, ExpertState::Left);
            if !self.slots[slot].ahead {
                self.past.insert((layer, expert), self.uses[slot]);
            }
            self.stats.evictions += 1;
        }
        self.slots[slot].ahead = false;
        self.slots[slot].state = State::Empty;
        self.uses[slot] = SlotUse::default();
        Some(slot)
    }

    fn start_read(&mut self, job: Job) -> Result<(), StoreError> {
        if !self.workers.send(job) {
            return Err(StoreError::WorkersGone);
        }
        if self.in_flight == 0 {
            self.busy_since = Instant::now();
            self.last_finished = self.busy_since;
        }
        self.in_flight += 1;
        let Job { slot, layer, expert } = job;
        let before = self.past.get(&(layer, expert)).copied().unwrap_or_default();
        self.uses[slot] = self.policy.used(before, self.request);
        self.slots[slot].state = State::Reading { layer, expert };
        self.slots[slot].ahead = false;
        self.places.insert((layer, expert), slot);
        Ok(())
    }

    /// Whether the current request uses the slot.
    fn is_asked(&self, slot: usize) -> bool {
        self.uses[slot].last_used == self.request
    }

    fn is_empty(&self, slot: usize) -> bool {
        matches!(self.slots[slot].state, State::Empty)
    }

    fn is_reading(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| matches!(slot.state, State::Reading { .. }))
    }

    fn is_pinned(&self, slot: usize) -> bool {
        self.slots[slot].holds > 0 || self.is_reading(slot) || self.is_asked(slot)
    }

    fn all_held(&self, layer: usize, asked: usize) -> StoreError {
        let set = self.set(layer);
        let capacity = set.len();
        let held = set.filter(|&slot| self.slots[slot].holds > 0).count();
        StoreError::AllHeld { layer, asked, held, capacity }
    }

    fn wait_one(&mut self, slot: usize) -> Result<(), StoreError> {
        while self.is_reading(slot) {
            self.block();
        }
        let state = self.slots.get_mut(slot).map(|slot| &mut slot.state);
        match state {
            Some(State::Ready { .. }) => Ok(()),
            Some(state @ State::Failed(_)) => match std::mem::replace(state, State::Empty) {
                State::Failed(error) => Err(error),
                _ => Err(StoreError::EmptySlot { slot }),
            },
            _ => Err(StoreError::EmptySlot { slot }),
        }
    }

    /// Waits for any read to end.
    fn block(&mut self) {
        self.block_within(Duration::MAX);
    }

    /// Waits for any read to end, for `patience` at most; `false` when none did.
    fn block_within(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        let next = match patience {
            Duration::MAX => Some(self.workers.next()),
            _ => self.workers.next_within(patience),
        };
        self.stats.stall_time += start.elapsed();
        match next {
            Some(Ok(done)) => self.land(done),
            Some(Err(_)) => self.lose_workers(),
            None => return false,
        }
        true
    }

    /// Accounts for a read that ended.
    fn land(&mut self, done: Done) {
        self.stats.bytes_read += done.read.bytes;
        self.stats.read_time += done.read.time;
        self.last_finished = self.last_finished.max(done.finished);
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.stats.busy_time += self.last_finished.saturating_duration_since(self.busy_since);
        }
        let State::Reading { layer, expert } = self.slots[done.slot].state else { return };
        match done.result {
            Ok(()) => {
                self.slots[done.slot].state = State::Ready { layer, expert };
                self.activity.set(layer, expert, ExpertState::Read);
            }
            Err(StoreError::CalledOff { .. }) => {
                self.places.remove(&(layer, expert));
                self.uses[done.slot] = SlotUse::default();
                self.slots[done.slot].state = State::Empty;
                self.slots[done.slot].ahead = false;
            }
            Err(error) => self.fail(done.slot, layer, expert, error),
        }
    }

    fn fail(&mut self, slot: usize, layer: usize, expert: u32, error: StoreError) {
        self.places.remove(&(layer, expert));
        self.uses[slot] = SlotUse::default();
        self.slots[slot].state = State::Failed(error);
    }

    /// Nothing will land any more: every read under way has failed.
    fn lose_workers(&mut self) {
        self.in_flight = 0;
        for slot in 0..self.slots.len() {
            if let State::Reading { layer, expert } = self.slots[slot].state {
                self.fail(slot, layer, expert, StoreError::WorkersGone);
            }
        }
    }
}
