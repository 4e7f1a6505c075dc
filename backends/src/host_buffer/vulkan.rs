//! Memory of this process, imported into Vulkan (VK_EXT_external_memory_host).
//!
//! Imported rather than mapped: pages of this process can be the target of a direct read, while a driver's mapping of
//! its own memory often cannot.

use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use wgpu::hal::api::Vulkan;

use super::{NoHostBuffer, Visible};
use crate::aligned::{AlignedBuffer, PAGE};
use crate::gpu::Gpu;

const IMPORT: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// Opens a device with the extension; `None` where the adapter is none of Vulkan's or has no such extension.
pub(crate) fn open_with_import(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Option<Result<(wgpu::Device, wgpu::Queue), String>> {
    let name = ash::ext::external_memory_host::NAME;
    // SAFETY: the adapter is only looked at and opened; the guard ends before the adapter does.
    let hal = unsafe { adapter.as_hal::<Vulkan>() }?;
    if !hal.physical_device_capabilities().supports_extension(name) {
        return None;
    }
    let (features, limits) = (descriptor.required_features, &descriptor.required_limits);
    // SAFETY: the callback adds an extension that the device supports and removes nothing.
    let opened = unsafe {
        hal.open_with_callback(
            features,
            limits,
            &descriptor.memory_hints,
            Some(Box::new(move |args| args.extensions.push(name))),
        )
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) => return Some(Err(e.to_string())),
    };
    drop(hal);
    // SAFETY: the device was opened from this adapter a moment ago, with the features of the descriptor.
    let device = unsafe { adapter.create_device_from_hal(opened, descriptor) };
    Some(device.map_err(|e| e.to_string()))
}

/// The Vulkan objects of an import, and the memory they stand for.
struct Import {
    device: ash::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    _host: Arc<AlignedBuffer>,
}

impl Drop for Import {
    fn drop(&mut self) {
        // SAFETY: wgpu drops its buffer, and this with it, once no submission uses it and while its device lives; a
        // handle that was never made is null, which both calls ignore.
        unsafe {
            self.device.destroy_buffer(self.buffer, None);
            self.device.free_memory(self.memory, None);
        }
    }
}

pub(super) fn import(
    gpu: &Gpu,
    bytes: usize,
    descriptor: &wgpu::BufferDescriptor<'_>,
) -> Result<Visible, NoHostBuffer> {
    let failed = |what: &'static str| move |e: vk::Result| NoHostBuffer(format!("{what}: {e}"));
    // SAFETY: the device is only asked and allocated from; nothing of it is destroyed.
    let hal = unsafe { gpu.device.as_hal::<Vulkan>() }.ok_or_else(|| NoHostBuffer("not a Vulkan device".to_owned()))?;
    if !hal.enabled_device_extensions().contains(&ash::ext::external_memory_host::NAME) {
        return Err(NoHostBuffer("the driver has no VK_EXT_external_memory_host".to_owned()));
    }
    let (instance, device) = (hal.shared_instance().raw_instance(), hal.raw_device().clone());
    let mut limits = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
    // SAFETY: the physical device belongs to the instance, and the structure chain lives until the call returns.
    unsafe { instance.get_physical_device_properties2(hal.raw_physical_device(), &mut properties) };
    if limits.min_imported_host_pointer_alignment > PAGE as u64 {
        let wanted = limits.min_imported_host_pointer_alignment;
        return Err(NoHostBuffer(format!("the driver imports memory in units of {wanted} bytes, pages have {PAGE}")));
    }
    let mut host = AlignedBuffer::new(bytes).ok_or_else(|| NoHostBuffer(format!("no memory for {bytes} bytes")))?;
    // regions write through this pointer; the memory stays where it is when its owner moves
    let start = host.as_mut_ptr();
    let host = Arc::new(host);
    let size = host.len() as u64;

    let mut import = Import {
        device: device.clone(),
        buffer: vk::Buffer::null(),
        memory: vk::DeviceMemory::null(),
        _host: host.clone(),
    };
    let extension = ash::ext::external_memory_host::Device::new(instance, &device);
    let mut pointer = vk::MemoryHostPointerPropertiesEXT::default();
    // SAFETY: `start` points to `size` bytes that this process owns, and it is as aligned as the driver asks.
    let asked = unsafe {
        (extension.fp().get_memory_host_pointer_properties_ext)(device.handle(), IMPORT, start.cast(), &mut pointer)
    };
    asked.result().map_err(failed("asking for imported memory"))?;

    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(IMPORT);
    let info = vk::BufferCreateInfo::default().size(size).usage(usage(descriptor.usage)).push_next(&mut external);
    // SAFETY: the create info is valid and lives until the call returns.
    import.buffer = unsafe { device.create_buffer(&info, None) }.map_err(failed("making a buffer"))?;
    // SAFETY: the buffer was made by this device.
    let needs = unsafe { device.get_buffer_memory_requirements(import.buffer) };
    if needs.size > size {
        return Err(NoHostBuffer(format!("the driver wants {} bytes for a buffer of {size}", needs.size)));
    }
    let kind = memory_type(&hal, needs.memory_type_bits & pointer.memory_type_bits)
        .ok_or_else(|| NoHostBuffer("no type of memory is both importable and coherent".to_owned()))?;
    let mut imported = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(IMPORT).host_pointer(start.cast());
    let info = vk::MemoryAllocateInfo::default().allocation_size(size).memory_type_index(kind).push_next(&mut imported);
    // SAFETY: start and size are multiples of the driver's alignment, and the memory is kept by `import` until after
    // the allocation is freed.
    import.memory = unsafe { device.allocate_memory(&info, None) }.map_err(failed("importing memory"))?;
    // SAFETY: buffer and memory were made by this device, the memory is large enough and of a type the buffer takes.
    unsafe { device.bind_buffer_memory(import.buffer, import.memory, 0) }.map_err(failed("binding memory"))?;

    let raw = import.buffer;
    // SAFETY: the handle stays valid until the callback, which wgpu calls when nothing uses the buffer any more.
    let buffer = unsafe { wgpu::hal::vulkan::Buffer::from_raw_externally_owned(raw, Box::new(move || drop(import))) };
    drop(hal);
    // SAFETY: the buffer belongs to this device, was made for the usage of the descriptor and is zeroed.
    let buffer = unsafe { gpu.device.create_buffer_from_hal::<Vulkan>(buffer, descriptor) };
    let start = NonNull::new(start).ok_or_else(|| NoHostBuffer("no memory".to_owned()))?;
    Ok(Visible { buffer, start, memory: host })
}

/// The usages that experts' buffers have.
fn usage(usage: wgpu::BufferUsages) -> vk::BufferUsageFlags {
    let pairs = [
        (wgpu::BufferUsages::STORAGE, vk::BufferUsageFlags::STORAGE_BUFFER),
        (wgpu::BufferUsages::COPY_SRC, vk::BufferUsageFlags::TRANSFER_SRC),
        (wgpu::BufferUsages::COPY_DST, vk::BufferUsageFlags::TRANSFER_DST),
    ];
    pairs.iter().filter(|(of, _)| usage.contains(*of)).fold(vk::BufferUsageFlags::empty(), |all, (_, flag)| all | *flag)
}

/// The first coherent type among `allowed`, one that the processor caches before others: checksums read what landed.
fn memory_type(hal: &wgpu::hal::vulkan::Device, allowed: u32) -> Option<u32> {
    // SAFETY: the physical device belongs to the instance.
    let types = unsafe {
        hal.shared_instance().raw_instance().get_physical_device_memory_properties(hal.raw_physical_device())
    };
    let coherent = vk::MemoryPropertyFlags::HOST_COHERENT;
    let wanted = [coherent | vk::MemoryPropertyFlags::HOST_CACHED, coherent];
    wanted.into_iter().find_map(|flags| {
        (0..types.memory_type_count).find(|&index| {
            allowed & (1 << index) != 0 && types.memory_types[index as usize].property_flags.contains(flags)
        })
    })
}
