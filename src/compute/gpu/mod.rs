//! A GPU as a device: one wgpu submission per synchronisation point of a recording.

mod autotune;
mod caches;
mod cooperative;
mod device;
mod encoding;
mod experts;
mod logits;
mod one_operation;
mod pipelines;
mod prepared;
mod profile;
mod readback;
mod ready;
mod resident;
mod slots;
mod spans;
mod staging;
mod state;
mod upload;

pub(crate) use autotune::Teams;
pub(crate) use device::{GpuExecutor, GpuOptions};
pub use flashflood_backends::gpu::{Adapters, Gpu, open};

pub(crate) use one_operation::{OperationTime, Written};
pub(crate) use profile::bandwidth;
pub(crate) use slots::GpuSlots;
pub(crate) use slots::Landing;
