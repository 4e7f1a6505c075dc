//! The way into the graphics API: for computing, never for a window.

/// An instance that adapters are asked of.
#[cfg(not(target_os = "linux"))]
pub(super) fn new(descriptor: wgpu::InstanceDescriptor) -> wgpu::Instance {
    wgpu::Instance::new(descriptor)
}

/// An instance that adapters are asked of, without surfaces of Wayland. With them Mesa's layer that sorts devices looks for a
/// compositor, and libwayland tells a terminal without a desktop `error: XDG_RUNTIME_DIR is invalid or not set`.
#[cfg(target_os = "linux")]
pub(super) fn new(descriptor: wgpu::InstanceDescriptor) -> wgpu::Instance {
    use wgpu::hal::vulkan::Instance;
    let description = wgpu::hal::InstanceDescriptor {
        name: "wgpu",
        flags: descriptor.flags,
        memory_budget_thresholds: descriptor.memory_budget_thresholds,
        backend_options: descriptor.backend_options.clone(),
        telemetry: None,
        display: None,
    };
    let callback = Box::new(|args: wgpu::hal::vulkan::CreateInstanceCallbackArgs<'_, '_, '_>| {
        args.extensions.retain(|name| *name != ash::khr::wayland_surface::NAME);
    });
    // SAFETY: the callback turns nothing on. wgpu-hal wants its extensions kept, and uses this one in one place, which makes
    // a surface of Wayland and first looks whether it is there; nobody makes a surface here.
    match unsafe { Instance::init_with_callback(&description, Some(callback)) } {
        // SAFETY: the instance was made a moment ago, and is given away.
        Ok(instance) => unsafe { wgpu::Instance::from_hal::<wgpu::hal::api::Vulkan>(instance) },
        // no loader: an instance without adapters
        Err(_) => wgpu::Instance::new(wgpu::InstanceDescriptor { backends: wgpu::Backends::empty(), ..descriptor }),
    }
}
