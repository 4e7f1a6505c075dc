//! The GPU executor: turns a recording into one wgpu submission per synchronisation point.

mod autotune;
mod cooperative;
mod encoding;
mod executor;
mod experts;
mod one_operation;
mod pipelines;
mod profile;
mod readback;
mod resident;
mod slots;
mod staging;
mod state;

pub use autotune::Teams;
pub use executor::{GpuExecutor, GpuOptions};
pub use flashflood_backends::gpu::{Adapters, Gpu, GpuError, open};
pub use one_operation::{OperationTime, Written};
pub use profile::bandwidth;
pub use slots::{GpuSlots, Landing};
