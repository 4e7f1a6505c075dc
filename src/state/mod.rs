//! The state of a session that is kept beside the live one: checkpoints in memory, session files on disk.
//!
//! Attention can forget the last tokens by itself, because its cache has a row for every position. The recurrent state
//! of a gated delta-net cannot: after a token there is no way back to before it. So a prompt that shares its beginning
//! with the last one, as every turn of a conversation does, needs a copy of the recurrent state from where they part,
//! or it is computed from its first token.

mod boundaries;
mod checkpoints;
mod codes;
mod error;
mod file;
mod folder;
mod identity;
mod memory;

pub(crate) use boundaries::{chat_boundaries, common_prefix};
pub use checkpoints::CheckpointOptions;
pub(crate) use checkpoints::{Checkpoint, Checkpoints, Reason};
pub use error::SessionFileError;
pub(crate) use file::{CACHE_BLOCK, Header, SessionReader, SessionWriter};
pub use folder::SessionFolder;
pub(crate) use folder::Usable;
pub(crate) use identity::Identity;
#[cfg(any(test, fuzzing))]
pub(crate) use identity::{LayerContent, StreamShape};
pub use memory::SessionMemory;
