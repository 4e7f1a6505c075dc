//! Requests to the hub: what a repository holds, and ranges of its files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::cache::home;
use super::hash::Expected;
use super::patience::{Patience, asked_for, is_passing};
use super::{HubError, is_repository_name};

/// A hub to download from.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: Agent,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    /// Hash of the commit.
    pub commit: String,
    /// Its files.
    pub files: Vec<RepositoryFile>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub(crate) struct RepositoryFile {
    /// Path in the repository, with `/`.
    pub name: String,
    /// Length.
    pub bytes: u64,
    pub(super) hash: Expected,
}

/// The answer of the hub's API, as far as it is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// The token that lets the user read gated and private models: `HF_TOKEN`, or the file that `hf auth login` writes.
pub(super) fn token() -> Option<String> {
    let set =
        |name: &str| std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let file = || set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
    let read = |path: PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    set("HF_TOKEN").or_else(|| read(file()?).filter(|token| !token.is_empty()))
}

impl Hub {
    /// Whether the user forbids the network: `HF_HUB_OFFLINE`.
    pub fn is_forbidden() -> bool {
        let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    }

    /// Whether the user has a token.
    pub fn has_token() -> bool {
        token().is_some()
    }

    /// The hub at `HF_ENDPOINT`, or huggingface.co, with the user's token.
    ///
    /// # Errors
    /// A processor that cannot do TLS.
    pub fn of_user() -> Result<Hub, HubError> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = if endpoint.is_empty() { "https://huggingface.co" } else { endpoint.trim_end_matches('/') };
        let mut config = Agent::config_builder()
            .user_agent(concat!("flashflood/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // files come from other hosts, which the token is not for
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        if can_do_tls() {
            let provider = Arc::new(rustls_graviola::default_provider());
            config = config.tls_config(TlsConfig::builder().unversioned_rustls_crypto_provider(provider).build());
        } else if endpoint.starts_with("https:") {
            return Err(HubError::NoTls);
        }
        Ok(Hub { endpoint: endpoint.to_owned(), token: token(), agent: config.build().new_agent() })
    }

    /// What the repository `name` holds at `revision`, a branch, a tag or a commit.
    ///
    /// # Errors
    /// The network, an answer that is no success, and one that is not what the hub's are.
    pub(super) fn revision(&self, name: &str, revision: &str, patience: &Patience<'_>) -> Result<Revision, HubError> {
        if !is_repository_name(name) {
            return Err(HubError::Name { name: name.to_owned() });
        }
        let url = format!("{}/api/models/{name}/revision/{}?blobs=true", self.endpoint, escaped(revision, false));
        let mut answer = self.get(&url, name, None, patience)?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().map_err(|e| network(&url, &e))?;
        let wrong = |expected, found: String| HubError::Answer { url: url.clone(), expected, found };
        let info: Info = serde_json::from_str(&text).map_err(|e| wrong("a list of files", e.to_string()))?;
        if info.sha.is_empty() || !info.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong("the hash of a commit", info.sha));
        }
        let file = |sibling: Sibling| {
            // a name becomes a path on this machine
            let parts = || sibling.rfilename.split('/');
            let is_inside = parts().all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']));
            let (bytes, hash) = match sibling.lfs {
                Some(lfs) => (Some(lfs.size), Some(Expected::Sha256(lfs.sha256))),
                None => (sibling.size, sibling.blob_id.map(Expected::GitBlob)),
            };
            match (bytes, hash.filter(Expected::is_whole)) {
                (Some(bytes), Some(hash)) if is_inside => Ok(RepositoryFile { name: sibling.rfilename, bytes, hash }),
                _ => Err(wrong("a path, a size and a hash of each file", format!("{:?}", sibling.rfilename))),
            }
        };
        let files = info.siblings.into_iter().map(file).collect::<Result<_, _>>()?;
        Ok(Revision { commit: info.sha, files })
    }

    pub(super) fn url(&self, name: &str, commit: &str, file: &RepositoryFile) -> String {
        format!("{}/{name}/resolve/{commit}/{}", self.endpoint, escaped(&file.name, true))
    }

    /// The answer to a request of `url`, from byte `from` on where one is given. Only successes are answers, and 416
    /// (no such range) where a range was asked for. A hub that is busy is waited for.
    pub(super) fn get(
        &self,
        url: &str,
        name: &str,
        from: Option<u64>,
        patience: &Patience<'_>,
    ) -> Result<Response<Body>, HubError> {
        let mut tries = 1;
        let answer = loop {
            let mut request = self.agent.get(url);
            if let Some(token) = &self.token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let answer = request.call().map_err(|error| network(url, &error))?;
            let status = answer.status().as_u16();
            if !is_passing(status) {
                break answer;
            }
            if !patience.wait(status, answer.headers(), tries)? {
                return Err(self.busy(url, status, answer.headers(), tries));
            }
            tries += 1;
        };
        let status = answer.status().as_u16();
        match status {
            200 | 206 => Ok(answer),
            416 if from.is_some() => Ok(answer),
            401 | 403 => {
                let gate = format!("{}/{name} says whether it is gated: ask for access there", self.endpoint);
                let hint = match &self.token {
                    Some(_) => format!("the token that is set may not read it, or there is no such model; {gate}"),
                    None => format!("there is no such model, or it needs a token: set HF_TOKEN; {gate}"),
                };
                Err(HubError::Denied { url: url.to_owned(), status, name: name.to_owned(), hint })
            }
            404 => Err(HubError::NotFound {
                url: url.to_owned(),
                what: "there is no such model, revision or file".to_owned(),
                endpoint: self.endpoint.clone(),
            }),
            _ => Err(HubError::Status { url: url.to_owned(), status }),
        }
    }

    /// The error of a hub that was asked `tries` times and has no time.
    fn busy(&self, url: &str, status: u16, headers: &HeaderMap, tries: u32) -> HubError {
        let asked = asked_for(headers, SystemTime::now());
        let when = asked.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs()));
        let hint = match (status, &self.token) {
            (429, None) => format!("those with a token may ask more often: set HF_TOKEN, or try again {when}"),
            _ => format!("try again {when}: the same command goes on where it stopped"),
        };
        HubError::Busy { url: url.to_owned(), status, tries, hint }
    }
}

/// An error of the network, with what to do about it.
pub(super) fn network(url: &str, error: &ureq::Error) -> HubError {
    let hint = match error {
        ureq::Error::HostNotFound => "is there a network? HF_ENDPOINT names another hub, --local-only needs none",
        // wrapped in an error of the connection, of a type that is not ours to name
        error if error.to_string().contains("certificate") => {
            "HTTPS here knows the public authorities; one of a company, which its proxy may use, is not among them"
        }
        _ => "the same command goes on where it stopped; --local-only needs no network",
    };
    HubError::Network { url: url.to_owned(), cause: error.to_string(), hint }
}

/// Escapes what a URL cannot hold; slashes stay where `path`.
fn escaped(text: &str, path: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (path && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Whether the processor has what the TLS library takes for granted; it panics elsewhere.
fn can_do_tls() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("avx2");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Where a file lies in a snapshot, with the system's separators.
pub(super) fn path_in(folder: &Path, name: &str) -> PathBuf {
    name.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}
