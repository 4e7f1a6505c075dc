//! Operations, the recording of them, and the step loop that runs a recording on a device.
//!
//! Model code appends typed, shape-checked operations to a [`Recording`]; a [`Runner`] goes through the list for every
//! step. With `gpu::GpuDevice` the list becomes one submission per synchronisation point, `cpu::CpuDevice` runs
//! the same list with the CPU twin of each kernel. So the fallback on a machine with no GPU, the oracle of every kernel, and the tool
//! that finds a wrong one are one thing.

pub(crate) mod cpu;
mod device;
pub mod gpu;
mod kernel;
mod lower;
mod op;
pub mod ops;
mod recording;
pub(crate) mod routing;
mod run;
pub mod shaders;
mod step;

pub(crate) use device::Device;
#[cfg(test)]
pub(crate) use kernel::{Dispatch, ExpertSlab, Kernel, MatrixPart, ResidentLayout, Resource, Stage};
pub use lower::KvFormat;
pub(crate) use lower::{Lowering, lower};
pub(crate) use op::Op;
#[cfg(test)]
pub(crate) use recording::MatrixId;
pub(crate) use recording::{
    CacheId, CacheStream, Element, LayerState, Recorded, Recording, ShapeError, TensorId, TensorSpec, VectorId, View,
};
pub(crate) use run::{LayerRunner, Runner};
pub(crate) use step::LogitsSummary;
pub(crate) use step::{ExecuteError, Phase, Step};
pub use step::{HostWork, KernelTime, LogitRows, ProfiledSteps, Span};
#[cfg(test)]
pub(crate) use step::{RunTotal, TopLogits};
