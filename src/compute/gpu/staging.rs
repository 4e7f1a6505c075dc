//! The ring of host memory that experts land in before the GPU copies them into their slots.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use flashflood_backends::gpu::Gpu;
use flashflood_backends::{HostBuffer, NoHostBuffer, Region};

use crate::experts::StoreError;

/// Room for one expert in the ring.
struct RingPlace {
    index: usize,
    region: Region,
}

/// Where every place of the ring is. Those that are in none of the lists are being read into.
#[derive(Default)]
struct Ring {
    free: Vec<RingPlace>,
    /// Read, with the slot they are for.
    landed: Vec<(usize, RingPlace)>,
    /// Being copied by the submission of this number.
    copied: Vec<(u64, RingPlace)>,
    closed: bool,
}

pub(super) struct Staging {
    buffer: wgpu::Buffer,
    slot_bytes: u64,
    ring: Mutex<Ring>,
    freed: Condvar,
}

impl Staging {
    /// Places for two tokens' experts of a layer: one set is read while the other is copied.
    pub(super) fn landings(top_k: usize) -> usize {
        2 * top_k.max(4)
    }

    pub(super) fn new(gpu: &Gpu, slot_bytes: usize, places: usize) -> Result<Staging, NoHostBuffer> {
        let HostBuffer { buffer, regions } =
            HostBuffer::new(gpu, "expert staging", slot_bytes, places, wgpu::BufferUsages::COPY_SRC)?;
        let free = regions.into_iter().enumerate().map(|(index, region)| RingPlace { index, region }).collect();
        let ring = Mutex::new(Ring { free, ..Ring::default() });
        Ok(Staging { buffer, slot_bytes: slot_bytes as u64, ring, freed: Condvar::new() })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free place and reads into it.
    pub(super) fn fill(
        &self,
        slot: usize,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut ring = self.ring();
        let mut place = loop {
            if ring.closed {
                return Err(StoreError::WorkersGone);
            }
            match ring.free.pop() {
                Some(place) => break place,
                None => ring = self.freed.wait(ring).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(ring);
        // a panic must not take the place along: it is put back before the panic goes on
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&mut place.region)));
        let mut ring = self.ring();
        if matches!(outcome, Ok(Ok(()))) {
            // of two reads into one slot the later counts
            if let Some(at) = ring.landed.iter().position(|(of, _)| *of == slot) {
                let (_, earlier) = ring.landed.swap_remove(at);
                ring.free.push(earlier);
            }
            ring.landed.push((slot, place));
        } else {
            ring.free.push(place);
        }
        drop(ring);
        self.freed.notify_one();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(super) fn copy_landed<'a>(
        &self,
        number: u64,
        encoder: impl FnOnce() -> &'a mut wgpu::CommandEncoder,
        slot_place: impl Fn(usize) -> (Option<wgpu::Buffer>, u64),
    ) {
        let mut ring = self.ring();
        if ring.landed.is_empty() {
            return;
        }
        let encoder = encoder();
        for (slot, place) in std::mem::take(&mut ring.landed) {
            let (slab, at) = slot_place(slot);
            let from = place.index as u64 * self.slot_bytes;
            if let Some(slab) = slab {
                encoder.copy_buffer_to_buffer(&self.buffer, from, &slab, at, self.slot_bytes);
            }
            ring.copied.push((number, place));
        }
    }

    pub(super) fn done(&self, number: u64) {
        let mut ring = self.ring();
        let (done, still): (Vec<_>, Vec<_>) = std::mem::take(&mut ring.copied).into_iter().partition(|c| c.0 <= number);
        ring.copied = still;
        let any = !done.is_empty();
        ring.free.extend(done.into_iter().map(|(_, place)| place));
        drop(ring);
        if any {
            self.freed.notify_all();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.ring().free.is_empty()
    }

    /// Lets nobody wait for a place any more.
    pub(super) fn close(&self) {
        self.ring().closed = true;
        self.freed.notify_all();
    }
}
