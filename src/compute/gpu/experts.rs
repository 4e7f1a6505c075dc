//! The routed experts of a layer: streamed, with the host in between; or all resident, without it.

use std::time::Instant;

use super::encoding::Submission;
use super::executor::GpuExecutor;
use super::readback::wait;
use crate::compute::executor::{ExecuteError, Phase, Step};
use crate::compute::ops::{ExpertTile, Experts, Pair, Route};
use crate::compute::recording::{Recorded, View};
use crate::compute::routing::{ExpertPairs, group_by_expert, read_ahead, tiles};
use crate::experts::{Acquired, SlotMemory, StoreError, Sweep};

/// The router's choice of a layer, until the host has read it.
pub(super) struct RouteOnTheWay {
    submission: Submission,
    bytes: u64,
    view: View,
    /// Whether the guess at the next layer's choice follows it.
    ahead: bool,
}

/// Experts that are acquired together, and the pairs that chose them.
struct Window<'g> {
    acquired: Vec<Acquired>,
    groups: &'g [ExpertPairs],
}

const HAS_STORE: &str = "a recording with experts is given a store";

impl GpuExecutor {
    /// Reads every expert into its slot. From then on slots are looked up on the GPU, and a step waits for
    /// nothing.
    /// Does nothing when the slots do not hold every expert.
    pub fn make_resident(&mut self) -> Result<(), ExecuteError> {
        let Some((store, slots)) = &self.store else { return Ok(()) };
        if !store.holds_all() {
            return Ok(());
        }
        let slots = slots.clone();
        let mut table: Vec<[u32; 2]> = Vec::new();
        let layers = self.recording.steps.iter().filter(|s| matches!(s, Recorded::Experts(_))).count();
        let all: Vec<u32> = (0..self.experts as u32).collect();
        for layer in 0..layers {
            let (store, _) = self.store.as_mut().expect(HAS_STORE);
            let acquired = store.acquire(layer, &all)?;
            let mut pending: Vec<usize> = acquired.iter().map(|a| a.slot).collect();
            table.extend(pending.iter().map(|&slot| {
                let (slab, place) = slots.place(slot);
                [place as u32, slab as u32]
            }));
            let mut failed = Ok(());
            while !pending.is_empty() {
                self.land(&mut pending, &mut failed);
                self.submit_landed(!pending.is_empty())?;
            }
            failed?;
            // gives wgpu's staging memory back before the next layer
            let submission = self.encoding.submit(&self.gpu.queue);
            self.wait(&submission)?;
        }
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        store.reset_stats();
        self.gpu.queue.write_buffer(self.resident.slots(), 0, bytemuck::cast_slice(&table));
        self.resident.all_resident = true;
        Ok(())
    }

    /// Encodes the experts of a layer, all resident: once per slab that holds some of them.
    pub(super) fn run_resident_experts(&mut self, index: usize, op: &Experts, step: &Step) {
        let (_, slots) = self.store.as_ref().expect(HAS_STORE);
        let slabs = slots.slabs_of(op.layer * self.experts..(op.layer + 1) * self.experts);
        let slot_bytes = slots.slot_bytes();
        self.dispatches.clear();
        for slab in slabs {
            op.dispatch(&self.resident, slab, 0, step.tokens * op.out.rows_per_token, slot_bytes, &mut self.dispatches);
        }
        // every pair is in one slab only: its weights are counted once
        self.dispatches.iter_mut().skip(2).for_each(|d| d.weight_bytes = 0);
        // gate and up of every slab before any down: fewer barriers
        self.dispatches.sort_by_key(|d| d.stage);
        self.encode(index);
    }

    /// The router's choices of a step that did not need the host: for tests and `flashflood logits`.
    pub(super) fn read_all_routes(&mut self, step: &Step) -> Result<(), ExecuteError> {
        let recording = self.recording.clone();
        let routes = recording.steps.iter().filter_map(|s| match s {
            Recorded::Route(route) => Some(route),
            _ => None,
        });
        let mut at = 0;
        let mut parts = Vec::new();
        for route in routes {
            let bytes = (step.tokens * route.ids.stride * 4) as u64;
            let encoder = self.encoding.encoder(&self.gpu.device);
            self.routed_ids.copy(encoder, self.resident.tensor(route.ids.tensor), 0, at, bytes);
            parts.push((at as usize / 4, bytes as usize / 4, route.ids));
            at += bytes;
        }
        let submission = self.encoding.submit(&self.gpu.queue);
        self.routing = self.routed_ids.read(&submission.index, at, |bytes| {
            let ids: &[u32] = bytemuck::cast_slice(bytes);
            let one = |&(at, len, view): &(usize, usize, View)| {
                ids[at..at + len].chunks_exact(view.stride).flat_map(|row| row[..view.width].to_vec()).collect()
            };
            parts.iter().map(one).collect()
        })?;
        for (layer, ids) in self.routing.iter().enumerate() {
            if let Some(&found) = ids.iter().find(|id| **id as usize >= self.experts) {
                return Err(ExecuteError::Router { layer, found, experts: self.experts });
            }
        }
        Ok(())
    }

    /// Submits everything up to the router's choice, with a copy of it that the host can map, and of the guess at the
    /// next layer's where one is wanted.
    pub(super) fn submit_route(&mut self, route: &Route, step: &Step) -> RouteOnTheWay {
        let bytes = (step.tokens * route.ids.stride * 4) as u64;
        // a chunk of a prompt needs most experts of every layer: there is nothing to guess
        let ahead = route.ahead.filter(|_| step.phase == Phase::Decode && self.look_ahead > 0);
        let encoder = self.encoding.encoder(&self.gpu.device);
        self.routed_ids.copy(encoder, self.resident.tensor(route.ids.tensor), 0, 0, bytes);
        if let Some(ahead) = ahead {
            self.routed_ids.copy(encoder, self.resident.tensor(ahead.tensor), 0, bytes, bytes);
        }
        RouteOnTheWay {
            submission: self.encoding.submit(&self.gpu.queue),
            bytes,
            view: route.ids,
            ahead: ahead.is_some(),
        }
    }

    /// Waits for the router's choice.
    pub(super) fn read_route(&mut self, route: &RouteOnTheWay) -> Result<(), ExecuteError> {
        let view = route.view;
        let of = |ids: &[u32]| ids.chunks_exact(view.stride).flat_map(|row| row[..view.width].to_vec()).collect();
        let bytes = route.bytes * if route.ahead { 2 } else { 1 };
        let waiting = Instant::now();
        let (ids, ahead) = self.routed_ids.read(&route.submission.index, bytes, |bytes| {
            let (ids, ahead) = bytes.split_at(route.bytes as usize);
            (of(bytemuck::cast_slice(ids)), of(bytemuck::cast_slice(ahead)))
        })?;
        self.routing.push(ids);
        self.ahead = ahead;
        self.submission_done(&route.submission);
        self.waited_since(waiting);
        Ok(())
    }

    /// Since `from` the host has waited for the device or the disk.
    fn waited_since(&mut self, from: Instant) {
        if let Some(profile) = &mut self.profile {
            profile.waited(from.elapsed());
        }
    }

    fn wait(&mut self, submission: &Submission) -> Result<(), ExecuteError> {
        let waiting = Instant::now();
        wait(&self.gpu.device, &submission.index)?;
        self.waits += waiting.elapsed();
        self.waited_since(waiting);
        self.submission_done(submission);
        Ok(())
    }

    fn submission_done(&self, submission: &Submission) {
        if let Some((_, slots)) = &self.store {
            slots.done(submission.number);
        }
    }

    /// Waits until at least one of the reads into `pending` has landed, takes all that have out of it, and encodes
    /// what brings them into their slots. The first error is kept in `failed`: reads that others depend on for memory
    /// go on.
    fn land(&mut self, pending: &mut Vec<usize>, failed: &mut Result<(), StoreError>) -> Vec<usize> {
        let waiting = Instant::now();
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        let mut landed = Vec::new();
        for (slot, outcome) in store.wait_some(pending) {
            match outcome {
                Ok(()) => landed.push(slot),
                Err(e) if failed.is_ok() => *failed = Err(e),
                Err(_) => {}
            }
        }
        self.waited_since(waiting);
        self.copy_landed();
        landed
    }

    /// Encodes what brings experts that have landed into their slots.
    fn copy_landed(&mut self) {
        let Some((_, slots)) = &self.store else { return };
        let (encoding, device) = (&mut self.encoding, &self.gpu.device);
        slots.copy_landed(encoding.next_number(), || encoding.encoder(device));
    }

    /// Starts the work on what has landed while the rest is read. When no memory is left to read the rest into, waits
    /// for the copies that hold it.
    fn submit_landed(&mut self, more: bool) -> Result<(), ExecuteError> {
        if !more {
            return Ok(());
        }
        let submission = self.encoding.submit(&self.gpu.queue);
        let (_, slots) = self.store.as_ref().expect(HAS_STORE);
        if slots.is_full() { self.wait(&submission) } else { Ok(()) }
    }

    /// Reads what is missing and encodes the experts of a layer: those in memory at once, the others as they land.
    pub(super) fn run_experts(&mut self, index: usize, op: &Experts, step: &Step) -> Result<(), ExecuteError> {
        let ids = &self.routing[op.layer];
        let groups = group_by_expert(op.layer, ids, op.out.rows_per_token, self.experts)?;
        let (store, _) = self.store.as_ref().expect(HAS_STORE);
        let is_there = |group: &ExpertPairs| store.has_place(op.layer, group.expert);
        let sweep = Sweep::new(groups, store.capacity(op.layer), is_there);
        let mut held = Vec::new();
        let outcome = self.run_windows(index, op, step, &sweep, &mut held);
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        store.release(&held);
        outcome
    }

    /// `held` are the slots of windows that are not done.
    fn run_windows(
        &mut self,
        index: usize,
        op: &Experts,
        step: &Step,
        sweep: &Sweep<ExpertPairs>,
        held: &mut Vec<usize>,
    ) -> Result<(), ExecuteError> {
        let mut first_pair = 0;
        let mut windows = sweep.windows();
        let mut next = windows.next().map(|groups| self.open(op, groups, held)).transpose()?;
        while let Some(now) = next.take() {
            if sweep.overlaps() {
                next = windows.next().map(|groups| self.open(op, groups, held)).transpose()?;
            }
            self.run_window(index, op, step, &now, &mut first_pair)?;
            if next.is_none() && windows.len() == 0 {
                break;
            }
            // the reads of the window after next go into the slots of this one
            let submission = self.encoding.submit(&self.gpu.queue);
            self.wait(&submission)?;
            let (store, _) = self.store.as_mut().expect(HAS_STORE);
            store.release(&held.drain(..now.acquired.len()).collect::<Vec<_>>());
            if !sweep.overlaps() {
                next = windows.next().map(|groups| self.open(op, groups, held)).transpose()?;
            }
        }
        Ok(())
    }

    /// Starts the reads of a window.
    fn open<'g>(
        &mut self,
        op: &Experts,
        groups: &'g [ExpertPairs],
        held: &mut Vec<usize>,
    ) -> Result<Window<'g>, ExecuteError> {
        let wanted: Vec<u32> = groups.iter().map(|g| g.expert).collect();
        let (store, _) = self.store.as_mut().expect(HAS_STORE);
        let acquired = store.acquire(op.layer, &wanted)?;
        let slots: Vec<usize> = acquired.iter().map(|a| a.slot).collect();
        store.hold(&slots);
        held.extend(slots);
        // behind what this layer misses
        read_ahead(store, op.layer + 1, &mut self.ahead, self.experts, self.look_ahead)?;
        Ok(Window { acquired, groups })
    }

    fn run_window(
        &mut self,
        index: usize,
        op: &Experts,
        step: &Step,
        window: &Window<'_>,
        first_pair: &mut usize,
    ) -> Result<(), ExecuteError> {
        self.follow_slabs(index, op);
        // a hit may have landed beside its slot: read ahead, or for a step that failed
        self.copy_landed();
        let (hits, misses): (Vec<_>, Vec<_>) = window.acquired.iter().zip(window.groups).partition(|(a, _)| a.hit);
        self.compute(index, op, step, &hits, first_pair);
        let mut pending: Vec<usize> = misses.iter().map(|(a, _)| a.slot).collect();
        // the GPU works on the hits and the shared expert while the misses are read
        self.submit_landed(!pending.is_empty())?;
        let mut failed = Ok(());
        while !pending.is_empty() {
            let landed = self.land(&mut pending, &mut failed);
            self.follow_slabs(index, op);
            let now: Vec<_> = misses.iter().filter(|(a, _)| landed.contains(&a.slot)).copied().collect();
            self.compute(index, op, step, &now, first_pair);
            self.submit_landed(!pending.is_empty())?;
        }
        Ok(failed?)
    }

    /// Encodes some experts of a layer, whose bytes are in their slots by then. `first_pair` counts the (token,
    /// expert) pairs of the layer that are encoded.
    fn compute(
        &mut self,
        index: usize,
        op: &Experts,
        step: &Step,
        experts: &[(&Acquired, &ExpertPairs)],
        first_pair: &mut usize,
    ) {
        let (_, slots) = self.store.as_ref().expect(HAS_STORE);
        let slots = slots.clone();
        let placed = experts.iter().flat_map(|(acquired, group)| {
            let (slab, place) = slots.place(acquired.slot);
            group.pairs.iter().map(move |&pair| Pair { slot: place as u32, slab: slab as u32, ..pair })
        });
        let mut pairs: Vec<Pair> = placed.collect();
        if pairs.is_empty() {
            return;
        }
        pairs.sort_by_key(|pair| pair.slab);
        let at = (*first_pair * size_of::<Pair>()) as u64;
        self.gpu.queue.write_buffer(self.resident.pairs(), at, bytemuck::cast_slice(&pairs));
        self.dispatches.clear();
        let (slot_bytes, out) = (slots.slot_bytes(), &mut self.dispatches);
        let mut first = *first_pair;
        match step.phase {
            Phase::Decode => {
                for run in pairs.chunk_by(|a, b| a.slab == b.slab) {
                    op.dispatch(&self.resident, run[0].slab as usize, first, run.len(), slot_bytes, out);
                    first += run.len();
                }
            }
            Phase::Prefill => {
                // a tile has a pair or more: each batch has room for its tiles where its pairs are
                let tiles = tiles(&pairs, first);
                let at = (first * size_of::<ExpertTile>()) as u64;
                self.gpu.queue.write_buffer(self.resident.tiles(), at, bytemuck::cast_slice(&tiles));
                for run in tiles.chunk_by(|a, b| (a.slab, a.kind()) == (b.slab, b.kind())) {
                    op.dispatch_tiles(run[0].slab as usize, run[0].kind(), first, run.len(), slot_bytes, out);
                    first += run.len();
                }
            }
        }
        self.encode(index);
        *first_pair += pairs.len();
    }
}
