//! The processor as a device: the CPU twin of each kernel.
//!
//! It is the oracle that the GPU kernels are tested against, and the engine on a machine without a GPU.

mod device;
mod memory;
mod product;
mod profile;

pub(crate) use device::CpuExecutor;
pub(crate) use memory::CpuMemory;
pub(crate) use memory::{row, row_mut};
pub(crate) use product::{by_token, expert_product, matrix_product};

/// Elements that are worth waking a thread for, which takes 5 to 10 us.
const WORTH_A_THREAD: usize = 1 << 14;

/// How many of something a thread takes at least, when one of them is work on so many elements.
pub(crate) fn at_least(elements: usize) -> usize {
    WORTH_A_THREAD.div_ceil(elements.max(1))
}
