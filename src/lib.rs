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
//! other programs should use. The modules below are open for tests, benches and readers; they change more often.
//!
//! # A tour
//!
//! In the order a token meets the code:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`formats`] | safetensors, the pack format, quantisation: bytes on disk |
//! | [`model`] | configuration, weights by name, and `forward`, which records the operations of a token |
//! | [`compute`] | the operations (shape check, CPU twin, GPU dispatch), the recording, and its two executors |
//! | [`experts`] | where an expert's bytes lie, the slots they are read into, what is kept |
//! | [`text`] | tokenizer, chat template, sampler |
//! | [`engine`] | opens a model and decides the memory plan |
//! | [`hub`] | the Hugging Face cache on this machine |
//! | [`request`] | what is asked, and how it becomes tokens |
//! | [`session`] | one timeline of tokens |
//! | [`state`] | what of a timeline is kept beside it: checkpoints in memory, session files |
//! | [`mod@check`] | every kernel against its CPU twin, on this device |
//! | `server` | the model over HTTP (cargo feature `server`) |

pub mod check;
pub mod compute;
pub mod engine;
pub mod experts;
pub mod formats;
pub mod generate;
pub mod hub;
pub mod model;
pub mod request;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod state;
pub mod text;

pub use check::{CheckError, CheckOptions, CheckReport, CheckShapes, check};
pub use engine::{
    Activations, Device, Engine, EngineError, EngineOptions, ExpertBudget, MemoryPlan, OpenRequest, Suspension,
    bytes_for_people,
};
pub use experts::{Reads, StoreStats};
pub use generate::{Event, Finish, Generated};
pub use request::{Language, Prepared, Prompt, Request, RequestError, RequestErrorKind, ToolChoice};
pub use session::{LogProbabilities, PrefillProgress, Restored, Session, SessionError, Synced};
pub use state::{CheckpointOptions, SessionFileError, SessionFolder};
pub use text::{Content, Message, SamplerOptions, ToolCall};

/// The README's example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
