//! A hub as small as it can be: one repository, served from memory, that breaks connections and asks for tokens as a
//! test wants it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const REPO: &str = "org/mini";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// As large files are: known by their sha256, and served from another host.
    pub(crate) large: bool,
}

/// How the hub behaves.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    /// The token without which it tells nothing.
    pub(crate) token: Option<&'static str>,
    /// Bytes of a file after which a connection breaks, so often.
    pub(crate) break_after: Option<(usize, usize)>,
    /// Sends the whole file whatever the range.
    pub(crate) no_ranges: bool,
    /// Flips a bit in so many answers with a large file.
    pub(crate) damage: usize,
    /// Waits so long after each 4 kB of a large file.
    pub(crate) slow: Duration,
    /// Says that large files are this long.
    pub(crate) claim: Option<u64>,
    /// Answers so many requests with this status and these headers: to the list of files, and to files.
    pub(crate) busy: [(usize, &'static str, &'static str); 2],
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// The host as the client named it.
    pub(crate) host: String,
    pub(crate) token: Option<String>,
    pub(crate) range: Option<String>,
}

/// A server on a port of its own until the test ends.
pub(crate) struct FakeHub {
    port: u16,
    state: Arc<State>,
}

struct State {
    port: u16,
    files: Vec<Served>,
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<Asked>>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Served {
    /// The name of its blob.
    pub(crate) fn hash(&self) -> String {
        match self.large {
            true => hex(&Sha256::digest(&self.bytes)),
            false => {
                hex(&Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len())).chain_update(&self.bytes).finalize())
            }
        }
    }
}

impl FakeHub {
    pub(crate) fn of(files: Vec<Served>, behaviour: Behaviour) -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { port, files, behaviour: Mutex::new(behaviour), asked: Mutex::default() });
        let serving = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = serving.clone();
                // a client that goes away in the middle is what some tests are about
                std::thread::spawn(move || state.answer(stream));
            }
        });
        FakeHub { port, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl State {
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let asked = Asked {
            path: path.clone(),
            host: headers.get("host").cloned().unwrap_or_default(),
            token: headers.get("authorization").cloned(),
            range: headers.get("range").cloned(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        let behaviour = self.behaviour.lock().unwrap().clone();
        let is_known = behaviour.token.is_none_or(|token| asked.token == Some(format!("Bearer {token}")));
        if path.starts_with("/cdn/") {
            let file = self.files.iter().find(|file| path == format!("/cdn/{}", file.name))?;
            return self.send(stream, file, asked.range.as_deref(), &behaviour);
        }
        let is_file = path.contains("/resolve/");
        let (times, status, more) = behaviour.busy[usize::from(is_file)];
        if times > 0 {
            self.behaviour.lock().unwrap().busy[usize::from(is_file)].0 -= 1;
            return reply(stream, status, more, b"");
        }
        if !is_known {
            return reply(stream, "401 Unauthorized", "", b"Invalid username or password.");
        }
        if path == format!("/api/models/{REPO}/revision/main?blobs=true") {
            return reply(stream, "200 OK", "", self.listing(&behaviour).to_string().as_bytes());
        }
        let file = self.files.iter().find(|file| path == format!("/{REPO}/resolve/{COMMIT}/{}", file.name));
        match file {
            Some(file) if file.large => {
                let to = format!("Location: http://localhost:{}/cdn/{}\r\n", self.port, file.name);
                reply(stream, "302 Found", &to, b"")
            }
            Some(file) => self.send(stream, file, asked.range.as_deref(), &Behaviour::default()),
            None => reply(stream, "404 Not Found", "", b"Repository not found"),
        }
    }

    fn listing(&self, behaviour: &Behaviour) -> serde_json::Value {
        let siblings = self.files.iter().map(|file| match file.large {
            true => json!({
                "rfilename": file.name,
                "blobId": "f".repeat(40),
                "size": behaviour.claim.unwrap_or(file.bytes.len() as u64),
                "lfs": { "sha256": file.hash(), "size": behaviour.claim.unwrap_or(file.bytes.len() as u64), "pointerSize": 130 },
            }),
            false => json!({ "rfilename": file.name, "size": file.bytes.len(), "blobId": file.hash() }),
        });
        json!({ "id": REPO, "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() })
    }

    fn send(&self, mut stream: TcpStream, file: &Served, range: Option<&str>, behaviour: &Behaviour) -> Option<()> {
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.filter(|_| !behaviour.no_ranges).unwrap_or(0);
        let mut bytes = file.bytes.clone();
        let mut now = self.behaviour.lock().unwrap();
        // counted under the lock, as several connections are open at once
        let (damage, breaks) = if file.large { (now.damage, now.break_after) } else { (0, None) };
        if damage > 0 {
            now.damage -= 1;
            bytes[file.bytes.len() - 1] ^= 1;
        }
        let mut until = bytes.len();
        if let Some((after, times)) = breaks.filter(|(after, times)| *times > 0 && from + after < until) {
            now.break_after = Some((after, times - 1));
            until = from + after;
        }
        drop(now);
        let total = bytes.len();
        let (status, more) = match from {
            0 => ("200 OK", String::new()),
            _ => ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1)),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n", total - from);
        stream.write_all(head.as_bytes()).ok()?;
        for piece in bytes[from..until].chunks(4096) {
            stream.write_all(piece).ok()?;
            std::thread::sleep(behaviour.slow);
        }
        Some(())
    }
}

fn reply(mut stream: TcpStream, status: &str, more: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}
