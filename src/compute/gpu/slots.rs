use std::sync::{Mutex, PoisonError};

use flashflood_backends::gpu::Gpu;
use flashflood_backends::{AlignedBuffer, HostBuffer, NoHostBuffer, PAGE, Region};

use super::staging::Staging;
use crate::experts::{SlotMemory, StoreError};

/// How expert bytes get from the disk to where the GPU computes from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
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
pub struct GpuSlots {
    slabs: Vec<wgpu::Buffer>,
    per_slab: usize,
    slots: usize,
    slot_bytes: usize,
    way: Way,
}

enum Way {
    /// One region per slot.
    Shared(Vec<Mutex<Region>>),
    Staged(Staging),
    Copied {
        queue: wgpu::Queue,
        memory: Mutex<Vec<AlignedBuffer>>,
    },
}

/// Largest slab. One buffer per expert would be slow on Metal; buffers over 2 GiB do not exist on other systems.
const SLAB: u64 = 1 << 30;

impl GpuSlots {
    /// Allocates `slots` slots in slabs that one binding of `binding` bytes can cover. `top_k` experts a token decide
    /// how many reads may wait for their copy. `landing` is for tests; by itself the device gets what suits it.
    pub fn new(
        gpu: &Gpu,
        slots: usize,
        slot_bytes: usize,
        top_k: usize,
        binding: u64,
        landing: Option<Landing>,
    ) -> Result<Self, StoreError> {
        // whole pages, so that direct reads of the last block stay within the slot
        let slot_bytes = slot_bytes.next_multiple_of(PAGE);
        let per_slab = ((binding.min(SLAB) as usize) / slot_bytes).clamp(1, slots.max(1));
        let mut made = GpuSlots { slabs: Vec::new(), per_slab, slots, slot_bytes, way: Way::copied(&gpu.queue) };
        let wanted = landing.unwrap_or(if gpu.is_unified() { Landing::Shared } else { Landing::Staged });
        let outcome = match wanted {
            Landing::Shared => made.share(gpu),
            Landing::Staged => Staging::new(gpu, slot_bytes, Staging::landings(top_k)).map(|staging| {
                made.way = Way::Staged(staging);
            }),
            Landing::Copied => Ok(()),
        };
        match outcome {
            Err(cause) if landing.is_some() => {
                return Err(StoreError::Landing { wanted: format!("{wanted:?}"), cause: cause.to_string() });
            }
            Err(cause) => tracing::info!("experts are copied to the GPU through wgpu: {cause}"),
            Ok(()) => tracing::info!("experts land in GPU memory: {:?}", made.landing()),
        }
        if made.slabs.is_empty() {
            made.slabs = (0..made.slab_count())
                .map(|slab| {
                    gpu.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some(&format!("expert slab {slab}")),
                        size: (made.slots_in(slab) * slot_bytes) as u64,
                        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                        mapped_at_creation: false,
                    })
                })
                .collect();
        }
        Ok(made)
    }

    /// Makes slabs that the host fills.
    fn share(&mut self, gpu: &Gpu) -> Result<(), NoHostBuffer> {
        let mut slabs = Vec::new();
        let mut regions = Vec::new();
        for slab in 0..self.slab_count() {
            let label = format!("expert slab {slab}");
            let here = self.slots_in(slab);
            let made = HostBuffer::new(gpu, &label, self.slot_bytes, here, wgpu::BufferUsages::STORAGE)?;
            slabs.push(made.buffer);
            regions.extend(made.regions.into_iter().map(Mutex::new));
        }
        self.slabs = slabs;
        self.way = Way::Shared(regions);
        Ok(())
    }

    fn slab_count(&self) -> usize {
        self.slots.div_ceil(self.per_slab)
    }

    fn slots_in(&self, slab: usize) -> usize {
        self.per_slab.min(self.slots - slab * self.per_slab)
    }

    /// The slabs.
    pub fn slabs(&self) -> &[wgpu::Buffer] {
        &self.slabs
    }

    /// Slab of a slot, and its place there.
    pub fn place(&self, slot: usize) -> (usize, usize) {
        (slot / self.per_slab, slot % self.per_slab)
    }

    /// How experts get into the slots.
    pub fn landing(&self) -> Landing {
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
            (&self.slabs[slab], (place * self.slot_bytes) as u64)
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
}

impl Way {
    fn copied(queue: &wgpu::Queue) -> Way {
        Way::Copied { queue: queue.clone(), memory: Mutex::new(Vec::new()) }
    }
}

impl SlotMemory for GpuSlots {
    fn slots(&self) -> usize {
        self.slots
    }

    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn fill(&self, slot: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match &self.way {
            // a panic in a read leaves half a record, which the store never hands out
            Way::Shared(regions) => read(&mut regions[slot].lock().unwrap_or_else(PoisonError::into_inner)),
            Way::Staged(staging) => staging.fill(slot, read),
            Way::Copied { queue, memory } => {
                let free = || memory.lock().unwrap_or_else(PoisonError::into_inner);
                let no_memory = StoreError::OutOfMemory { slot, bytes: self.slot_bytes };
                let landed = free().pop();
                let mut bytes = landed.or_else(|| AlignedBuffer::new(self.slot_bytes)).ok_or(no_memory)?;
                let result = read(&mut bytes);
                if result.is_ok() {
                    let (slab, place) = self.place(slot);
                    let at = (place * self.slot_bytes) as u64;
                    queue.write_buffer(&self.slabs[slab], at, &bytes[..self.slot_bytes]);
                }
                free().push(bytes);
                result
            }
        }
    }

    fn close(&self) {
        if let Way::Staged(staging) = &self.way {
            staging.close();
        }
    }
}
