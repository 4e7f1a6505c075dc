use flashflood_backends::gpu::{Adapters, Gpu, GpuError, MatrixUnits, open};
use flashflood_vectors::Instructions;

use crate::compute::shaders::Form;

/// Where a model is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
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
    /// Its name, for people.
    pub fn name(&self) -> String {
        match self {
            OpenedDevice::Gpu(gpu) => format!("{} ({:?})", gpu.info.name, gpu.info.backend),
            OpenedDevice::Cpu => {
                format!("CPU ({} threads, {})", rayon::current_num_threads(), Instructions::best())
            }
        }
    }

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

/// What products multiply quantised weights with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Activations {
    /// int8 on the CPU, and on GPUs through Vulkan and DX12, which multiply and add four bytes at a time; else f32, which
    /// Apple's matrix units get as f16 in prompts.
    #[default]
    Auto,
    /// 32-bit floats, everywhere.
    F32,
    /// 8-bit integers with a scale for every 32: faster, and a little less exact.
    Int8,
}

impl Activations {
    /// Whether matrix units may multiply prompts: those that take activations in f32 round them, and the weights, to f16.
    pub(crate) fn allows(self, units: MatrixUnits) -> bool {
        self != Activations::F32 || Form::of_units(units) != Form::F32
    }

    /// Whether prompts are multiplied in f16 where tokens of decode are in f32.
    pub(crate) fn rounds_prompts(self, device: &OpenedDevice) -> bool {
        let OpenedDevice::Gpu(gpu) = device else { return false };
        self.on(device) == Form::F32
            && gpu.matrix_units.is_some_and(|units| Form::of_units(units) == Form::F32 && self.allows(units))
    }

    /// The form to record for a device.
    pub(crate) fn on(self, device: &OpenedDevice) -> Form {
        match self {
            Activations::F32 => Form::F32,
            Activations::Int8 => Form::Int8,
            Activations::Auto => match device {
                OpenedDevice::Cpu => Form::Int8,
                OpenedDevice::Gpu(gpu)
                    if matches!(gpu.info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12)
                        && gpu.info.device_type != wgpu::DeviceType::Cpu =>
                {
                    Form::Int8
                }
                // Metal has no such instruction, software drivers gain nothing
                _ => Form::F32,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_activations_are_left_to_no_unit_that_rounds_them() {
        for activations in [Activations::Auto, Activations::Int8] {
            assert!([MatrixUnits::By8, MatrixUnits::By16].into_iter().all(|units| activations.allows(units)));
        }
        // those of 16 take activations in 8 bits, and none of these in f32
        assert!(!Activations::F32.allows(MatrixUnits::By8) && Activations::F32.allows(MatrixUnits::By16));
        assert!(!Activations::Auto.rounds_prompts(&OpenedDevice::Cpu));
    }
}
