//! Shared memory of Metal: one allocation that processor and GPU address.

use std::ptr::NonNull;
use std::sync::Arc;

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};
use wgpu::hal::api::Metal;

use super::{NoHostBuffer, Visible};
use crate::aligned::PAGE;
use crate::gpu::Gpu;
use crate::residency::metal::Set;

/// The buffer, kept by the regions as well as by wgpu. It stays mapped for the GPU as long as there are regions.
struct Shared {
    buffer: Retained<ProtocolObject<dyn MTLBuffer>>,
    residency: Option<Set>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(set) = &self.residency {
            set.remove(&self.buffer);
        }
    }
}

// SAFETY: Metal's buffers may be retained, released and named on any thread, and nothing else is done with this one.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

pub(super) fn share(gpu: &Gpu, bytes: usize, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<Visible, NoHostBuffer> {
    // SAFETY: the device is only allocated from.
    let hal = unsafe { gpu.device.as_hal::<Metal>() }.ok_or_else(|| NoHostBuffer("not a Metal device".to_owned()))?;
    // The GPU only reads these buffers, and whoever writes one waits for the GPU first: Metal need not track hazards.
    // The processor's cache stays on: checksums read what landed.
    let options = MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked;
    let buffer = hal
        .raw_device()
        .newBufferWithLength_options(bytes, options)
        .ok_or_else(|| NoHostBuffer(format!("Metal has no buffer of {bytes} bytes")))?;
    drop(hal);
    let start: NonNull<u8> = buffer.contents().cast();
    if !start.as_ptr().addr().is_multiple_of(PAGE) {
        return Err(NoHostBuffer("Metal's buffer does not start at a page".to_owned()));
    }
    let residency = gpu.residency.set.clone();
    if let Some(set) = &residency {
        set.add(&buffer);
    }
    let memory = Arc::new(Shared { buffer: buffer.clone(), residency });
    // SAFETY: the buffer was made by this device and has this length; Metal zeroes new buffers.
    let buffer = unsafe { wgpu::hal::metal::Device::buffer_from_raw(buffer, bytes as u64) };
    // SAFETY: as above; a shared buffer may be used for all that the descriptor may say.
    let buffer = unsafe { gpu.device.create_buffer_from_hal::<Metal>(buffer, descriptor) };
    Ok(Visible { buffer, start, memory })
}
