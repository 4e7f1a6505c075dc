//! The GPU: which one, its limits, and whether it computes what the CPU does.

use flashflood::compute::LogitRows;
use flashflood::engine::{Activations, Device, Engine, EngineOptions, OpenedDevice};
use flashflood::model::ModelSource;
use flashflood_backends::gpu::GpuError;

use super::{Finding, bytes_for_people, wants_gpu};

/// Tokens that the check of kernels reads: enough for products of several rows.
const TOKENS: u32 = 48;
/// What products multiply with, and by how much of the largest logit the results may differ: sums of f32 in another
/// order, through all layers; and now and then an activation that rounds to the next of 255 steps.
const FORMS: [(Activations, &str, f32); 2] = [(Activations::F32, "f32", 1e-3), (Activations::Int8, "int8", 5e-2)];

/// Which device models run on.
pub(super) fn adapter(device: &Result<OpenedDevice, GpuError>, wanted: Device) -> Finding {
    let check = "device";
    match device {
        Ok(OpenedDevice::Gpu(gpu)) => {
            let (info, limits) = (&gpu.info, &gpu.limits);
            let has = |feature, name: &'static str| gpu.adapter_features.contains(feature).then_some(name);
            let features = [
                has(flashflood_backends::gpu::SHADER_F16, "f16"),
                has(flashflood_backends::gpu::TIMESTAMPS, "timestamps"),
            ];
            let features: Vec<&str> = features.into_iter().flatten().collect();
            let text = format!(
                "{} ({:?}, {:?}) {} {}; buffers up to {}, bindings up to {}; subgroups of {} to {}; {}",
                info.name,
                info.backend,
                info.device_type,
                info.driver,
                info.driver_info,
                bytes_for_people(limits.max_buffer_size),
                bytes_for_people(limits.max_storage_buffer_binding_size),
                info.subgroup_min_size,
                info.subgroup_max_size,
                if features.is_empty() { "neither f16 nor timestamps".to_owned() } else { features.join(", ") },
            );
            match gpu.is_software() {
                true => Finding::warn(check, text, "this is a software driver: --device cpu is faster"),
                false => Finding::pass(check, text),
            }
        }
        Ok(cpu) if !wants_gpu(wanted) => Finding::pass(check, cpu.name()),
        Ok(cpu) => {
            let hint = "no GPU was found: on Linux install its Vulkan driver, on Windows its vendor's driver";
            Finding::warn(check, cpu.name(), hint)
        }
        Err(error) => {
            let mut finding = Finding::fail(check, &anyhow::anyhow!(error.to_string()));
            finding.hint = finding.hint.or_else(|| Some("--device cpu runs without a GPU".to_owned()));
            finding
        }
    }
}

/// Runs the small model that is part of the program on the GPU and on the CPU, in both forms of products: all kernels,
/// compiled by this driver.
pub(super) fn kernels(gpu: &OpenedDevice) -> Finding {
    let check = "kernels";
    let mut apart = Vec::new();
    for (form, name, tolerance) in FORMS {
        let share = match difference(form) {
            Ok(share) => share,
            Err(error) => {
                return Finding::fail(check, &error.context(format!("{}: a small model does not run", gpu.name())));
            }
        };
        if share > tolerance {
            let text = format!("{}: logits differ from the CPU's by {share:.0e} of the largest ({name})", gpu.name());
            return Finding::fail(
                check,
                &anyhow::anyhow!("{text} (hint: update the driver; --device cpu runs without it)"),
            );
        }
        apart.push(format!("{share:.0e} ({name})"));
    }
    Finding::pass(check, format!("compiled; a small model's logits are the CPU's within {}", apart.join(" and ")))
}

/// How far logits of the GPU are from the CPU's, as a share of the largest.
fn difference(activations: Activations) -> anyhow::Result<f32> {
    let logits = |device: Device| -> anyhow::Result<Vec<f32>> {
        let context = Some(TOKENS as usize);
        let options = EngineOptions { device, activations, context, ..EngineOptions::default() };
        let mut engine = Engine::from_source(ModelSource::embedded()?, &options)?;
        let ids: Vec<u32> = (0..TOKENS).map(|i| 1 + i * 37 % 1000).collect();
        let mut session = engine.session()?;
        session.extend(&ids[..ids.len() - 1], LogitRows::Last, |_, _| true)?;
        session.decode(ids[ids.len() - 1])?;
        Ok(session.logits()?)
    };
    let (found, expected) = (logits(Device::Gpu)?, logits(Device::Cpu)?);
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // NaN is as far as can be; max would pass it over
    Ok(apart.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max) / largest)
}
