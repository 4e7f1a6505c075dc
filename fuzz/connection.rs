//! A server that never gets done with loading its model, and what it is sent: heads and bodies are read, and then it says
//! that the model is loading.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use crate::server::{ReasoningField, ServeOptions, serve};

/// How long an answer may take, on a machine that is busy with many fuzzers.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect() -> io::Result<TcpStream> {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    let address = ADDRESS.get_or_init(|| {
        let options = ServeOptions {
            address: ([127, 0, 0, 1], 0).into(),
            api_key: None,
            insecure: false,
            cors_origins: Vec::new(),
            queue: 1,
            drain: Duration::ZERO,
            connections: 64,
            patience: PATIENCE,
            model: "input".to_owned(),
            reasoning: ReasoningField::default(),
            sessions: None,
            session_memory: Some(0),
        };
        let load = || -> Result<_, io::Error> {
            loop {
                std::thread::park();
            }
        };
        let (tell, told) = mpsc::channel();
        let listening = move |address| {
            let _ = tell.send(address);
        };
        std::thread::spawn(move || serve(options, load, || false, listening));
        told.recv().expect("a server listens where the system lets it")
    });
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The bytes of a connection whose client then waits for what comes.
pub(super) fn send(bytes: &[u8]) {
    // a server that has heard enough closes it
    let _ = connect().and_then(|mut socket| {
        socket.write_all(bytes)?;
        socket.shutdown(Shutdown::Write)?;
        socket.read_to_end(&mut Vec::new())
    });
}

/// A path, and on the next line a body for it.
///
/// # Panics
/// Where a request that is one gets no answer.
pub(super) fn post(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    if !path.iter().all(u8::is_ascii_graphic) {
        return;
    }
    let length = format!(" HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let request = [b"POST ", path, length.as_bytes(), body].concat();
    // a connection for each request would take most of the time; one that was kept may be closed by now
    let kept = KEPT.take().and_then(|socket| answer(socket, &request).ok());
    let answered = kept.map_or_else(|| connect().and_then(|socket| answer(socket, &request)), Ok);
    answered.unwrap_or_else(|error| panic!("no answer to a body of {} bytes: {error}", body.len()));
}

thread_local! {
    static KEPT: Cell<Option<TcpStream>> = const { Cell::new(None) };
}

/// Reads a whole answer, and keeps the connection.
fn answer(mut socket: TcpStream, request: &[u8]) -> io::Result<()> {
    socket.write_all(request)?;
    let (mut found, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece)?;
        if read == 0 {
            return if found.starts_with(b"HTTP/1.1 ") { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        found.extend_from_slice(&piece[..read]);
        if is_whole(&found) {
            KEPT.set(Some(socket));
            return Ok(());
        }
    }
}

/// Whether the head of an answer is there, and as many bytes as it says.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}
