//! Requests and connections that are meant to harm: the server goes on, and others are answered.

use std::path::Path;

use super::*;

const CHAT: &str = "/v1/chat/completions";

fn with_schema(schema: Value) -> Value {
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "response_format": format})
}

/// Schemas that once overflowed the stack, or kept every core for good.
fn bombs() -> Vec<Value> {
    let mut chain = serde_json::Map::new();
    for i in 0..400 {
        chain.insert(format!("d{i}"), json!({"type": "array", "items": {"$ref": format!("#/$defs/d{}", i + 1)}}));
    }
    chain.insert("d400".to_owned(), json!({"type": "integer"}));
    let patterns: Vec<Value> = (0..200).map(|i| json!({"pattern": format!("^.*a{i}.*$")})).collect();
    let names: Vec<String> = (0..8_000).map(|i| format!("p{i}")).collect();
    let members: serde_json::Map<String, Value> = names.iter().map(|name| (name.clone(), json!(1))).collect();
    let schemas = [
        json!({"$ref": "#/$defs/d0", "$defs": chain}),
        json!({"type": "string", "allOf": patterns}),
        json!({"type": "object", "required": names}),
        json!({"type": "object", "properties": members.keys().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>()}),
        json!({"const": members}),
        json!({"type": "integer", "multipleOf": 1_000_003}),
    ];
    let mut bodies: Vec<Value> = schemas.iter().cloned().map(with_schema).collect();
    for schema in schemas {
        // members of an argument
        let tool = json!({"type": "function", "function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"x": schema}}}});
        bodies.push(json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "tools": [tool], "tool_choice": "required"}));
    }
    bodies
}

#[test]
fn schemas_that_would_end_the_server() {
    let server = Server::start(&[]);
    for body in bombs() {
        let since = Instant::now();
        let answer = server.post(CHAT, &body);
        let start: String = body.to_string().chars().take(200).collect();
        assert_eq!(answer.status, 400, "{start}: {answer:?}");
        assert!(since.elapsed() < Duration::from_secs(8), "{:?}: {start}", since.elapsed());
    }
    // their senders leave; others are answered all the while
    let bodies: Vec<String> = bombs().iter().map(Value::to_string).collect();
    for _ in 0..2 {
        bodies.iter().for_each(|body| drop(server.send("POST", CHAT, &[], body.as_bytes())));
    }
    assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
    let good = with_schema(json!({"type": "integer", "minimum": 1, "maximum": 9}));
    assert_eq!(server.ask(CHAT, &good)["choices"][0]["message"]["content"].as_str().unwrap().len(), 1);
    assert_eq!(server.get("/health").status, 200);
}

/// Connections that never say what they want.
#[test]
fn connections_that_ask_for_nothing_make_room() {
    let server = Server::start(&["--connections", "64", "--request-seconds", "3600"]);
    let half_open: Vec<TcpStream> = (0..300)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(&server.address).ok()?;
            stream.write_all(b"GET /health HTTP/1.1\r\nX: ").ok()?;
            Some(stream)
        })
        .collect();
    assert!(half_open.len() > 200, "{}", half_open.len());
    for _ in 0..3 {
        assert_eq!(server.get("/health").status, 200);
        assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
    }
    #[cfg(target_os = "linux")]
    {
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        assert!(open < 120, "{open} descriptors");
    }
}

/// Heads and bodies have a time to come in.
#[test]
fn requests_that_do_not_come_are_given_up() {
    let server = Server::start(&["--request-seconds", "2"]);
    let mut half_open = server.connect();
    half_open.write_all(b"GET /health HTTP/1.1\r\nX: ").unwrap();
    let mut slow = server.connect();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{").unwrap();
    let since = Instant::now();
    let answer = Answer::read(slow).unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (408, Some("request_timeout")), "{answer:?}");
    let mut rest = Vec::new();
    let _ = half_open.read_to_end(&mut rest);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert_eq!(server.get("/health").status, 200);
}

/// An answer that is there before its request has come is read all the same: no end of a connection takes it back.
#[test]
fn answers_come_before_requests_end() {
    let server = Server::start(&["--api-key", "k"]);
    let answers = |head: &str| {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // the server has answered and heard enough
        std::thread::sleep(Duration::from_millis(100));
        let rest = vec![b'x'; 1 << 20];
        stream.write_all(&rest).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        Answer::read(stream).unwrap_or_else(|e| panic!("{head}: {e}")).status
    };
    let with = |request: &str| format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n");
    assert_eq!(answers(&with("POST /v1/chat/completions")), 401);
    assert_eq!(answers(&with("GET /health")), 200);
    assert_eq!(answers(&with("POST /nowhere").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")), 401);
    // behind one that was answered
    let second = |rest: String| format!("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n{rest}");
    assert_eq!(answers(&second("\0\r\n\r\n".to_owned())), 200);
    assert_eq!(answers(&second(with("POST /v1/chat/completions"))), 200);
    // no request at all
    assert_eq!(answers("\0\r\n\r\n"), 400);
    assert_eq!(answers(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(200_000))), 431);
}

/// Long bodies that are on their way have a budget together; short ones come all the same.
#[test]
fn long_bodies_that_do_not_end_hold_little_memory() {
    let server = Server::start(&["--request-seconds", "3"]);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n";
    let bytes = vec![b' '; 15 << 20];
    let begun: Vec<std::thread::JoinHandle<()>> = (0..30)
        .map(|_| {
            let (mut stream, bytes) = (server.connect(), bytes.clone());
            std::thread::spawn(move || {
                // the server may have heard enough
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
                std::thread::sleep(Duration::from_secs(2));
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak < 450_000, "{line}");
    }
    begun.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A backlog does not keep the server from ending in time, nor from keeping what it answered: every conversation, be it
/// told to end at once or after the answer that runs.
#[cfg(unix)]
#[test]
fn a_backlog_is_told_and_the_state_is_kept() {
    for drain in ["0", "20"] {
        let folder = tempfile::tempdir().unwrap();
        let sessions = folder.path().join("sessions");
        let arguments = ["--drain-seconds", drain, "--queue", "200", "--session-dir", sessions.to_str().unwrap()];
        let mut server = Server::start(&arguments);
        // conversations of their own: of one that goes on otherwise, only what both begin with is kept
        let messages =
            |i: usize| vec![json!({"role": "user", "content": format!("{i}: {}", "a dog and a cat. ".repeat(8))})];
        // none ends by itself: on a fast machine all would be answered before the server is told to end
        let asked = |i: usize| {
            json!({"messages": messages(i), "temperature": 3, "max_tokens": 120, "seed": i, "stream": i.is_multiple_of(2),
                "stream_options": {"include_usage": true}, "logit_bias": {"2": -100, "0": -100}})
        };
        // one is answered, token by token, when the others come
        let mut first = server.send("POST", CHAT, &[], asked(0).to_string().as_bytes());
        let mut begun = vec![0; 1500];
        first.read_exact(&mut begun).unwrap();
        let waiting: Vec<TcpStream> =
            (1..40).map(|i| server.send("POST", CHAT, &[], asked(i).to_string().as_bytes())).collect();
        first.read_to_end(&mut begun).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        server.signal("-TERM");
        let since = Instant::now();
        let first = Answer::read(&begun[..]);
        let answers: Vec<Option<Answer>> =
            std::iter::once(first).chain(waiting.into_iter().map(Answer::read)).map(Result::ok).collect();
        assert!(answers.iter().flatten().filter(|answer| answer.status == 503).count() > 5, "{answers:?}");
        assert_eq!(server.ended(), Some(0));
        assert!(since.elapsed() < Duration::from_secs(20) + PATIENCE, "{:?}", since.elapsed());
        let kept: Vec<_> = std::fs::read_dir(&sessions).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(!kept.iter().any(|path| path.extension().is_some_and(|end| end == "part")), "{kept:?}");
        // the next server has the state of each that was answered to its end, and of the one that was cut off
        let next = Server::start(&arguments);
        let mut finished = 0;
        for (i, answer) in answers.iter().enumerate() {
            let body = answer.as_ref().map_or("", |answer| &answer.body);
            let Some((_, prompt)) = body.split_once("\"prompt_tokens\":") else { continue };
            let prompt: u64 = prompt.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
            let mut messages = messages(i);
            messages.extend([json!({"role": "assistant", "content": "x"}), json!({"role": "user", "content": "y"})]);
            let usage = next.ask(CHAT, &json!({"messages": messages, "max_tokens": 1}))["usage"].clone();
            let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            // but for the words that begin an answer
            assert!(cached + 8 >= prompt && prompt > 40, "drain {drain}: answer {i}: {cached} of {prompt}");
            finished += 1;
        }
        assert!(finished >= if drain == "0" { 1 } else { 2 }, "drain {drain}: {finished} were answered");
        assert!(kept.len() >= 2, "drain {drain}: {kept:?}");
        let stderr = next.stderr.lock().unwrap().clone();
        assert!(!stderr.contains("WARN"), "{stderr}");
    }
}

/// A log that cannot be written ends nothing.
#[cfg(target_os = "linux")]
#[test]
fn standard_error_may_be_full() {
    // the port cannot be read from its log, and other tests take free ones as well
    let start = |_| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = flashflood(&["serve", "--port", &port.to_string(), "--device", "cpu"]);
        let child = command.stderr(full).spawn().unwrap();
        let mut server = Server { child, address: format!("127.0.0.1:{port}"), stderr: Arc::default() };
        let since = Instant::now();
        loop {
            // a stranger's server would answer as well: this one still runs after it was asked
            let answers = TcpStream::connect(&server.address).is_ok() && server.get("/health").status == 200;
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if answers {
                return Some(server);
            }
            assert!(since.elapsed() < PATIENCE, "it did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut server = (0..5).find_map(start).expect("a port that nobody else takes");
    assert_eq!(server.post(CHAT, &json!({"messages": 3})).status, 400);
    assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
}

/// What fails inside is told in the log, with its file; who asked hears no path.
#[cfg(unix)]
#[test]
fn errors_of_the_server_name_no_paths() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("secret-place");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    std::fs::create_dir_all(pack.join("experts")).unwrap();
    for part in ["", "experts"] {
        for entry in std::fs::read_dir(from.join(part)).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), pack.join(part).join(entry.file_name())).unwrap();
        }
    }
    let server = Server::start(&["-m", pack.to_str().unwrap(), "--expert-cache", "1MB", "--model-name", "n"]);
    for entry in std::fs::read_dir(pack.join("experts")).unwrap().flatten() {
        std::fs::File::options().write(true).open(entry.path()).unwrap().set_len(0).unwrap();
    }
    let asked = json!({"messages": user("Tell me of a dog"), "prompt": "Tell me of a dog", "input": "Tell me of a dog",
        "model": "secret", "max_tokens": 20, "temperature": 0});
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/completion", "/api/chat", "/api/generate"]
    {
        for is_stream in [false, true] {
            let answer = server.post(path, &with(asked.clone(), json!({"stream": is_stream})));
            assert!(answer.status == 500 || is_stream, "{path}: {answer:?}");
            assert!(answer.body.contains("the server's log says why"), "{path}: {answer:?}");
            for word in ["secret-place", "layer-", ".bin", folder.path().to_str().unwrap()] {
                assert!(!answer.body.contains(word), "{path}: {answer:?}");
            }
        }
    }
    let stderr = server.stderr.lock().unwrap().clone();
    assert!(stderr.contains("secret-place"), "{stderr}");
}

#[test]
fn words_and_numbers_that_were_not_taken_well() {
    let server = Server::start(&["--api-key", "k"]);
    let body = peru().to_string();
    for (key, status) in [("bearer k", 200), ("BEARER  k", 200), ("Bearer k", 200), ("Bearer x", 401), ("Basic k", 401)]
    {
        let answer = server.request("POST", CHAT, &[("Authorization", key)], body.as_bytes());
        assert_eq!(answer.status, status, "{key}");
    }
    let server = Server::start(&[]);
    for more in [
        json!({"presence_penalty": 3e38}),
        json!({"presence_penalty": -3e38}),
        json!({"frequency_penalty": 1e30}),
        json!({"repetition_penalty": 1e-38}),
        json!({"repeat_penalty": 3e38}),
        json!({"logit_bias": {"99999999": 1}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "("}}}}),
    ] {
        let answer = server.post(CHAT, &with(peru(), more.clone()));
        assert_eq!(answer.status, 400, "{more}: {answer:?}");
    }
    for (path, body) in [
        ("/v1/completions", json!({"prompt": [4_000_000_000u32], "max_tokens": 1})),
        ("/completion", json!({"prompt": [99_999_999], "n_predict": 1})),
        ("/detokenize", json!({"tokens": [99_999_999]})),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
}

/// MB that may stay with the server once bad ones were there: bodies share 128 MiB, and grammars have what they take; the
/// allocator does not give all of it back. That is so after the first of them, and [`STEADY`] however many come after.
#[cfg(target_os = "linux")]
const LEFT: u64 = 512;
#[cfg(target_os = "linux")]
const STEADY: u64 = 128;

/// What 64 clients see, in milliseconds to the first byte: the median and the 95th percentile. All must be answered.
fn good_clients(server: &Server, requests: usize) -> (u128, u128) {
    let times: Vec<u128> = std::thread::scope(|scope| {
        let client = |i: usize| {
            let asked = with(peru(), json!({"stream": true, "seed": i})).to_string();
            let times = (0..requests).map(|_| {
                let since = Instant::now();
                let mut connection = server.send("POST", CHAT, &[], asked.as_bytes());
                let mut first = [0];
                connection.read_exact(&mut first).unwrap();
                let first_byte = since.elapsed().as_millis();
                let mut rest = first.to_vec();
                connection.read_to_end(&mut rest).unwrap();
                let text = String::from_utf8_lossy(&rest).into_owned();
                assert!(text.starts_with("HTTP/1.1 200") && text.contains("Lima") && text.contains("[DONE]"), "{text}");
                first_byte
            });
            times.collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..64).map(|i| scope.spawn(move || client(i))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut times = times;
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 95 / 100])
}

/// The same beside 300 half-open connections, 60 bodies that do not end, 20 schemas and 20 who leave.
#[cfg(target_os = "linux")]
fn beside_bad_ones(server: &Server, requests: usize) -> (u128, u128) {
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let half_open = || {
                let mut stream = TcpStream::connect(&server.address).ok()?;
                stream.write_all(b"GET /health HTTP/1.1\r\nX: ").ok()?;
                Some(stream)
            };
            let mut open: Vec<TcpStream> = (0..300).filter_map(|_| half_open()).collect();
            let head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n";
            let mut bodies = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                open.truncate(290);
                open.extend((0..10).filter_map(|_| half_open()));
                if bodies.len() < 60
                    && let Ok(mut stream) = TcpStream::connect(&server.address)
                {
                    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
                    let _ = stream.write_all(head).and_then(|()| stream.write_all(&vec![b' '; 4 << 20]));
                    bodies.push(stream);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        scope.spawn(move || {
            let bodies: Vec<String> = bombs().iter().map(Value::to_string).collect();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let sent: Vec<TcpStream> =
                    (0..20).map(|i| server.send("POST", CHAT, &[], bodies[i % bodies.len()].as_bytes())).collect();
                sent.into_iter().for_each(|stream| drop(Answer::read(stream)));
                // who asks and leaves
                let asked = peru().to_string();
                (0..20).for_each(|_| drop(server.send("POST", CHAT, &[], asked.as_bytes())));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let beside = good_clients(server, requests);
        assert_eq!(server.get("/health").status, 200);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        beside
    })
}

/// 64 good clients, alone and then beside bad ones: all are answered, and neither memory nor descriptors grow with requests.
/// Takes minutes: `cargo test --release --test server -- --ignored --nocapture good_clients_beside`; REQUESTS is how many
/// each good client makes.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a load test, for its figures"]
fn good_clients_beside_bad_ones() {
    let requests = std::env::var("REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let server = Server::start(&["--queue", "400", "--request-seconds", "10"]);
    let size = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        (line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1000, open)
    };
    good_clients(&server, 1);
    let before = size();
    println!("before: {before:?} (MB, descriptors)");
    println!("alone: {:?} ms to the first byte (median, 95th percentile)", good_clients(&server, requests));
    // a connection ends a moment after its answer
    let settled = || {
        let since = Instant::now();
        while size().1 > before.1 && since.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
        }
        size()
    };
    let alone = settled();
    println!("after {} requests: {alone:?}", 64 * requests);
    // what the bad ones leave with the allocator at once: bodies of 128 MiB in all, and what grammars took
    beside_bad_ones(&server, 2);
    std::thread::sleep(Duration::from_secs(12));
    let begun = settled();
    println!("after 128 requests beside bad ones: {begun:?}");
    println!("beside bad ones: {:?} ms", beside_bad_ones(&server, requests));
    std::thread::sleep(Duration::from_secs(12));
    let after = settled();
    println!("after {} more: {after:?}", 64 * requests);
    // what one request leaves behind would be some KB each
    assert!(alone.0 <= before.0 + 8, "{} requests: from {before:?} to {alone:?}", 64 * requests);
    assert!(after.0 <= begun.0 + STEADY && after.0 <= before.0 + LEFT, "from {before:?} and {begun:?} to {after:?}");
    assert!(alone.1 <= before.1 && after.1 <= before.1, "from {before:?} to {alone:?} and {after:?}");
}
