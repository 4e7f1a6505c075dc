//! A GPU as a device: one wgpu submission per synchronisation point of a recording.

mod autotune;
mod cooperative;
mod device;
mod encoding;
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
pub use device::{GpuDevice, GpuExecutor, GpuOptions};
pub use flashflood_backends::gpu::{Adapters, Gpu, GpuError, open};
pub use one_operation::{OperationTime, Written};
pub use profile::bandwidth;
pub use slots::{GpuSlots, Landing};
