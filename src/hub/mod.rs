//! The Hugging Face hub: its cache on this machine, which other programs share, and downloads into it.

mod cache;
mod client;
mod download;
mod error;
mod hash;
mod name;
mod patience;

pub use cache::{Cache, is_repository_name};

pub use client::Hub;
pub(crate) use client::{RepositoryFile, Revision};
pub use download::{Pull, Pulled, Report};
pub use error::HubError;
pub use name::ModelName;
