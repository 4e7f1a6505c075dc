//! What differs between graphics APIs: barriers.

/// What waits for what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// Dispatches after it for those before it.
    Dispatches,
    /// Dispatches and copies after it for those before it.
    All,
}

/// A graphics API that dispatches can be recorded for.
pub(super) trait ChainApi: wgpu::hal::Api {
    /// What barriers are recorded with.
    type Barriers: Send;

    fn barriers(device: &Self::Device) -> Self::Barriers;

    /// Records a barrier. Writes before it are seen after it.
    ///
    /// # Safety
    /// The encoder is recording, on the device that `barriers` was made for.
    unsafe fn barrier(barriers: &Self::Barriers, encoder: &mut Self::CommandEncoder, between: Between);
}

#[cfg(any(target_os = "linux", target_os = "android", windows))]
impl ChainApi for wgpu::hal::api::Vulkan {
    type Barriers = ash::Device;

    fn barriers(device: &Self::Device) -> ash::Device {
        device.raw_device().clone()
    }

    unsafe fn barrier(device: &ash::Device, encoder: &mut Self::CommandEncoder, between: Between) {
        use ash::vk::{AccessFlags, DependencyFlags, MemoryBarrier, PipelineStageFlags};
        let (stages, written, touched) = match between {
            Between::Dispatches => (
                PipelineStageFlags::COMPUTE_SHADER,
                AccessFlags::SHADER_WRITE,
                AccessFlags::SHADER_READ | AccessFlags::SHADER_WRITE,
            ),
            Between::All => (
                PipelineStageFlags::COMPUTE_SHADER | PipelineStageFlags::TRANSFER,
                AccessFlags::SHADER_WRITE | AccessFlags::TRANSFER_WRITE,
                AccessFlags::SHADER_READ
                    | AccessFlags::SHADER_WRITE
                    | AccessFlags::TRANSFER_READ
                    | AccessFlags::TRANSFER_WRITE,
            ),
        };
        // wgpu-hal's own barrier names buffers; one for all memory is what drivers make of it anyway
        let memory = [MemoryBarrier::default().src_access_mask(written).dst_access_mask(touched)];
        // SAFETY: the caller's encoder is recording, so that its command buffer is; the masks belong to the stages; the
        // slices live until the call returns.
        unsafe {
            let buffer = encoder.raw_handle();
            device.cmd_pipeline_barrier(buffer, stages, stages, DependencyFlags::empty(), &memory, &[], &[]);
        }
    }
}

#[cfg(target_vendor = "apple")]
impl ChainApi for wgpu::hal::api::Metal {
    type Barriers = ();

    fn barriers(_device: &Self::Device) {}

    /// wgpu-hal's passes are serial: each dispatch waits for the one before it. Metal itself tracks what copies touch.
    unsafe fn barrier((): &(), _encoder: &mut Self::CommandEncoder, _between: Between) {}
}
