//! GPU devices: which adapter, with which limits, and shaders without runtime checks.

pub mod chain;
mod dxc;
mod instance;

use std::fmt;

use crate::residency::Residency;

/// Which adapters may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapters {
    /// GPUs only.
    Hardware,
    /// GPUs first, then software drivers (lavapipe, WARP).
    Any,
}

/// An open device.
#[derive(Clone)]
pub struct Gpu {
    /// Device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// Name, driver, type.
    pub info: wgpu::AdapterInfo,
    /// Limits that the device was opened with: the adapter's.
    pub limits: wgpu::Limits,
    /// What the adapter could do, used or not.
    pub adapter_features: wgpu::Features,
    /// Its matrix units, if kernels know them.
    pub matrix_units: Option<MatrixUnits>,
    /// Keeps buffers of experts mapped between tokens.
    pub residency: Residency,
}

/// Matrix units that kernels know: of f16 with sums in f32, for subgroups of 32 threads in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixUnits {
    /// 8x8x8: Apple's simdgroup matrices.
    By8,
    /// 16x16x16: NVIDIA's, by Vulkan.
    By16,
}

impl fmt::Display for MatrixUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MatrixUnits::By8 => "8x8",
            MatrixUnits::By16 => "16x16",
        })
    }
}

impl Gpu {
    /// Whether it is no GPU but a driver that computes on the processor (lavapipe, WARP).
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Whether the GPU computes from the same memory as the processor, so that experts are read where they are used.
    pub fn is_unified(&self) -> bool {
        matches!(self.info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu)
    }
}

/// Why no device could be opened.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// None that fits.
    #[error("no {wanted} found; adapters: {found}")]
    NoAdapter {
        /// What was looked for.
        wanted: &'static str,
        /// What there is.
        found: String,
    },
    /// The driver refused.
    #[error("{adapter}: {cause}")]
    Open {
        /// Adapter name.
        adapter: String,
        /// The driver's words.
        cause: String,
    },
}

/// wgpu features that every kernel needs: values passed without a buffer.
const NEEDED: wgpu::Features = wgpu::Features::IMMEDIATES;

/// Features that are used where they are: timestamps, for profiles.
const WANTED: wgpu::Features = TIMESTAMPS;

/// The adapter times kernels.
pub const TIMESTAMPS: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY;

/// The adapter computes in 16 bits; only kernels for matrix units need it.
pub const SHADER_F16: wgpu::Features = wgpu::Features::SHADER_F16;

/// Features of matrix units.
const COOPERATIVE: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// Bytes of immediates that kernels use.
const IMMEDIATE_BYTES: u32 = 64;

/// The matrix units of an adapter, if kernels know them: NVIDIA's by Vulkan, with which they were measured, and those of
/// Apple's GPUs, which nobody has measured yet. Others follow when somebody has: Intel's driver was slower with them than
/// without (llama.cpp#24404).
fn matrix_units(adapter: &wgpu::Adapter) -> Option<MatrixUnits> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let (units, size, memory) = match info.backend {
        wgpu::Backend::Vulkan if info.vendor == 0x10de => (MatrixUnits::By16, 16, 48 << 10),
        wgpu::Backend::Metal if has_simdgroup_matrices(&info.name) => (MatrixUnits::By8, 8, 32 << 10),
        _ => return None,
    };
    let fits = |p: &wgpu::CooperativeMatrixProperties| {
        (p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type) == (size, size, size, F16, F32)
    };
    let is_known = (units == MatrixUnits::By8 || (info.subgroup_min_size, info.subgroup_max_size) == (32, 32))
        && limits.max_compute_workgroup_storage_size >= memory
        && adapter.features().contains(COOPERATIVE)
        && adapter.cooperative_matrix_properties().iter().any(fits);
    is_known.then_some(units)
}

/// Whether a device of Metal is one of Apple's GPUs, all of which have had SIMD groups of 32 threads and their matrices since A14
/// and M1: wgpu's feature, which is asked for as well, is also that of other makers' GPUs in Macs, and names no vendors.
/// Devices of virtual machines and simulators are left alone.
fn has_simdgroup_matrices(name: &str) -> bool {
    name.starts_with("Apple") && !["Paravirtual", "imulator"].iter().any(|of_none| name.contains(of_none))
}

/// Opens the best adapter: discrete before integrated before virtual before software.
pub async fn open(adapters: Adapters) -> Result<Gpu, GpuError> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    let left_out = dxc::name_compiler(&mut descriptor);
    let instance = instance::new(descriptor);
    let mut all = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let rank = |info: &wgpu::AdapterInfo| match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    all.sort_by_key(|adapter| rank(&adapter.get_info()));
    let found = all.iter().map(|a| format!("{} ({:?})", a.get_info().name, a.get_info().device_type));
    let found = found.collect::<Vec<_>>().join(", ");
    let usable = all.into_iter().find(|adapter| {
        let limits = adapter.limits();
        adapter.features().contains(NEEDED)
            && limits.max_immediate_size >= IMMEDIATE_BYTES
            && limits.max_storage_buffers_per_shader_stage >= 8
            && (adapters == Adapters::Any || adapter.get_info().device_type != wgpu::DeviceType::Cpu)
    });
    let Some(adapter) = usable else {
        let wanted = match adapters {
            Adapters::Hardware => "GPU",
            Adapters::Any => "GPU or software driver",
        };
        let found = if found.is_empty() { "none".to_owned() } else { found } + left_out;
        return Err(GpuError::NoAdapter { wanted, found });
    };
    let info = adapter.get_info();
    // the defaults are WebGPU's: bindings of 128 MiB at most
    let limits = adapter.limits();
    let matrix_units = matrix_units(&adapter);
    let (units, experimental_features) = if matrix_units.is_some() {
        // SAFETY: of the experimental features only that of matrix units is asked for. Its known holes are matrices loaded and
        // stored outside of bindings, and by subgroups that are not whole: the product of matrices takes this path for whole tiles
        // only, those of experts, the delta rule and attention load from and store to workgroup memory alone. Workgroups are
        // whole subgroups of 32 threads, which Vulkan says and all of Apple's GPUs have. A product of matrices with a known
        // result, by the same code as those of experts, is computed at start, without which none of them is used; two chunks
        // of the delta rule and some tokens of attention, without which these are not.
        (COOPERATIVE, unsafe { wgpu::ExperimentalFeatures::enabled() })
    } else {
        (wgpu::Features::empty(), wgpu::ExperimentalFeatures::disabled())
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("flashflood"),
        required_features: NEEDED | units | (adapter.features() & WANTED),
        experimental_features,
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let opened = match open_for_host_buffers(&adapter, &descriptor) {
        Some(Ok(opened)) => Ok(opened),
        // without it experts are copied
        _ => adapter.request_device(&descriptor).await.map_err(|e| e.to_string()),
    };
    let (device, queue) = opened.map_err(|cause| GpuError::Open { adapter: info.name.clone(), cause })?;
    let residency = Residency::new(&device, &queue);
    Ok(Gpu { device, queue, info, limits, adapter_features: adapter.features(), matrix_units, residency })
}

type Opened = Result<(wgpu::Device, wgpu::Queue), String>;

/// Opens a device in the way that a [`HostBuffer`](crate::HostBuffer) needs, where that is a way of its own.
#[cfg(any(target_os = "linux", target_os = "android", windows))]
fn open_for_host_buffers(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    crate::host_buffer::open_with_import(adapter, descriptor)
}

#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
fn open_for_host_buffers(_adapter: &wgpu::Adapter, _descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    None
}

/// Makes a shader module, with wgpu's runtime checks (bounds, loops, division) or without.
///
/// Checks halve the speed of a product (H200, Vulkan: 521 against 1,045 GB/s). Tests run every kernel both ways.
pub fn shader_module(device: &wgpu::Device, name: &str, source: &str, checks: bool) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(source.into()) };
    if checks {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: the source is one of the kernels compiled into this program. Ops check the shapes of all operands before a
    // kernel is dispatched, so indices stay within the bindings; all loops end after a count known from those shapes;
    // and the tests run every kernel with checks on as well and compare the results.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apples_own_gpus_are_told_from_others() {
        for (name, has) in [
            ("Apple M3 Max", true),
            ("Apple A17 Pro GPU", true),
            ("Apple Paravirtual device", false),
            ("Apple iOS simulator GPU", false),
            ("AMD Radeon Pro 5500M", false),
            ("Intel(R) UHD Graphics 630", false),
        ] {
            assert_eq!(has_simdgroup_matrices(name), has, "{name}");
        }
    }
}
