//! Operations, the recording of them, and the two executors that run a recording.
//!
//! Model code appends typed, shape-checked operations to a [`Recording`]; [`gpu::GpuExecutor`] turns the list into one
//! submission per synchronisation point, [`cpu::CpuExecutor`] runs the same list with the CPU twin of each kernel. So
//! the fallback on a machine with no GPU, the oracle of every kernel, and the tool that finds a wrong one are one thing.

pub mod cpu;
mod executor;
pub mod gpu;
mod kernel;
pub mod ops;
mod recording;
mod routing;
pub mod shaders;

pub use executor::{ExecuteError, Executor, KernelTime, LogitRows, Phase, ProfiledSteps, Step, TopLogits};
pub use kernel::{Access, Binding, Dispatch, Immediates, Kernel, MatrixPart, ResidentLayout, Resource, Stage};
pub use recording::{
    Element, KvId, KvSpec, MatrixId, Recorded, Recording, Rows, ShapeError, TensorId, TensorSpec, VectorId, View,
};
