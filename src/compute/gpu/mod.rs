//! The GPU executor: turns a recording into one wgpu submission per synchronisation point.

mod executor;
mod pipelines;
mod readback;
mod resident;
mod slots;

pub use executor::{GpuExecutor, GpuOptions};
pub use flashflood_backends::gpu::{Adapters, Gpu, GpuError, open};
pub use slots::GpuSlots;
