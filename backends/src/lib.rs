//! What differs per platform: files, memory, GPU devices. All unsafe code of flashflood is here.

mod map;

pub use map::{Mapped, map_file};
