//! aarch64. Only loads and stores are unsafe in functions that are compiled for the instructions they use.

pub(crate) mod dotprod;
pub(crate) mod i8mm;
mod lanes;
pub(crate) mod neon;
