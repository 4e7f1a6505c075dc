//! The processor as a device: the CPU twin of each kernel.
//!
//! It is the oracle that the GPU kernels are tested against, and the engine on a machine without a GPU.

mod device;
mod memory;
mod product;

pub(crate) use device::CpuExecutor;
pub(crate) use memory::CpuMemory;
pub(crate) use memory::{row, row_mut};
pub(crate) use product::{expert_product, matrix_product};
