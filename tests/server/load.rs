//! Many clients at once, clients that leave or do not read, and the end of a server.

use super::*;

const CHAT: &str = "/v1/chat/completions";

/// A text that does not end by itself before its 2,000 tokens.
fn endless() -> Value {
    json!({"prompt": "Once upon a time", "max_tokens": 2000, "temperature": 100, "top_k": 0, "top_p": 1, "seed": 4, "stream": true})
}

fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with(&format!("flashflood_{name} "))).unwrap();
    line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() as u64
}

/// Waits until nothing is computed and nothing waits.
fn quiet(server: &Server) {
    let since = Instant::now();
    while metric(server, "requests_in_flight") > 0 {
        assert!(since.elapsed() < PATIENCE, "requests are left over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// (resident memory in kB, threads)
#[cfg(target_os = "linux")]
fn size(server: &Server) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("Threads:"))
}

/// 64 clients of all kinds, and what came back: (answered, refused because the queue was full).
fn crowd(server: &Server) -> (usize, usize) {
    let outcomes: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64)
            .map(|i| {
                scope.spawn(move || {
                    let stream = json!({"stream": i % 2 == 0});
                    let mut connection = server.send("POST", CHAT, &[], with(peru(), stream).to_string().as_bytes());
                    match i % 8 {
                        // leaves at once, or in the middle of the answer
                        5 => return (0, 0),
                        6 => {
                            let _ = connection.read(&mut [0; 40]);
                            return (0, 0);
                        }
                        // reads slowly
                        7 => std::thread::sleep(Duration::from_millis(300)),
                        _ => {}
                    }
                    let answer = Answer::read(connection).unwrap();
                    match answer.status {
                        200 if i % 2 == 0 => drop(answer.chunks()),
                        200 => assert_eq!(answer.json()["choices"][0]["message"]["content"], "Lima"),
                        429 => {
                            assert!(answer.header("retry-after").is_some(), "{answer:?}");
                            assert_eq!(answer.json()["error"]["code"], "queue_full");
                            return (0, 1);
                        }
                        _ => panic!("{answer:?}"),
                    }
                    (1, 0)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    outcomes.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[test]
fn many_clients_at_once() {
    let server = Server::start(&[]);
    let (answered, refused) = crowd(&server);
    // a quarter of them leave; who leaves may have had a place
    assert!(answered >= 1 && answered + refused == 48, "{answered} answered, {refused} refused");
    quiet(&server);
    #[cfg(target_os = "linux")]
    let before = size(&server);
    for _ in 0..4 {
        crowd(&server);
        quiet(&server);
    }
    #[cfg(target_os = "linux")]
    {
        let after = size(&server);
        // 256 requests later: within 16 MB, which is what the allocator may keep, and no thread more than may block
        assert!(after.0 < before.0 + 16_000, "memory in kB, threads: {before:?}, then {after:?}");
        assert!(after.1 <= before.1 + 4, "memory in kB, threads: {before:?}, then {after:?}");
    }
    assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
}

#[test]
fn who_leaves_is_not_computed_for() {
    let server = Server::start(&["--queue", "1"]);
    for whole in [false, true] {
        let made = metric(&server, "generated_tokens_total");
        let mut asked = endless();
        asked["stream"] = (!whole).into();
        let mut first = server.send("POST", "/v1/completions", &[], asked.to_string().as_bytes());
        if whole {
            std::thread::sleep(Duration::from_millis(200));
        } else {
            // the first token is there
            first.read_exact(&mut [0; 400]).unwrap();
        }
        drop(first);
        quiet(&server);
        let more = server.ask(CHAT, &peru());
        assert_eq!(more["choices"][0]["message"]["content"], "Lima");
        let made = metric(&server, "generated_tokens_total") - made;
        assert!(made < 1500, "{made} tokens, whole: {whole}");
    }
}

/// A prompt that nobody waits for is not read to its end: it stops within a layer, however many others wait.
#[test]
fn who_leaves_ends_the_reading_of_a_prompt() {
    let server = Server::start(&[]);
    let long = json!({"prompt": "Once upon a time there was a little fox. ".repeat(2000), "max_tokens": 1});
    for stream in [true, false] {
        let asked = with(long.clone(), json!({"stream": stream})).to_string();
        let first = server.send("POST", "/v1/completions", &[], asked.as_bytes());
        // it is read for minutes
        std::thread::sleep(Duration::from_millis(1500));
        let short = json!({"prompt": "Once", "max_tokens": 1}).to_string();
        let others: Vec<TcpStream> =
            (0..4).map(|_| server.send("POST", "/v1/completions", &[], short.as_bytes())).collect();
        while metric(&server, "queue_depth") < 4 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let since = Instant::now();
        drop(first);
        for other in others {
            assert_eq!(Answer::read(other).unwrap().status, 200);
        }
        let waited = since.elapsed();
        assert!(waited < Duration::from_secs(15), "{waited:?}, stream: {stream}");
    }
}

#[test]
fn a_full_queue_refuses() {
    let server = Server::start(&["--queue", "1"]);
    let mut running = server.send("POST", "/v1/completions", &[], endless().to_string().as_bytes());
    running.read_exact(&mut [0; 400]).unwrap();
    let waiting = server.send("POST", CHAT, &[], peru().to_string().as_bytes());
    let since = Instant::now();
    while metric(&server, "queue_depth") < 1 {
        assert!(since.elapsed() < PATIENCE, "nobody waits");
    }
    let refused = server.post(CHAT, &peru());
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (429, Some("rate_limit_error")));
    assert_eq!(server.post("/v1/messages", &with(peru(), json!({"max_tokens": 9}))).status, 429);
    // health and counters answer all the while, and the one that waited gets its turn
    assert_eq!((server.get("/health").status, metric(&server, "requests_refused_total")), (200, 2));
    drop(running);
    assert_eq!(Answer::read(waiting).unwrap().json()["choices"][0]["message"]["content"], "Lima");
}

/// Clients and proxies give up on a stream that says nothing.
#[test]
fn who_waits_hears_that_the_server_lives() {
    let server = Server::start(&["--queue", "64"]);
    let busy: Vec<TcpStream> =
        (0..40).map(|_| server.send("POST", "/v1/completions", &[], endless().to_string().as_bytes())).collect();
    // they are in the queue before the others come
    let since = Instant::now();
    while metric(&server, "queue_depth") < 30 {
        assert!(since.elapsed() < PATIENCE, "nobody waits");
    }
    let asked = with(peru(), json!({"stream": true, "max_tokens": 9, "input": "hi"})).to_string();
    let signs = [(CHAT, ": computing\n"), ("/v1/responses", ": computing\n"), ("/v1/messages", ": computing\n")];
    let waiting = signs.map(|(path, sign)| (server.send("POST", path, &[], asked.as_bytes()), sign));
    for (connection, sign) in waiting {
        let mut lines = BufReader::new(connection).lines();
        for _ in 0..2 {
            lines.find(|line| line.as_ref().is_ok_and(|line| line == sign.trim_end())).unwrap().unwrap();
        }
    }
    drop(busy);
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_stop_ends_its_answers() {
    let mut server = Server::start(&[]);
    let mut asked = endless();
    asked["max_tokens"] = 400.into();
    let mut running = server.send("POST", "/v1/completions", &[], asked.to_string().as_bytes());
    let mut begun = vec![0; 400];
    running.read_exact(&mut begun).unwrap();
    // connected, and silent
    let idle = server.connect();
    server.signal("-TERM");
    let mut bytes = begun;
    running.read_to_end(&mut bytes).unwrap();
    let answer = Answer::read(bytes.as_slice()).unwrap();
    let chunks = answer.chunks();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.ended(), Some(0));
    drop(idle);
}

#[cfg(unix)]
#[test]
fn draining_has_an_end() {
    let mut server = Server::start(&["--drain-seconds", "0"]);
    let mut running = server.send("POST", "/v1/completions", &[], endless().to_string().as_bytes());
    running.read_exact(&mut [0; 400]).unwrap();
    let since = Instant::now();
    server.signal("-INT");
    assert_eq!(server.ended(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    // one that has nothing to do ends at once
    let mut server = Server::start(&[]);
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
}
