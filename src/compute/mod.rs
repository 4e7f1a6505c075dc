//! Operations, the recording of them, and the step loop that runs a recording on a device.
//!
//! Model code appends typed, shape-checked operations to a [`Recording`]; a [`Runner`] goes through the list for every
//! step. With [`gpu::GpuDevice`] the list becomes one submission per synchronisation point, [`cpu::CpuDevice`] runs the same
//! list with the CPU twin of each kernel. So the fallback on a machine with no GPU, the oracle of every kernel, and the tool
//! that finds a wrong one are one thing.

pub mod cpu;
mod device;
pub mod gpu;
mod kernel;
mod lower;
mod op;
pub mod ops;
mod recording;
mod routing;
mod run;
pub mod shaders;
mod step;

pub use device::{Choice, Device, ExpertLayer, LandedExpert};
pub use kernel::{Access, Binding, Dispatch, Immediates, Kernel, MatrixPart, ResidentLayout, Resource, Stage};
pub use lower::{Lowering, lower};
pub use op::Op;
pub use recording::{
    CacheFormat, CacheId, CacheSpec, CacheStream, Element, LayerState, MatrixId, Recorded, Recording, Rows, ShapeError,
    TensorId, TensorSpec, VectorId, View,
};
pub use run::Runner;
pub use step::{ExecuteError, KernelTime, LogitRows, Phase, ProfiledSteps, Step, TopLogits};
