use flashflood_backends::gpu::{Adapters, Gpu, GpuError, open};

/// Where a model is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// A GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// A GPU, or a software driver.
    Gpu,
    /// The CPU.
    Cpu,
}

/// A device that is open.
pub enum OpenedDevice {
    /// Through wgpu.
    Gpu(Box<Gpu>),
    /// With the CPU twins.
    Cpu,
}

impl OpenedDevice {
    /// Opens what `device` names.
    pub fn open(device: Device) -> Result<Self, GpuError> {
        match device {
            Device::Cpu => Ok(OpenedDevice::Cpu),
            Device::Gpu => Ok(OpenedDevice::Gpu(Box::new(pollster::block_on(open(Adapters::Any))?))),
            Device::Auto => match pollster::block_on(open(Adapters::Hardware)) {
                Ok(gpu) => Ok(OpenedDevice::Gpu(Box::new(gpu))),
                Err(reason) => {
                    tracing::info!("using the CPU: {reason}");
                    Ok(OpenedDevice::Cpu)
                }
            },
        }
    }
}
