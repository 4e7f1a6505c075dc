//! What differs per platform: files, memory, GPU devices. All unsafe code of flashflood is here.

pub mod gpu;
pub mod io;
mod map;
pub mod memory;
pub mod positioned;

pub use map::{Mapped, map_file};
