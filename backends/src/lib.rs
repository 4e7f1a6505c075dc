//! What differs per platform: files, memory, GPU devices. All unsafe code of flashflood is here.

pub mod io;
pub mod memory;
