//! flashflood runs Mixture-of-Experts language models that are far larger than memory.
//!
//! The few weights that every token needs stay resident; the experts, 95 % of the bytes, are read from the disk when
//! the router asks for them. One set of WGSL kernels runs through wgpu on Metal, Vulkan and DX12; the same list of
//! operations runs on the CPU where there is no GPU.
//!
//! A tour, in the order a token meets the code:
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
//! | [`session`] | one timeline of tokens |
//! | [`state`] | what of a timeline is kept beside it: checkpoints in memory, session files |
//! | [`check`] | every kernel against its CPU twin, on this device |
//! | `server` | the model over HTTP (cargo feature `server`) |

pub mod check;
pub mod compute;
pub mod engine;
pub mod experts;
pub mod formats;
pub mod generate;
pub mod hub;
pub mod model;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
pub mod state;
pub mod text;
