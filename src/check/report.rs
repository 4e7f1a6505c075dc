//! What a check has found, for people and for bug reports.

use std::collections::BTreeMap;

use serde::Serialize;

use super::compare::Apart;
use crate::compute::Step;
use flashflood_backends::gpu::Gpu;
use flashflood_backends::machine;

/// What a check has found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// Of this program.
    pub version: &'static str,
    /// Operating system and processor.
    pub system: String,
    /// What was checked.
    pub device: DeviceReport,
    /// The shapes that kernels ran at.
    pub shapes: String,
    /// One row for each kernel, phase and shape.
    pub rows: Vec<KernelRow>,
    /// Kernels that this device does not use, which is no fault.
    pub not_on_this_device: Vec<&'static str>,
    /// Kernels that should have been checked and were not: a fault, unless only some were asked for.
    pub not_checked: Vec<&'static str>,
    /// What could not be run at all.
    pub failures: Vec<String>,
    /// The small model that is part of this crate, on the GPU and on the CPU; empty where only some kernels were asked for.
    pub small_moe: Vec<SmallMoeRow>,
    /// Seconds that it all took.
    pub seconds: f64,
}

impl CheckReport {
    /// Different kernels that were compared.
    pub fn kernels(&self) -> usize {
        let mut names: Vec<&str> = self.rows.iter().map(|row| row.kernel).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// All that is wrong, one line each: empty where the device computes what the CPU does.
    pub fn mismatches(&self) -> Vec<String> {
        // kernels of one operation are wrong together
        let mut rows: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| !row.agrees) {
            rows.entry((row.tokens, row.mismatch())).or_default().push(row.kernel);
        }
        let rows = rows.into_iter().map(|((_, what), kernels)| format!("{}: {what}", kernels.join(", ")));
        let small = self.small_moe.iter().filter(|row| !row.agrees).map(SmallMoeRow::mismatch);
        let missing = (!self.not_checked.is_empty()).then(|| format!("{}: not checked", self.not_checked.join(", ")));
        rows.chain(small).chain(self.failures.iter().cloned()).chain(missing).collect()
    }
}

/// The GPU, its driver and its limits.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// Name.
    pub name: String,
    /// Such as Vulkan or Metal.
    pub backend: String,
    /// Such as DiscreteGpu; Cpu for a software driver.
    pub kind: String,
    /// Driver and its version.
    pub driver: String,
    /// PCI vendor.
    pub vendor: u32,
    /// PCI device.
    pub device: u32,
    /// Least and most threads of a subgroup.
    pub subgroups: (u32, u32),
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Largest binding, in bytes.
    pub max_binding: u64,
    /// Most threads of a workgroup.
    pub max_threads: u32,
    /// Most bytes of workgroup memory.
    pub max_workgroup_memory: u32,
    /// Most storage buffers of a stage.
    pub max_storage_buffers: u32,
    /// Whether it times kernels.
    pub timestamps: bool,
    /// Whether it computes in 16 bits.
    pub f16: bool,
    /// The size of its matrix units, if kernels know them.
    pub matrix_units: Option<String>,
    /// GB/s at which a kernel that does nothing else reads memory.
    pub bandwidth_gb_per_s: Option<f64>,
}

impl DeviceReport {
    pub(super) fn of(gpu: &Gpu, bandwidth: Option<f64>) -> Self {
        let (info, limits) = (&gpu.info, &gpu.limits);
        DeviceReport {
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            vendor: info.vendor,
            device: info.device,
            subgroups: (info.subgroup_min_size, info.subgroup_max_size),
            max_buffer: limits.max_buffer_size,
            max_binding: limits.max_storage_buffer_binding_size,
            max_threads: limits.max_compute_invocations_per_workgroup,
            max_workgroup_memory: limits.max_compute_workgroup_storage_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            timestamps: gpu.adapter_features.contains(flashflood_backends::gpu::TIMESTAMPS),
            f16: gpu.adapter_features.contains(flashflood_backends::gpu::SHADER_F16),
            matrix_units: gpu.matrix_units.map(|units| units.to_string()),
            bandwidth_gb_per_s: bandwidth.map(|rate| rate / 1e9),
        }
    }
}

/// The operating system and the processor.
pub(super) fn system() -> String {
    format!("{}, {}", machine::system(), machine::processor())
}

/// Who took a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimedBy {
    /// Timestamps of the device around the kernel.
    Device,
    /// The host around submissions of the whole operation, its kernels together.
    Host,
}

/// A kernel at one shape against its CPU twin.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// Name, with the form of activations and the weight format.
    pub kernel: &'static str,
    /// Tokens of the step: 1 is decode, more are a prompt.
    pub tokens: usize,
    /// Rows and columns of a product, else columns of the output.
    pub shape: String,
    /// Operations of this kernel and shape that were compared.
    pub operations: usize,
    /// Whether all outputs are within their tolerances.
    pub agrees: bool,
    /// The largest error, as a share of its tolerance; none where it is not a number. Kernels of one operation have the
    /// operation's.
    pub error: Option<f32>,
    /// The largest difference; none where it is not a number.
    pub largest_difference: Option<f32>,
    /// The tensor with the largest error.
    pub tensor: String,
    /// Microseconds of one run, repeated alone: weights may come from the caches of the device.
    pub us: Option<f64>,
    /// Who took them.
    pub timed_by: Option<TimedBy>,
    /// Of weights, in decode.
    pub gb_per_s: Option<f64>,
    /// Of products, in prompts.
    pub gflop_per_s: Option<f64>,
}

impl KernelRow {
    pub(super) fn new(kernel: &'static str, step: Step, shape: String, apart: Apart, tensor: &str) -> Self {
        let number = |v: f32| v.is_finite().then_some(v);
        KernelRow {
            kernel,
            tokens: step.tokens,
            shape,
            operations: 1,
            // also for NaN
            agrees: apart.share <= 1.0,
            error: number(apart.share),
            largest_difference: number(apart.most),
            tensor: tensor.to_owned(),
            us: None,
            timed_by: None,
            gb_per_s: None,
            gflop_per_s: None,
        }
    }

    /// Adds what another operation of this kernel and shape has shown: the worse error; the time is that of the first.
    pub(super) fn join(&mut self, other: KernelRow) {
        let share = |row: &KernelRow| row.error.unwrap_or(f32::INFINITY);
        if share(&other) > share(self) {
            (self.error, self.tensor) = (other.error, other.tensor);
        }
        let most = |row: &KernelRow| row.largest_difference.unwrap_or(f32::INFINITY);
        let largest = most(self).max(other.largest_difference.unwrap_or(f32::INFINITY));
        self.largest_difference = largest.is_finite().then_some(largest);
        self.agrees &= other.agrees;
        self.operations += other.operations;
    }

    /// What is wrong, without the kernel's name.
    fn mismatch(&self) -> String {
        let phase = if self.tokens == 1 { "decode".to_owned() } else { format!("a prompt of {} tokens", self.tokens) };
        let error = match self.error {
            Some(error) => format!("{error:.1} times its tolerance"),
            None => "not a number, or beyond any tolerance".to_owned(),
        };
        format!("shape {} in {phase}: the error in {} is {error}", self.shape, self.tensor)
    }
}

/// The small model with one form of activations, on the GPU and on the CPU.
#[derive(Clone, Debug, Serialize)]
pub struct SmallMoeRow {
    /// What products multiply weights with.
    pub activations: &'static str,
    /// Whether the text is the CPU's, or is another where the CPU's logits are a near tie, and logits are within the
    /// tolerance as long as the text is the same.
    pub agrees: bool,
    /// Tokens that were written.
    pub tokens: usize,
    /// Tokens of them before the first that is not the CPU's.
    pub same_tokens: usize,
    /// The largest difference of logits, as a share of the largest logit; none where it is not a number.
    pub logits_apart: Option<f32>,
    /// How much that may be.
    pub tolerance: f32,
    /// Decode.
    pub gpu_tokens_per_s: f64,
    /// Decode.
    pub cpu_tokens_per_s: f64,
    /// What the GPU wrote.
    pub text: String,
}

impl SmallMoeRow {
    fn mismatch(&self) -> String {
        let apart =
            self.logits_apart.map_or("not numbers".to_owned(), |apart| format!("{apart:.0e} of the largest apart"));
        format!(
            "the small model ({}): {} of {} tokens are the CPU's, logits are {apart}, allowed are {:.0e}",
            self.activations, self.same_tokens, self.tokens, self.tolerance
        )
    }
}
