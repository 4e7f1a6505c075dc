//! What can go wrong with the hub and its cache.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The file system.
    #[error("{path}: cannot {action}: {source}", path = .path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that is no longer what was downloaded.
    #[error(
        "{path}: expected the hash {expected}, found {found}\nhint: the file was damaged or changed since it was downloaded; \
         remove it and pull the model again", path = .path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it was published with.
        expected: String,
        /// What it has.
        found: String,
    },
    /// The user has no home folder, and nothing else says where the cache is.
    #[error("no folder for the Hugging Face cache (hint: set HF_HOME)")]
    NoCache,
    /// Not `org/name`.
    #[error("'{name}': expected the name of a repository, such as mlx-community/Qwen3.5-397B-A17B-4bit")]
    Name {
        /// As given.
        name: String,
    },
    /// Not a branch, a tag or a commit.
    #[error("'{revision}': expected a branch, a tag or a commit")]
    RevisionName {
        /// As given.
        revision: String,
    },
    /// This processor lacks what TLS is made with.
    #[error(
        "no HTTPS on this processor: TLS here needs the AES and wide-multiply instructions of processors since about \
         2014 (hint: download with another program into the Hugging Face cache)"
    )]
    NoTls,
    /// The hub does not know us, or not well enough.
    #[error("{url}: {status}: access to {name} is denied\nhint: {hint}")]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The repository.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// No such repository, revision or file.
    #[error("{url}: 404: {what} (hint: check the name at {endpoint})")]
    NotFound {
        /// What was asked for.
        url: String,
        /// What does not exist.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// Any other answer that is no success.
    #[error("{url}: the hub answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// It has no time for us, however often it is asked.
    #[error("{url}: the hub answered {status}{}\nhint: {hint}", if *.tries > 1 { format!(", {tries} times") } else { String::new() })]
    Busy {
        /// What was asked for.
        url: String,
        /// 429, or one of a server that is out of order.
        status: u16,
        /// Times that it was asked.
        tries: u32,
        /// What to do about it.
        hint: String,
    },
    /// An answer that is not what the hub's are.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The network.
    #[error("{url}: {cause}\nhint: {hint}")]
    Network {
        /// What was asked for.
        url: String,
        /// Why it did not come.
        cause: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// No file of the repository is wanted.
    #[error("{name}: none of its {files} files matches {wanted} (hint: --include '*' takes all)")]
    NothingToPull {
        /// The repository.
        name: String,
        /// Files that there are.
        files: usize,
        /// Patterns.
        wanted: String,
    },
    /// The repository has no weights but GGUF files, and which are wanted is not said.
    #[error(
        "{name}: expected weights as safetensors, found GGUF files: {found} (hint: flashflood pull {name}:{first} \
         fetches those of one quantisation)"
    )]
    OnlyGguf {
        /// The repository.
        name: String,
        /// The quantisations that it has.
        found: String,
        /// One of them.
        first: String,
    },
    /// No such quantisation.
    #[error("{name}: expected GGUF files of {wanted}, found {found}")]
    NoQuantisation {
        /// The repository.
        name: String,
        /// As asked for.
        wanted: String,
        /// The quantisations that it has.
        found: String,
    },
    /// The disk is too small.
    #[error(
        "{name}: {needed} are still to come, and {free} are free in {path} (hint: make room, or set HF_HUB_CACHE to a \
         folder on a larger disk)",
        path = .path.display()
    )]
    NoRoom {
        /// The repository.
        name: String,
        /// For people.
        needed: String,
        /// For people.
        free: String,
        /// Where.
        path: PathBuf,
    },
    /// What came is not what the hub promised, twice.
    #[error(
        "{url}: expected {expected}, found {found}, twice (hint: something between here and the hub changes files)"
    )]
    Damaged {
        /// What was asked for.
        url: String,
        /// Hash.
        expected: String,
        /// Hash.
        found: String,
    },
    /// Another process downloads the same file.
    #[error("{path}: another process is downloading this file (hint: wait for it to end)", path = .path.display())]
    Locked {
        /// The unfinished file.
        path: PathBuf,
    },
    /// Offline, and not here.
    #[error("{name}: {missing}, and {why} (hint: flashflood pull {name}, with a network)")]
    Offline {
        /// The repository.
        name: String,
        /// What is not in the cache.
        missing: String,
        /// What forbids the network.
        why: &'static str,
    },
    /// The caller wanted no more.
    #[error("interrupted")]
    Interrupted,
}

impl HubError {
    /// For `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_owned();
        move |source| HubError::Io { action, path, source }
    }
}
