//! Memory that the GPU keeps mapped between tokens.
//!
//! Metal maps what a submission uses when it is submitted, which takes the longer the more buffers there are, and macOS
//! unmaps it after a second in which nothing ran: 250 ms more for the next token (llama.cpp#10119). A residency set says
//! once what is to stay. Other systems keep what is allocated.

#[cfg(target_vendor = "apple")]
pub(crate) mod metal;

/// The buffers of a device that stay mapped; [`HostBuffer`](crate::HostBuffer)s join by themselves.
#[derive(Clone, Default)]
pub struct Residency {
    #[cfg(target_vendor = "apple")]
    pub(crate) set: Option<metal::Set>,
}

impl Residency {
    /// For a device and its queue. On Metal this takes macOS 15 or iOS 18: older systems do without.
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        #[cfg(target_vendor = "apple")]
        return Residency { set: metal::Set::new(device, queue) };
        #[cfg(not(target_vendor = "apple"))]
        {
            let _ = (device, queue);
            Residency::default()
        }
    }

    /// Bytes that stay mapped; `None` where the system has no such thing.
    pub fn bytes(&self) -> Option<u64> {
        #[cfg(target_vendor = "apple")]
        return self.set.as_ref().map(metal::Set::bytes);
        #[cfg(not(target_vendor = "apple"))]
        None
    }
}
