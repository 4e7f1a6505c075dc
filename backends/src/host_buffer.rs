//! GPU buffers in memory that the host writes at any time: reads of experts land there, and the GPU computes from them
//! or copies out of them, without wgpu's own staging in between.
//!
//! wgpu's `write_buffer` makes, maps and fills a new staging buffer for every call. A buffer of this module is made
//! once; the host keeps its address.

#[cfg(windows)]
mod dx12;
#[cfg(target_vendor = "apple")]
mod metal;
#[cfg(any(target_os = "linux", target_os = "android", windows))]
mod vulkan;

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::gpu::Gpu;

/// A buffer of equal regions that the host fills.
pub struct HostBuffer {
    /// What the GPU sees: all regions, one after the other.
    pub buffer: wgpu::Buffer,
    /// What the host writes, in the same order.
    pub regions: Vec<Region>,
}

/// Bytes of a [`HostBuffer`] that their owner alone writes. They start at a page.
///
/// The GPU sees a write in every submission made after it. What a submission that is still running sees of a write is
/// not determined: wait for it first.
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory, which outlives the GPU's buffer when regions do.
    _memory: Arc<dyn Send + Sync>,
}

// SAFETY: a region is the only way to its bytes on the host, like a boxed slice, and `_memory` is Send and Sync.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region only reads.
unsafe impl Sync for Region {}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that `_memory` keeps and no other region covers; the GPU
        // only reads them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and this borrow is the only one on the host.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Why a device has no [`HostBuffer`]s.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoHostBuffer(pub(crate) String);

/// Memory that a platform module has made visible to the GPU.
struct Visible {
    buffer: wgpu::Buffer,
    start: NonNull<u8>,
    memory: Arc<dyn Send + Sync>,
}

impl HostBuffer {
    /// A buffer of `count` regions of `region_bytes` bytes, a multiple of [`PAGE`](crate::PAGE), zeroed. The memory is
    /// taken at once, not when it is first written. An error where the device or its driver cannot do this: the
    /// caller then writes through wgpu.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        region_bytes: usize,
        count: usize,
        usage: wgpu::BufferUsages,
    ) -> Result<HostBuffer, NoHostBuffer> {
        if region_bytes == 0 || count == 0 || !region_bytes.is_multiple_of(crate::PAGE) {
            return Err(NoHostBuffer(format!("{count} regions of {region_bytes} bytes: not whole pages")));
        }
        let bytes = region_bytes.checked_mul(count).ok_or_else(|| NoHostBuffer("too large".to_owned()))?;
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: bytes as u64, usage, mapped_at_creation: false };
        let Visible { buffer, start, memory } = make_visible(gpu, bytes, &descriptor)?;
        let region = |index: usize| Region {
            // SAFETY: `start` points to `bytes` bytes, of which this is within the first `count * region_bytes`.
            start: unsafe { start.add(index * region_bytes) },
            len: region_bytes,
            _memory: memory.clone(),
        };
        Ok(HostBuffer { buffer, regions: (0..count).map(region).collect() })
    }
}

fn make_visible(gpu: &Gpu, bytes: usize, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<Visible, NoHostBuffer> {
    match gpu.info.backend {
        #[cfg(any(target_os = "linux", target_os = "android", windows))]
        wgpu::Backend::Vulkan => vulkan::import(gpu, bytes, descriptor),
        #[cfg(target_vendor = "apple")]
        wgpu::Backend::Metal => metal::share(gpu, bytes, descriptor),
        #[cfg(windows)]
        wgpu::Backend::Dx12 => dx12::share(gpu, bytes, descriptor),
        other => Err(NoHostBuffer(format!("not built for {other:?}"))),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", windows))]
pub(crate) use vulkan::open_with_import;
