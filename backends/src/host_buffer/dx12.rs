//! A buffer in system memory that Direct3D 12 computes from or copies out of, mapped as long as it lives.

use std::ptr::NonNull;
use std::sync::Arc;

use wgpu::hal::api::Dx12;
use windows::Win32::Graphics::Direct3D12::{
    D3D12_CPU_PAGE_PROPERTY_WRITE_BACK, D3D12_HEAP_FLAG_NONE, D3D12_HEAP_PROPERTIES, D3D12_HEAP_TYPE_CUSTOM,
    D3D12_MEMORY_POOL_L0, D3D12_RANGE, D3D12_RESOURCE_DESC, D3D12_RESOURCE_DIMENSION_BUFFER,
    D3D12_RESOURCE_FLAG_ALLOW_UNORDERED_ACCESS, D3D12_RESOURCE_FLAG_NONE, D3D12_RESOURCE_STATE_COMMON,
    D3D12_TEXTURE_LAYOUT_ROW_MAJOR, ID3D12Resource,
};
use windows::Win32::Graphics::Dxgi::Common::{DXGI_FORMAT_UNKNOWN, DXGI_SAMPLE_DESC};

use super::{NoHostBuffer, Visible};
use crate::aligned::PAGE;
use crate::gpu::Gpu;

/// The resource, kept by the regions as well as by wgpu. It is never unmapped: releasing it does that.
struct Mapped {
    _resource: ID3D12Resource,
}

// SAFETY: Direct3D 12's resources may be used from any thread.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

pub(super) fn share(gpu: &Gpu, bytes: usize, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<Visible, NoHostBuffer> {
    let failed = |what: &'static str| move |e: windows::core::Error| NoHostBuffer(format!("{what}: {e}"));
    // SAFETY: the device is only allocated from.
    let hal = unsafe { gpu.device.as_hal::<Dx12>() }.ok_or_else(|| NoHostBuffer("not a DX12 device".to_owned()))?;
    // system memory, cached by the processor: checksums read what landed
    let heap = D3D12_HEAP_PROPERTIES {
        Type: D3D12_HEAP_TYPE_CUSTOM,
        CPUPageProperty: D3D12_CPU_PAGE_PROPERTY_WRITE_BACK,
        MemoryPoolPreference: D3D12_MEMORY_POOL_L0,
        CreationNodeMask: 0,
        VisibleNodeMask: 0,
    };
    let storage = descriptor.usage.contains(wgpu::BufferUsages::STORAGE);
    let resource = D3D12_RESOURCE_DESC {
        Dimension: D3D12_RESOURCE_DIMENSION_BUFFER,
        Alignment: 0,
        Width: bytes as u64,
        Height: 1,
        DepthOrArraySize: 1,
        MipLevels: 1,
        Format: DXGI_FORMAT_UNKNOWN,
        SampleDesc: DXGI_SAMPLE_DESC { Count: 1, Quality: 0 },
        Layout: D3D12_TEXTURE_LAYOUT_ROW_MAJOR,
        Flags: if storage { D3D12_RESOURCE_FLAG_ALLOW_UNORDERED_ACCESS } else { D3D12_RESOURCE_FLAG_NONE },
    };
    let mut made: Option<ID3D12Resource> = None;
    // SAFETY: the descriptions are valid and live until the call returns.
    unsafe {
        hal.raw_device().CreateCommittedResource(
            &heap,
            D3D12_HEAP_FLAG_NONE,
            &resource,
            D3D12_RESOURCE_STATE_COMMON,
            None,
            &mut made,
        )
    }
    .map_err(failed("making a buffer"))?;
    drop(hal);
    let resource = made.ok_or_else(|| NoHostBuffer("Direct3D made no buffer".to_owned()))?;
    let mut start = std::ptr::null_mut();
    // SAFETY: a buffer has one subresource; the empty range says that nothing the GPU wrote will be read.
    unsafe { resource.Map(0, Some(&D3D12_RANGE { Begin: 0, End: 0 }), Some(&mut start)) }
        .map_err(failed("mapping a buffer"))?;
    let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| NoHostBuffer("no memory".to_owned()))?;
    if !start.as_ptr().addr().is_multiple_of(PAGE) {
        return Err(NoHostBuffer("the buffer does not start at a page".to_owned()));
    }
    let memory = Arc::new(Mapped { _resource: resource.clone() });
    // SAFETY: the resource was made by this device, has this length and, by the heap's flags, is zeroed.
    let buffer = unsafe { wgpu::hal::dx12::Device::buffer_from_raw(resource, bytes as u64) };
    // SAFETY: as above; the resource was made for the usage of the descriptor.
    let buffer = unsafe { gpu.device.create_buffer_from_hal::<Dx12>(buffer, descriptor) };
    Ok(Visible { buffer, start, memory })
}
