//! `flashflood serve` as its clients meet it: the real program on the CPU, with the small model inside it.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod agents;
mod chat;
mod clients;
mod coding_agents;
mod completions;
mod errors;
mod fuzz;
mod kept;
mod load;
mod page;
mod protocols;
mod reliability;
#[cfg(unix)]
mod replicas;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, without what the environment of whoever runs the tests says about it.
fn flashflood(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashflood"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLASHFLOOD_")) {
        command.env_remove(name);
    }
    command.env("FLASHFLOOD_NO_AUTOTUNE", "1").env_remove("RUST_LOG");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A server that runs as long as this lives.
struct Server {
    child: Child,
    address: String,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one, and waits until its model is loaded.
    fn start(more: &[&str]) -> Server {
        let server = Server::start_loading(more);
        let since = Instant::now();
        while server.get("/health").status != 200 {
            assert!(since.elapsed() < PATIENCE, "not ready: {}", server.stderr.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn start_loading(more: &[&str]) -> Server {
        let mut child = flashflood(&[&["serve", "--port", "0", "--device", "cpu"], more].concat()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let address = first.split("http://").nth(1).unwrap_or_else(|| panic!("no address: {first}"));
        let address = address.split_whitespace().next().unwrap().to_owned();
        let stderr = Arc::new(Mutex::new(first));
        let kept = stderr.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Server { child, address, stderr }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request and leaves the answer to be read.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).unwrap();
        // a server that has heard enough may close
        let _ = stream.write_all(body);
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Answer::read(self.send(method, path, headers, body)).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// The JSON of an answer that must be there.
    fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        answer.json()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for the end: the exit code.
    fn ended(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(since.elapsed() < PATIENCE, "still running: {}", self.stderr.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr.lock().map(|stderr| stderr.clone()).unwrap_or_default();
        if !std::thread::panicking() {
            assert!(!stderr.contains("panicked"), "{stderr}");
        }
    }
}

/// What a server answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Result<Answer, String> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no head")?;
        let head = String::from_utf8(bytes[..end].to_vec()).map_err(|e| e.to_string())?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or("no status")?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked { dechunked(&bytes[end + 4..])? } else { bytes[end + 4..].to_vec() };
        let body = String::from_utf8(body).map_err(|e| e.to_string())?;
        Ok(Answer { status, headers, body })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Names and data of server-sent events; every line must be of one.
    fn events(&self) -> Vec<(String, String)> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let mut events = Vec::new();
        for block in self.body.split("\n\n").filter(|block| !block.is_empty()) {
            let (mut name, mut data) = (String::new(), None);
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("event", value)) => name = value.to_owned(),
                    Some(("data", value)) => data = Some(value.to_owned()),
                    // a sign of life
                    Some(("", _)) => {}
                    _ => panic!("no line of an event: {line:?}"),
                }
            }
            events.extend(data.map(|data| (name, data)));
        }
        events
    }

    /// The JSON of all events of an OpenAI stream, which must end with `[DONE]`.
    fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().map(|(_, data)| data).as_deref(), Some("[DONE]"), "{self:?}");
        events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect()
    }
}

fn dechunked(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").ok_or("a chunk without its size")?;
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or("a chunk without its size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).ok_or("a chunk that is cut off")?);
        rest = rest.get(size + 2..).ok_or("a chunk that is cut off")?;
    }
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// A question that the small model knows the answer of.
fn peru() -> Value {
    json!({"messages": user("What is the capital of Peru?"), "temperature": 0})
}

/// `first` with the fields of `second`.
fn with(first: Value, second: Value) -> Value {
    let (Value::Object(mut first), Value::Object(second)) = (first, second) else { panic!("no objects") };
    first.extend(second);
    first.into()
}

/// Tools as the small model was trained with, in OpenAI's form.
fn tools() -> Value {
    let tool = |name: &str, keys: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), json!({"type": "string"}))).collect();
        let parameters = json!({"type": "object", "properties": properties, "required": keys});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    json!([tool("get_weather", &["city", "day"]), tool("set_alarm", &["time", "label"])])
}
