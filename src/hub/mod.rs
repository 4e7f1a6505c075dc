//! The Hugging Face hub: its cache on this machine, which other programs share, and downloads into it. And where other
//! programs keep the models that they have downloaded.

mod cache;
mod client;
mod download;
mod error;
mod hash;
mod lm_studio;
mod name;
mod ollama;
mod patience;
mod verify;

pub use cache::{Cache, Repository, is_repository_name};

pub use client::Hub;
pub(crate) use client::{RepositoryFile, Revision};
pub use download::{Pull, Pulled, Report};
pub use error::HubError;
pub use lm_studio::lm_studio_folders;
pub use name::ModelName;
pub use ollama::{OllamaModel, OllamaStore};
pub use verify::{DownloadReport, Verified, verify_downloaded};
