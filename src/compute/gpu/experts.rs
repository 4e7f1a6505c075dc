//! The routed experts of a layer on the GPU: streamed, with the host in between; or all resident, without it.

use std::time::Instant;

use super::device::GpuDevice;
use super::encoding::Submission;
use super::readback::wait;
use crate::compute::device::{Choice, Device, ExpertLayer, LandedExpert};
use crate::compute::ops::{ExpertTile, Pair, expert_groups};
use crate::compute::recording::{Recorded, View};
use crate::compute::routing::tiles;
use crate::compute::run::Runner;
use crate::compute::step::{ExecuteError, Phase, Step};
use crate::experts::{ExpertStore, SlotMemory};

/// The router's choice of a layer, until the host has read it.
pub(super) struct ChoiceOnTheWay {
    submission: Submission,
    bytes: u64,
    view: View,
    /// Whether the guess at the next layer's choice follows it.
    with_guess: bool,
}

const HAS_SLOTS: &str = "a recording with experts is given slots";

impl Runner<GpuDevice> {
    /// Reads every expert into its slot. From then on slots are looked up on the GPU, and a step waits for nothing. Does
    /// nothing when the slots do not hold every expert.
    ///
    /// # Errors
    /// Experts that cannot be read, and the device's.
    pub(crate) fn make_resident(&mut self, store: &mut ExpertStore) -> Result<(), ExecuteError> {
        if !store.holds_all() {
            return Ok(());
        }
        let device = &mut self.device;
        let slots = device.slots.as_ref().expect(HAS_SLOTS).clone();
        let (mut table, mut first_slots): (Vec<[u32; 2]>, Vec<usize>) = (Vec::new(), Vec::new());
        for layer in 0..store.layout().layers.len() {
            let all: Vec<u32> = (0..store.layout().layers[layer].experts as u32).collect();
            let pending: Vec<usize> = store.acquire(layer, &all)?.iter().map(|a| a.slot).collect();
            first_slots.push(table.len());
            table.extend(pending.iter().map(|&slot| {
                let (slab, place) = slots.place(slot);
                [place as u32, slab as u32]
            }));
            device.land(store, pending)?;
            // gives wgpu's staging memory back before the next layer
            device.free_slots()?;
        }
        first_slots.push(table.len());
        store.reset_stats();
        device.gpu.queue.write_buffer(device.resident.slots(), 0, bytemuck::cast_slice(&table));
        device.resident.first_slots = first_slots;
        device.resident.all_resident = true;
        for (index, recorded) in self.recording.steps.iter().enumerate() {
            match recorded {
                Recorded::Experts(op) => device.follow_slabs(index, op)?,
                Recorded::Kernel { kernel, .. } => device.follow_slab(index, &**kernel)?,
                Recorded::Route(_) | Recorded::LayerDone(_) => {}
            }
        }
        Ok(())
    }
}

impl GpuDevice {
    /// Encodes the experts of a layer, all resident: once per slab that holds some of them.
    pub(super) fn encode_all_experts(&mut self, layer: &ExpertLayer<'_>) {
        let slots = self.slots.as_ref().expect(HAS_SLOTS);
        let (op, phase) = (layer.op, layer.step.phase);
        let (pairs, experts) = (layer.step.tokens * op.out.rows_per_token, self.resident.experts(op.layer));
        let (slot_bytes, cooperative, dispatches) =
            (slots.slot_bytes(), self.resident.cooperative, &mut self.dispatches);
        dispatches.clear();
        for slab in slots.slabs_of(op.layer) {
            match phase {
                Phase::Decode => op.dispatch(&self.resident, slab, 0, pairs, slot_bytes, dispatches),
                Phase::Prefill => {
                    let mut first = 0;
                    for (kind, room) in expert_groups::rooms(pairs, experts).into_iter().enumerate() {
                        if room > 0 {
                            op.dispatch_tiles(cooperative, slab, kind, first..first + room, slot_bytes, dispatches);
                        }
                        first += room;
                    }
                }
            }
        }
        match phase {
            // every pair is in one slab only: its weights are counted once
            Phase::Decode => dispatches.iter_mut().skip(op.products().count()).for_each(|d| d.weight_bytes = 0),
            // tiles are not known: each expert is counted once, for those of most pairs
            Phase::Prefill => {
                let counted = dispatches.iter().map(|d| d.stage).max().unwrap_or(0) / op.stages_of_a_phase();
                let mut seen = Vec::new();
                for d in dispatches.iter_mut() {
                    let is_counted = d.stage / op.stages_of_a_phase() == counted && !seen.contains(&d.stage);
                    seen.push(d.stage);
                    let tiles = u64::from(d.grid[2]);
                    d.weight_bytes = if is_counted { d.weight_bytes / tiles * pairs.min(experts) as u64 } else { 0 };
                }
            }
        }
        op.join(phase, 0, pairs, dispatches);
        self.encode(layer.index);
    }

    /// Submits everything up to the router's choice, with a copy of it that the host can map, and of the guess at the
    /// next layer's where one is wanted.
    pub(super) fn submit_choice(&mut self, view: View, guess: Option<View>, step: &Step) -> ChoiceOnTheWay {
        let bytes = (step.tokens * view.stride * 4) as u64;
        let encoder = self.encoding.encoder(&self.gpu.device);
        self.choices.copy(encoder, self.resident.tensor(view.tensor), 0, 0, bytes);
        if let Some(guess) = guess {
            self.choices.copy(encoder, self.resident.tensor(guess.tensor), 0, bytes, bytes);
        }
        let submission = self.encoding.submit(&self.gpu.queue);
        ChoiceOnTheWay { submission, bytes, view, with_guess: guess.is_some() }
    }

    /// Waits for the router's choice.
    pub(super) fn read_choice(&mut self, choice: &ChoiceOnTheWay) -> Result<Choice, ExecuteError> {
        let view = choice.view;
        let of = |ids: &[u32]| ids.chunks_exact(view.stride).flat_map(|row| row[..view.width].to_vec()).collect();
        let bytes = choice.bytes * if choice.with_guess { 2 } else { 1 };
        let waiting = Instant::now();
        let read = self.choices.read(&choice.submission.index, bytes, |bytes| {
            let (ids, guess) = bytes.split_at(choice.bytes as usize);
            Choice { ids: of(bytemuck::cast_slice(ids)), guess: of(bytemuck::cast_slice(guess)) }
        })?;
        self.submission_done(&choice.submission);
        self.has_waited_for_device(waiting);
        Ok(read)
    }

    pub(super) fn wait(&mut self, submission: &Submission) -> Result<(), ExecuteError> {
        let waiting = Instant::now();
        wait(&self.gpu.device, &submission.index)?;
        self.waits += waiting.elapsed();
        self.has_waited_for_device(waiting);
        self.submission_done(submission);
        Ok(())
    }

    /// Since `from` the host has waited for the device.
    pub(super) fn has_waited_for_device(&mut self, from: Instant) {
        self.step_waits += from.elapsed();
        self.encoding.spans.host("wait for the device", from);
    }

    fn submission_done(&mut self, submission: &Submission) {
        self.encoding.done(submission.number);
        if let Some(slots) = &self.slots {
            slots.done(submission.number);
        }
    }

    /// Waits for reads into the slots `pending`, and encodes what brings their experts there. Fails when all have ended.
    pub(super) fn land(&mut self, store: &mut ExpertStore, mut pending: Vec<usize>) -> Result<(), ExecuteError> {
        let mut failed = Ok(());
        while !pending.is_empty() {
            let landed = store.wait_some(&mut pending);
            failed = landed.into_iter().fold(failed, |failed, (_, outcome)| failed.and(outcome));
            self.copy_landed();
            if !pending.is_empty() {
                self.submit_landed()?;
            }
        }
        Ok(failed?)
    }

    /// Encodes what brings experts that have landed into their slots.
    pub(super) fn copy_landed(&mut self) {
        let Some(slots) = &self.slots else { return };
        let (encoding, device) = (&mut self.encoding, &self.gpu.device);
        slots.copy_landed(encoding.next_number(), || encoding.encoder(device));
    }

    /// Starts the work on what has landed while the rest is read. When no memory is left to read the rest into, waits
    /// for the copies that hold it.
    pub(super) fn submit_landed(&mut self) -> Result<(), ExecuteError> {
        let submission = self.encoding.submit(&self.gpu.queue);
        let is_full = self.slots.as_ref().is_some_and(|slots| slots.is_full());
        if is_full { self.wait(&submission) } else { Ok(()) }
    }

    /// Encodes some experts of a layer, whose bytes are in their slots by then. `first_pair` counts the (token, expert)
    /// pairs of the layer that are encoded.
    pub(super) fn encode_experts(&mut self, layer: &ExpertLayer<'_>, experts: &[LandedExpert<'_>], first_pair: usize) {
        let ExpertLayer { index, op, step } = *layer;
        let slots = self.slots.as_ref().expect(HAS_SLOTS).clone();
        let placed = experts.iter().flat_map(|expert| {
            let (slab, place) = slots.place(expert.slot);
            expert.pairs.iter().map(move |&pair| Pair { slot: place as u32, slab: slab as u32, ..pair })
        });
        let mut pairs: Vec<Pair> = placed.collect();
        if pairs.is_empty() {
            return;
        }
        pairs.sort_by_key(|pair| pair.slab);
        let at = (first_pair * size_of::<Pair>()) as u64;
        self.gpu.queue.write_buffer(self.resident.pairs(), at, bytemuck::cast_slice(&pairs));
        self.dispatches.clear();
        let (slot_bytes, cooperative, out) = (slots.slot_bytes(), self.resident.cooperative, &mut self.dispatches);
        let mut first = first_pair;
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
                    let (slab, kind) = (run[0].slab as usize, run[0].kind());
                    op.dispatch_tiles(cooperative, slab, kind, first..first + run.len(), slot_bytes, out);
                    first += run.len();
                }
            }
        }
        op.join(step.phase, first_pair, pairs.len(), &mut self.dispatches);
        self.encode(index);
    }
}
