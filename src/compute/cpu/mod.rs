//! The CPU executor: runs a recording with the CPU twin of each kernel.
//!
//! It is the oracle that the GPU kernels are tested against, and the engine on a machine without a GPU.

mod executor;
mod memory;
mod product;
mod quantised;
mod unpack;

pub use executor::CpuExecutor;
pub use memory::{CpuKv, CpuMemory};
pub(crate) use memory::{row, row_mut};
pub(crate) use product::{TokenRows, expert_product, matrix_product};
pub(crate) use quantised::{Int8Row, pack_row};
