use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flashflood_backends::gpu::Gpu;
use flashflood_backends::{AlignedBuffer, HostBuffer, NoHostBuffer, PAGE, Region};

use super::staging::Staging;
use crate::compute::kernel::ExpertSlab;
use crate::compute::recording::{Recorded, Recording};
use crate::experts::{SlotMemory, SlotSets, StoreError};

/// How expert bytes get from the disk to where the GPU computes from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// Reads fill the slots themselves: for a GPU that computes from the processor's memory.
    Shared,
    /// Reads fill a ring of host memory that the GPU sees, and the GPU copies from there: for a GPU with memory of its
    /// own.
    Staged,
    /// Reads fill ordinary memory and wgpu copies it twice: where the driver lets nothing be shared.
    Copied,
}

/// Expert slots in GPU memory: a few large buffers (slabs), each of whole slots.
///
/// A slot is overwritten only after every submission that computes from it. With [`Landing::Shared`] the store's
/// caller sees to that: it asks for experts when it has waited for the layer before. Else the copy into the slot is a
/// command of the queue, which the queue runs in its place.
pub(crate) struct GpuSlots {
    gpu: Gpu,
    sets: SlotSets,
    slabs: Vec<Mutex<Slab>>,
    /// The slots of each slab; no slab holds slots of two sets.
    slots_of: Vec<Range<usize>>,
    /// The slab of each slot.
    slab_of: Vec<u32>,
    /// Slots of a slab, but for the last of a set.
    per_slab: usize,
    slot_bytes: usize,
    way: Way,
}

/// A slab, or the room for one whose memory was given back.
#[derive(Default)]
struct Slab {
    buffer: Option<wgpu::Buffer>,
    /// Which of its slots were filled since they were last released, where memory is ever given back.
    filled: Vec<bool>,
    /// Counts the buffers that came and went: bind groups are made for one of them.
    generation: u64,
}

enum Way {
    /// The region of each slot whose slab is there.
    Shared(Vec<Mutex<Option<Region>>>),
    Staged(Staging),
    Copied {
        memory: Mutex<Vec<AlignedBuffer>>,
    },
}

/// Largest slab. One buffer per expert would be slow on Metal.
const SLAB: u64 = flashflood_backends::memory::LARGEST_BUFFER;

/// Slabs of one layer's slots where memory can be given back: a quarter at a time. More would cost dispatches, each of
/// which covers one slab.
const PARTS: usize = 4;

impl GpuSlots {
    /// Allocates the slots of `sets` in slabs that one binding of `binding` bytes can cover. The `top_k` experts that a
    /// token needs of a layer decide how many reads may wait for their copy. `landing` is for tests; by itself the device
    /// gets what suits it.
    ///
    /// # Errors
    /// [`StoreError::Landing`] where the device has not so much memory, or not of the kind asked for.
    pub(crate) fn new(
        gpu: &Gpu,
        sets: SlotSets,
        slot_bytes: usize,
        top_k: usize,
        binding: u64,
        landing: Option<Landing>,
    ) -> Result<Self, StoreError> {
        // whole pages, so that direct reads of the last block stay within the slot
        let slot_bytes = slot_bytes.next_multiple_of(PAGE);
        let most = ((binding.min(SLAB) as usize) / slot_bytes).max(1);
        let largest = sets.iter().map(|set| set.len()).max().unwrap_or(0).max(1);
        // as few slabs for each layer as bindings allow: a dispatch covers one
        let per_slab = largest.div_ceil(largest.div_ceil(most));
        let way = Way::Copied { memory: Mutex::default() };
        let mut made = GpuSlots {
            gpu: gpu.clone(),
            sets,
            slabs: Vec::new(),
            slots_of: Vec::new(),
            slab_of: Vec::new(),
            per_slab,
            slot_bytes,
            way,
        };
        made.cut(per_slab);
        let wanted = landing.unwrap_or(if gpu.is_unified() { Landing::Shared } else { Landing::Staged });
        let outcome = match wanted {
            Landing::Shared => made.share(largest, top_k, most),
            Landing::Staged => Staging::new(gpu, slot_bytes, Staging::landings(top_k)).map(|staging| {
                made.way = Way::Staged(staging);
            }),
            Landing::Copied => Ok(()),
        };
        match outcome {
            Err(cause) if landing.is_some() => {
                return Err(StoreError::Landing { wanted: format!("{wanted:?}"), cause: cause.to_string() });
            }
            Err(cause) => {
                tracing::info!("experts are copied to the GPU through wgpu: {cause}");
                made.cut(per_slab);
                made.way = Way::Copied { memory: Mutex::default() };
            }
            Ok(()) => tracing::info!("experts land in GPU memory: {:?}", made.landing()),
        }
        if made.landing() != Landing::Shared {
            let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
            let scopes = scopes.map(|filter| gpu.device.push_error_scope(filter));
            let slab = |slab: usize| {
                let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(&format!("expert slab {slab}")),
                    size: (made.slots_of[slab].len() * slot_bytes) as u64,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                Mutex::new(Slab { buffer: Some(buffer), ..Slab::default() })
            };
            made.slabs = (0..made.slots_of.len()).map(slab).collect();
            // wgpu zeroes what was never written when a submission first sees it, also over what a reading thread
            // writes at that very moment: now rather than then
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for slab in &made.slabs {
                if let Some(buffer) = &lock(slab).buffer {
                    encoder.clear_buffer(buffer, 0, None);
                }
            }
            gpu.queue.submit([encoder.finish()]);
            // the last that was opened ends first
            for scope in scopes.into_iter().rev() {
                if let Some(cause) = pollster::block_on(scope.pop()) {
                    let wanted = format!("{} bytes of GPU", made.sets.slots() as u64 * slot_bytes as u64);
                    return Err(StoreError::Landing { wanted, cause: cause.to_string() });
                }
            }
        }
        Ok(made)
    }

    /// Makes slabs that the host fills.
    fn share(&mut self, largest: usize, top_k: usize, most: usize) -> Result<(), NoHostBuffer> {
        self.cut(largest.div_ceil(PARTS).max(top_k).min(most).min(largest));
        self.way = Way::Shared((0..self.sets.slots()).map(|_| Mutex::default()).collect());
        self.slabs = self.slots_of.iter().map(|_| Mutex::default()).collect();
        (0..self.slabs.len()).try_for_each(|slab| self.allocate(slab))
    }

    /// Cuts the sets into slabs of `per_slab` slots.
    fn cut(&mut self, per_slab: usize) {
        self.per_slab = per_slab;
        self.slots_of.clear();
        for set in self.sets.iter() {
            let starts = set.clone().step_by(per_slab);
            self.slots_of.extend(starts.map(|start| start..(start + per_slab).min(set.end)));
        }
        self.slab_of.clear();
        for (slab, slots) in (0..).zip(&self.slots_of) {
            self.slab_of.extend(slots.clone().map(|_| slab));
        }
    }

    /// Gives a slab memory that the host fills, unless it has it.
    fn allocate(&self, index: usize) -> Result<(), NoHostBuffer> {
        let Way::Shared(regions) = &self.way else { return Ok(()) };
        let mut slab = lock(&self.slabs[index]);
        if slab.buffer.is_some() {
            return Ok(());
        }
        let slots = self.slots_of[index].clone();
        let label = format!("expert slab {index}");
        let made = HostBuffer::new(&self.gpu, &label, self.slot_bytes, slots.len(), wgpu::BufferUsages::STORAGE)?;
        slab.filled = vec![false; slots.len()];
        slab.buffer = Some(made.buffer);
        slab.generation += 1;
        for (slot, region) in slots.zip(made.regions) {
            *lock(&regions[slot]) = Some(region);
        }
        Ok(())
    }

    /// How many slabs there are, or room for.
    pub(crate) fn slabs(&self) -> usize {
        self.slabs.len()
    }

    /// Bytes of the slabs that are there.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> u64 {
        self.slabs.iter().filter_map(|slab| lock(slab).buffer.as_ref().map(wgpu::Buffer::size)).sum()
    }

    /// The slots that experts of a layer may be in.
    pub(super) fn set(&self, layer: usize) -> Range<usize> {
        self.sets.of_layer(layer)
    }

    /// The slabs that hold the slots of a layer.
    pub(super) fn slabs_of(&self, layer: usize) -> Range<usize> {
        let slots = self.set(layer);
        if slots.is_empty() { 0..0 } else { self.place(slots.start).0..self.place(slots.end - 1).0 + 1 }
    }

    /// Of each layer the slab that has all of its slots, if one has.
    pub(super) fn single_slabs(&self, recording: &Recording) -> Vec<Option<ExpertSlab>> {
        let layers = recording.steps.iter().map(|step| match step {
            Recorded::Experts(op) => op.layer + 1,
            _ => 0,
        });
        let of_layer = |layer| {
            let slabs = self.slabs_of(layer);
            (slabs.len() == 1).then_some(ExpertSlab { number: slabs.start, slot_bytes: self.slot_bytes })
        };
        (0..layers.max().unwrap_or(0)).map(of_layer).collect()
    }

    /// The buffer of a slab, and a number that changes whenever another one takes its place. Without a buffer no slot
    /// of the slab is filled.
    pub(super) fn slab(&self, slab: usize) -> (Option<wgpu::Buffer>, u64) {
        let slab = lock(&self.slabs[slab]);
        (slab.buffer.clone(), slab.generation)
    }

    /// The number that [`slab`](Self::slab) gives.
    pub(super) fn generation(&self, slab: usize) -> u64 {
        lock(&self.slabs[slab]).generation
    }

    /// Slab of a slot, and its place there.
    pub(crate) fn place(&self, slot: usize) -> (usize, usize) {
        let slab = self.slab_of[slot] as usize;
        (slab, slot - self.slots_of[slab].start)
    }

    /// How experts get into the slots.
    pub(crate) fn landing(&self) -> Landing {
        match self.way {
            Way::Shared(_) => Landing::Shared,
            Way::Staged(_) => Landing::Staged,
            Way::Copied { .. } => Landing::Copied,
        }
    }

    /// Encodes the copies of all reads that have landed beside their slots; `encoder` is asked for only if there are
    /// any. They belong to submission `number`: see [`done`](Self::done).
    pub(super) fn copy_landed<'a>(&self, number: u64, encoder: impl FnOnce() -> &'a mut wgpu::CommandEncoder) {
        let Way::Staged(staging) = &self.way else { return };
        staging.copy_landed(number, encoder, |slot| {
            let (slab, place) = self.place(slot);
            (self.slab(slab).0, (place * self.slot_bytes) as u64)
        });
    }

    /// Submissions up to `number` are done: what they copied from can be read into again.
    pub(super) fn done(&self, number: u64) {
        if let Way::Staged(staging) = &self.way {
            staging.done(number);
        }
    }

    /// Whether no read can start before a submission is [`done`](Self::done).
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.way, Way::Staged(staging) if staging.is_full())
    }

    fn fill_shared(
        &self,
        regions: &[Mutex<Option<Region>>],
        slot: usize,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (slab, place) = self.place(slot);
        loop {
            {
                let mut region = lock(&regions[slot]);
                if let Some(region) = &mut *region {
                    if let Some(filled) = lock(&self.slabs[slab]).filled.get_mut(place) {
                        *filled = true;
                    }
                    return read(region);
                }
            }
            // it was given back; others may see to it at the same time
            self.allocate(slab).map_err(|_| StoreError::OutOfMemory { slot, bytes: self.slot_bytes })?;
        }
    }
}

/// A panic in a read leaves half a record, which the store never hands out.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SlotMemory for GpuSlots {
    fn slots(&self) -> usize {
        self.sets.slots()
    }

    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn fill(&self, slot: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match &self.way {
            Way::Shared(regions) => self.fill_shared(regions, slot, read),
            Way::Staged(staging) => staging.fill(slot, read),
            Way::Copied { memory } => {
                let no_memory = StoreError::OutOfMemory { slot, bytes: self.slot_bytes };
                let landed = lock(memory).pop();
                let mut bytes = landed.or_else(|| AlignedBuffer::new(self.slot_bytes)).ok_or(no_memory)?;
                let result = read(&mut bytes);
                let (slab, place) = self.place(slot);
                if let (Ok(()), (Some(slab), _)) = (&result, self.slab(slab)) {
                    let at = (place * self.slot_bytes) as u64;
                    self.gpu.queue.write_buffer(&slab, at, &bytes[..self.slot_bytes]);
                }
                lock(memory).push(bytes);
                result
            }
        }
    }

    /// Memory goes back a slab at a time, when none of its slots is in use.
    fn release(&self, slot: usize) {
        let Way::Shared(regions) = &self.way else { return };
        let (index, place) = self.place(slot);
        let mut slab = lock(&self.slabs[index]);
        if let Some(filled) = slab.filled.get_mut(place) {
            *filled = false;
        }
        if slab.buffer.is_none() || slab.filled.contains(&true) {
            return;
        }
        let mut all: Vec<_> = Vec::new();
        for slot in self.slots_of[index].clone() {
            // one that is being read into at this moment keeps the slab
            let Ok(region) = regions[slot].try_lock() else { return };
            all.push(region);
        }
        all.iter_mut().for_each(|region| **region = None);
        slab.buffer = None;
        slab.generation += 1;
    }

    fn gives_back(&self) -> bool {
        self.landing() == Landing::Shared && self.sets.iter().any(|set| self.per_slab < set.len())
    }

    fn granule(&self) -> usize {
        if self.gives_back() { self.per_slab } else { 1 }
    }

    fn close(&self) {
        if let Way::Staged(staging) = &self.way {
            staging.close();
        }
    }
}
