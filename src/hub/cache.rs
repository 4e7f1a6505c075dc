//! The cache as every client of the hub keeps it.
//!
//! ```text
//! models--ORG--NAME/refs/main                    the commit that a branch was at
//! models--ORG--NAME/blobs/HASH                   files by hash: sha256 of large ones, git's sha1 of small ones
//! models--ORG--NAME/blobs/HASH.incomplete        what has come of a download so far
//! models--ORG--NAME/snapshots/COMMIT/FILE        relative links into blobs
//! ```

use std::env::var_os;
use std::io;
use std::path::{Path, PathBuf};

use super::HubError;

/// The folder that holds all repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `org/name`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes on disk, unfinished downloads among them.
    pub bytes: u64,
    /// Downloads that have not come to their end.
    pub unfinished: usize,
    /// Commits, by name.
    pub snapshots: Vec<Snapshot>,
}

/// One commit of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its hash.
    pub commit: String,
    /// Branches and tags that were at it when they were last looked up.
    pub refs: Vec<String>,
    /// The folder with its files.
    pub folder: PathBuf,
}

/// Whether `text` can be the name of a repository: `org/name`, of letters, digits, `-`, `_` and `.`.
pub fn is_repository_name(text: &str) -> bool {
    let is_part = |part: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        // two dashes stand for the slash in the cache
        !part.is_empty() && part.chars().all(good) && !part.starts_with(['.', '-']) && !part.contains("--")
    };
    text.split_once('/').is_some_and(|(org, name)| is_part(org) && is_part(name))
}

impl Cache {
    /// The cache in `root`, which need not exist.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// Where every client of the hub looks: `HF_HUB_CACHE` (`HUGGINGFACE_HUB_CACHE` of older ones), `HF_HOME/hub`, or
    /// `huggingface/hub` in the user's cache folder. `None` for a user without a home.
    pub fn of_user() -> Option<Cache> {
        let set = |name| var_os(name).filter(|value| !value.is_empty());
        match set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
            Some(root) => Some(Cache::at(root)),
            None => Some(Cache::at(home()?.join("hub"))),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the repository `name`, which need not exist.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(format!("models--{}", name.replace('/', "--")))
    }

    /// The files of `name` at `revision`, a branch, a tag or a commit, as far as they are here; `None` where nothing is.
    pub fn snapshot(&self, name: &str, revision: &str) -> Option<PathBuf> {
        let folder = self.folder(name);
        let commit = match std::fs::read_to_string(folder.join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            // a download by commit leaves no branch behind
            Err(_) if revision == "main" => only_name(&folder.join("snapshots")).unwrap_or_default(),
            Err(_) => revision.to_owned(),
        };
        let is_name = !commit.is_empty() && !commit.contains(['/', '\\']) && !commit.starts_with('.');
        Some(folder.join("snapshots").join(commit)).filter(|snapshot| is_name && snapshot.is_dir())
    }

    /// Every model in the cache, by name.
    ///
    /// # Errors
    /// A folder that cannot be read; none when there is no cache.
    pub fn repositories(&self) -> Result<Vec<Repository>, HubError> {
        let mut found = Vec::new();
        for folder in folders(&self.root)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(name) = name.strip_prefix("models--") {
                found.push(repository(name.replacen("--", "/", 1), folder)?);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// The name of the only folder in `folder`.
fn only_name(folder: &Path) -> Option<String> {
    match &folders(folder).ok()?[..] {
        [one] => Some(one.file_name()?.to_string_lossy().into_owned()),
        _ => None,
    }
}

/// The folder of everything that clients of the hub keep: cache and token.
pub(super) fn home() -> Option<PathBuf> {
    let set = |name| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(etcetera::home_dir().ok()?.join(".cache")));
    set("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))
}

fn repository(name: String, folder: PathBuf) -> Result<Repository, HubError> {
    let (mut bytes, mut unfinished) = (0, 0);
    for blob in entries(&folder.join("blobs"))? {
        bytes += std::fs::metadata(&blob).map_or(0, |meta| meta.len());
        unfinished += usize::from(blob.extension().is_some_and(|extension| extension == "incomplete"));
    }
    let refs: Vec<(String, String)> = entries(&folder.join("refs"))?
        .into_iter()
        .filter_map(|path| {
            let commit = std::fs::read_to_string(&path).ok()?.trim().to_owned();
            Some((path.file_name()?.to_string_lossy().into_owned(), commit))
        })
        .collect();
    let mut snapshots = Vec::new();
    for folder in folders(&folder.join("snapshots"))? {
        let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let refs = refs.iter().filter(|(_, at)| *at == commit).map(|(name, _)| name.clone()).collect();
        snapshots.push(Snapshot { commit, refs, folder });
    }
    snapshots.sort_by(|a, b| a.commit.cmp(&b.commit));
    Ok(Repository { name, folder, bytes, unfinished, snapshots })
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// What is in a folder; nothing when there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let read = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(HubError::io("read", folder)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn names_of_repositories() {
        for good in ["Qwen/Qwen3.5-397B-A17B", "mlx-community/a_b.c"] {
            assert!(is_repository_name(good), "{good}");
        }
        for bad in ["", "model", "a/b/c", "/abs", "../up", "./here", "a/..", "a--b/c", "a/-b", "a b/c", "a\\b/c"] {
            assert!(!is_repository_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_branch_leads_to_its_commit_and_not_out_of_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        assert_eq!(cache.repositories().unwrap(), []);
        let folder = cache.folder("org/name");
        std::fs::create_dir_all(folder.join("snapshots/abc")).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::create_dir_all(folder.join("blobs")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc\n").unwrap();
        std::fs::write(folder.join("blobs/1"), "12345").unwrap();
        std::fs::write(folder.join("blobs/2.incomplete"), "123").unwrap();
        assert_eq!(cache.snapshot("org/name", "main"), Some(folder.join("snapshots/abc")));
        assert_eq!(cache.snapshot("org/name", "abc"), Some(folder.join("snapshots/abc")));
        assert_eq!(cache.snapshot("org/name", "v1"), None);
        assert_eq!(cache.snapshot("org/name", ".."), None);
        let found = cache.repositories().unwrap();
        let [repository] = &found[..] else { panic!("{found:?}") };
        assert_eq!((repository.name.as_str(), repository.bytes, repository.unfinished), ("org/name", 8, 1));
        assert_eq!(repository.snapshots[0].refs, ["main"]);
        std::fs::remove_file(folder.join("refs/main")).unwrap();
        assert_eq!(cache.snapshot("org/name", "main"), Some(folder.join("snapshots/abc")), "the only one");
        std::fs::create_dir_all(folder.join("snapshots/def")).unwrap();
        assert_eq!(cache.snapshot("org/name", "main"), None, "either");
    }
}
