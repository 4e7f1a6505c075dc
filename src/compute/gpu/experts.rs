//! The routed experts of a layer: streamed, with the host in between; or all resident, without it.

use std::time::Instant;

use super::executor::GpuExecutor;
use super::readback::wait;
use crate::compute::executor::{ExecuteError, Step};
use crate::compute::ops::{Experts, Pair, Route};
use crate::compute::recording::Recorded;
use crate::compute::routing::group_by_expert;
use crate::experts::SlotMemory;

const HAS_STORE: &str = "a recording with experts is given a store";

impl GpuExecutor {
    /// Reads every expert into its slot. From then on slots are looked up on the GPU, and a step is one submission.
    /// Does nothing when the slots do not hold every expert.
    pub fn make_resident(&mut self) -> Result<(), ExecuteError> {
        let Some((store, slots)) = &mut self.store else { return Ok(()) };
        if !store.holds_all() {
            return Ok(());
        }
        let mut table: Vec<[u32; 2]> = Vec::new();
        let layers = self.recording.steps.iter().filter(|s| matches!(s, Recorded::Experts(_))).count();
        let all: Vec<u32> = (0..self.experts as u32).collect();
        for layer in 0..layers {
            let acquired = store.acquire(layer, &all)?;
            let slots_of: Vec<usize> = acquired.iter().map(|a| a.slot).collect();
            store.wait(&slots_of)?;
            table.extend(slots_of.iter().map(|&slot| {
                let (slab, place) = slots.place(slot);
                [place as u32, slab as u32]
            }));
            // gives staging memory back before the next layer
            let submission = self.gpu.queue.submit([]);
            wait(&self.gpu.device, submission)?;
        }
        store.reset_stats();
        self.gpu.queue.write_buffer(self.resident.slots(), 0, bytemuck::cast_slice(&table));
        self.resident.all_resident = true;
        Ok(())
    }

    /// Encodes the experts of a layer, all resident: once per slab that holds some of them.
    pub(super) fn run_resident_experts(&mut self, index: usize, op: &Experts, step: &Step) {
        let (_, slots) = self.store.as_ref().expect(HAS_STORE);
        let (first, _) = slots.place(op.layer * self.experts);
        let (last, _) = slots.place((op.layer + 1) * self.experts - 1);
        let slot_bytes = slots.slot_bytes();
        self.dispatches.clear();
        for slab in first..=last {
            op.dispatch(slab, 0, step.tokens * op.out.rows_per_token, slot_bytes, &mut self.dispatches);
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
        self.routing = self.routed_ids.read(submission, at, |bytes| {
            let ids: &[u32] = bytemuck::cast_slice(bytes);
            let one = |&(at, len, view): &(usize, usize, crate::compute::View)| {
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

    /// Submits everything up to the router's choice, with a copy of it that the host can map.
    pub(super) fn submit_route(&mut self, route: &Route, step: &Step) -> (wgpu::SubmissionIndex, u64) {
        let bytes = (step.tokens * route.ids.stride * 4) as u64;
        let encoder = self.encoding.encoder(&self.gpu.device);
        self.routed_ids.copy(encoder, self.resident.tensor(route.ids.tensor), 0, 0, bytes);
        (self.encoding.submit(&self.gpu.queue), bytes)
    }

    /// Waits for the router's choice.
    pub(super) fn read_route(
        &mut self,
        route: &Route,
        submission: wgpu::SubmissionIndex,
        bytes: u64,
    ) -> Result<(), ExecuteError> {
        let (view, waiting) = (route.ids, Instant::now());
        let ids = self.routed_ids.read(submission, bytes, |bytes| {
            let ids: &[u32] = bytemuck::cast_slice(bytes);
            ids.chunks_exact(view.stride).flat_map(|row| row[..view.width].to_vec()).collect()
        })?;
        self.routing.push(ids);
        self.waited(waiting);
        Ok(())
    }

    /// Since `from` the host has waited for the device or the disk.
    fn waited(&mut self, from: Instant) {
        if let Some(profile) = &mut self.profile {
            profile.waited(from.elapsed());
        }
    }

    /// Reads what is missing and encodes the experts of a layer, as many at a time as it has slots.
    pub(super) fn run_experts(&mut self, index: usize, op: &Experts) -> Result<(), ExecuteError> {
        let ids = &self.routing[op.layer];
        let groups = group_by_expert(op.layer, ids, op.out.rows_per_token, self.experts)?;
        let (store, slots) = self.store.as_ref().expect(HAS_STORE);
        let (slots, capacity) = (slots.clone(), store.capacity(op.layer));
        let mut first_pair = 0;
        for (n, batch) in groups.chunks(capacity).enumerate() {
            if n > 0 {
                // the next reads may overwrite slots that the last batch computes from
                let submission = self.encoding.submit(&self.gpu.queue);
                let waiting = Instant::now();
                wait(&self.gpu.device, submission)?;
                self.waited(waiting);
            }
            let wanted: Vec<u32> = batch.iter().map(|g| g.expert).collect();
            let (store, _) = self.store.as_mut().expect(HAS_STORE);
            let acquired = store.acquire(op.layer, &wanted)?;
            let missing: Vec<usize> = acquired.iter().filter(|a| !a.hit).map(|a| a.slot).collect();
            for hits in [true, false] {
                if !hits && !missing.is_empty() {
                    // the GPU works on the hits and the shared expert while the misses are read
                    self.encoding.submit(&self.gpu.queue);
                    let (store, _) = self.store.as_mut().expect(HAS_STORE);
                    let waiting = Instant::now();
                    store.wait(&missing)?;
                    self.waited(waiting);
                }
                let chosen = acquired.iter().zip(batch).filter(|(a, _)| a.hit == hits);
                let mut pairs: Vec<Pair> = chosen
                    .flat_map(|(a, group)| {
                        let (slab, place) = slots.place(a.slot);
                        group.pairs.iter().map(move |&pair| Pair { slot: place as u32, slab: slab as u32, ..pair })
                    })
                    .collect();
                pairs.sort_by_key(|pair| pair.slab);
                if !pairs.is_empty() {
                    let at = (first_pair * size_of::<Pair>()) as u64;
                    self.gpu.queue.write_buffer(self.resident.pairs(), at, bytemuck::cast_slice(&pairs));
                }
                for run in pairs.chunk_by(|a, b| a.slab == b.slab) {
                    self.dispatches.clear();
                    let slab = run[0].slab as usize;
                    op.dispatch(slab, first_pair, run.len(), slots.slot_bytes(), &mut self.dispatches);
                    self.encode(index);
                    first_pair += run.len();
                }
            }
        }
        Ok(())
    }
}
