use std::sync::{Mutex, PoisonError};

use flashflood_backends::AlignedBuffer;

use crate::experts::{SlotMemory, StoreError};

/// Expert slots in GPU memory: a few large buffers (slabs), each of whole slots.
///
/// The portable form: a read lands in host memory and wgpu's staging copies it over. Writes are ordered with the
/// submissions of the queue, so a slot is never overwritten under a submission that was made before the write.
pub struct GpuSlots {
    queue: wgpu::Queue,
    slabs: Vec<wgpu::Buffer>,
    per_slab: usize,
    slots: usize,
    slot_bytes: usize,
    landing: Mutex<Vec<AlignedBuffer>>,
}

/// Largest slab. One buffer per expert would be slow on Metal; buffers over 2 GiB do not exist on other systems.
const SLAB: u64 = 1 << 30;

impl GpuSlots {
    /// Allocates `slots` slots in slabs that one binding can cover.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, slots: usize, slot_bytes: usize, binding: u64) -> Self {
        // bindings and slots hold whole 16-byte words
        let slot_bytes = slot_bytes.next_multiple_of(256);
        let per_slab = ((binding.min(SLAB) as usize) / slot_bytes).clamp(1, slots.max(1));
        let slabs = (0..slots.div_ceil(per_slab))
            .map(|slab| {
                let here = per_slab.min(slots - slab * per_slab);
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(&format!("expert slab {slab}")),
                    size: (here * slot_bytes) as u64,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
            .collect();
        GpuSlots { queue: queue.clone(), slabs, per_slab, slots, slot_bytes, landing: Mutex::new(Vec::new()) }
    }

    /// The slabs.
    pub fn slabs(&self) -> &[wgpu::Buffer] {
        &self.slabs
    }

    /// Slab of a slot, and its place there.
    pub fn place(&self, slot: usize) -> (usize, usize) {
        (slot / self.per_slab, slot % self.per_slab)
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
        let free = || self.landing.lock().unwrap_or_else(PoisonError::into_inner);
        let no_memory = StoreError::OutOfMemory { slot, bytes: self.slot_bytes };
        let landed = free().pop();
        let mut bytes = landed.or_else(|| AlignedBuffer::new(self.slot_bytes)).ok_or(no_memory)?;
        let result = read(&mut bytes);
        if result.is_ok() {
            let (slab, place) = self.place(slot);
            self.queue.write_buffer(&self.slabs[slab], (place * self.slot_bytes) as u64, &bytes[..self.slot_bytes]);
        }
        free().push(bytes);
        result
    }
}
