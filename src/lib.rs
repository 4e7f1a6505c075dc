//! flashflood runs Mixture-of-Experts language models that are far larger than memory.
//!
//! The few weights that every token needs stay resident; the experts, 95 % of the bytes, are read from the disk when
//! the router asks for them. One set of WGSL kernels runs through wgpu on Metal, Vulkan and DX12; the same list of
//! operations runs on the CPU where there is no GPU.
//!
//! # Using it
//!
//! An [`Engine`] is a loaded model, a [`Session`] one timeline of tokens on it, an [`Event`] what happens while an answer
//! is made. A [`Request`] says what is asked, and the engine's [`Language`] turns it into tokens:
//!
//! The README has an example.
//!
//! The items of the crate root are what the commands `run`, `chat` and `serve` and the C library are made of, and what
//! other programs should use. Of the modules below that is open which the commands and benches use; it changes more often.
//! `cargo doc --document-private-items` shows the whole house.
//!
//! # A tour
//!
//! In the order a token meets the code:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`request`] | what is asked, and how it becomes tokens |
//! | [`text`] | chat template, tokenizer, sampler, grammars, and how families write thoughts and calls |
//! | [`generate`] | from a prompt to an answer, one token after the other, as events |
//! | [`session`] | one timeline of tokens |
//! | [`state`] | what of a timeline is kept beside it: checkpoints in memory, session files |
//! | [`engine`] | opens a model, decides where memory goes, and how fast to work |
//! | [`model`] | the families, and what a token does, recorded as plain operations |
//! | [`compute`] | the operations (shape check, CPU twin, GPU dispatch), how a recording is lowered, and the loop that runs it |
//! | [`experts`] | the slots that experts are read into, what is kept |
//! | [`weights`] | matrices and their formats, and where they come from: snapshots, packs, random numbers |
//!
//! Beside that way:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`mod@calibrate`] | what the experts of a model see of a text, for packs of few bits |
//! | [`mod@check`] | every kernel against its CPU twin, on this device |
//! | `hub` | the Hugging Face cache on this machine, and downloads to it (cargo feature `hub`) |
//! | `server` | the model over HTTP (cargo feature `server`) |
//!
//! The floors of the house, which room may know which, are in CONTRIBUTING.md.

pub mod calibrate;
pub mod check;
pub mod compute;
pub mod engine;
pub mod experts;
mod file_error;
pub mod generate;
#[cfg(feature = "hub")]
pub mod hub;
pub mod model;
pub mod request;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
mod sizes;
pub mod state;
pub mod text;
pub mod weights;

// readers of what strangers wrote, for `cargo fuzz` (CONTRIBUTING.md)
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/readers.rs"]
pub mod foreign;

// suites that look inside, and what they take from the program
#[cfg(test)]
extern crate self as flashflood;
#[cfg(test)]
#[path = "../tests/inside/mod.rs"]
mod inside;

pub use check::{CheckError, CheckOptions, CheckReport, CheckShapes, check};
pub use engine::{
    Activations, Device, Engine, EngineError, EngineOptions, ExpertBudget, KvFormat, MemoryPlan, OpenRequest,
    Suspension,
};
#[cfg(feature = "server")]
pub(crate) use engine::{Activity, Watcher};
pub use experts::{Reads, StoreStats};
pub use file_error::FileError;
pub use generate::{Event, Finish, Generated};
pub use model::RopeScaling;
pub use request::{Language, Prepared, Prompt, Request, RequestError, RequestErrorKind, ToolChoice};
pub use session::{LogProbabilities, PrefillProgress, Restored, Session, SessionError, Synced};
pub use sizes::bytes_for_people;
pub use state::{CheckpointOptions, SessionFileError, SessionFolder, SessionMemory};
pub use text::{Content, Message, SamplerOptions, ToolCall};

/// The README's example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
