//! Metal's residency sets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::{available, sel};
use objc2_foundation::ns_string;
use objc2_metal::{MTLBuffer, MTLCommandQueue, MTLDevice, MTLResidencySet, MTLResidencySetDescriptor};
use wgpu::hal::api::Metal;

/// A set that belongs to wgpu's queue: every submission finds its buffers mapped.
#[derive(Clone)]
pub(crate) struct Set(Arc<Mutex<Raw>>);

struct Raw(Retained<ProtocolObject<dyn MTLResidencySet>>);

// SAFETY: Metal's objects may be used from any thread, one at a time: it is behind a mutex.
unsafe impl Send for Raw {}

impl Set {
    /// `None` where the system or the device has none.
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        if !available!(macos = 15.0, ios = 18.0) {
            return None;
        }
        // SAFETY: a set is made from the device, nothing of wgpu's is changed.
        let device = unsafe { device.as_hal::<Metal>() }?;
        let raw = device.raw_device();
        // the simulator's device may be older than its system
        if !raw.respondsToSelector(sel!(newResidencySetWithDescriptor:error:)) {
            return None;
        }
        let descriptor = MTLResidencySetDescriptor::new();
        descriptor.setLabel(Some(ns_string!("flashflood experts")));
        let set = raw.newResidencySetWithDescriptor_error(&descriptor).ok()?;
        // SAFETY: the queue keeps the set beside those it has; submissions stay what they are.
        let queue = unsafe { queue.as_hal::<Metal>() }?;
        queue.as_raw().addResidencySet(&set);
        // what joins later is mapped when it joins
        set.requestResidency();
        Some(Set(Arc::new(Mutex::new(Raw(set)))))
    }

    fn raw(&self) -> MutexGuard<'_, Raw> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a buffer mapped from now on.
    pub(crate) fn add(&self, buffer: &ProtocolObject<dyn MTLBuffer>) {
        let Raw(set) = &*self.raw();
        set.addAllocation(ProtocolObject::from_ref(buffer));
        set.commit();
    }

    /// Lets a buffer go. Submissions that still run keep what they bind mapped themselves.
    pub(crate) fn remove(&self, buffer: &ProtocolObject<dyn MTLBuffer>) {
        let Raw(set) = &*self.raw();
        set.removeAllocation(ProtocolObject::from_ref(buffer));
        set.commit();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.raw().0.allocatedSize()
    }
}
