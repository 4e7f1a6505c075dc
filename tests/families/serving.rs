//! The server answers from models of every family.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::FAMILIES;
use super::program::{flashflood, golden_text};
use super::snapshot::Snapshot;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    child: Child,
    address: String,
    // its end closes the pipe, and what is written then ends the server
    _stderr: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(folder: &str) -> Server {
        let arguments = ["serve", "--port", "0", "-m", folder, "--device", "cpu", "--activations", "f32"];
        let mut child = flashflood(&arguments).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        let address = first.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.unwrap_or_else(|| panic!("no address: {first}")).to_owned();
        let server = Server { child, address, _stderr: stderr };
        let since = Instant::now();
        while server.answer("GET", "/health", "").0 != 200 {
            assert!(since.elapsed() < PATIENCE, "not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Status and body.
    fn answer(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        let head = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn ask(&self, path: &str, request: Value) -> Value {
        let (status, body) = self.answer("POST", path, &request.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_chat_and_a_text() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name).with_text();
        let server = Server::start(snapshot.path().to_str().unwrap());
        let (prompt, continuation) = golden_text(name);
        let chat = json!({
            "messages": [{ "role": "user", "content": "Hello" }], "temperature": 0, "max_tokens": 12,
        });
        let found = server.ask("/v1/chat/completions", chat);
        assert_eq!(found["choices"][0]["message"]["content"], continuation.as_str(), "{name}: {found}");
        assert_eq!(found["usage"]["completion_tokens"], 12, "{name}: {found}");
        let text = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 12 });
        let found = server.ask("/v1/completions", text);
        assert_eq!(found["choices"][0]["text"], continuation.as_str(), "{name}: {found}");
    }
}
