//! What differs per platform: files, folders, memory, GPU devices. All unsafe code of flashflood is here.

mod aligned;
pub mod conditions;
mod descriptors;
pub mod folders;
pub mod gpu;
mod host_buffer;
pub mod io;
#[cfg(unix)]
mod last_words;
mod lost_pages;
pub mod machine;
mod map;
pub mod memory;
pub mod new_files;
mod no_memory;
mod origin;
pub mod positioned;
mod residency;

pub use aligned::{AlignedBuffer, PAGE};
pub use descriptors::descriptors;
pub use host_buffer::{HostBuffer, NoHostBuffer, Region};
pub use lost_pages::explain_lost_pages;
pub use map::{MapOutcome, Mapped, map_file, read_parts_of_file};
pub use no_memory::{NO_MEMORY_HINT, NO_THREADS_HINT, RememberingAllocator, explain_no_memory, forget_refused};
pub use origin::{Origin, origin};
pub use residency::Residency;
