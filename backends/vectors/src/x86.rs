//! x86-64. Only loads and stores are unsafe in functions that are compiled for the instructions they use.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avx_vnni;
mod ymm;
