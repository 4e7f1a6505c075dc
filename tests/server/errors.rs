//! Requests that cannot be answered, callers who may not ask, and servers that do not start.

use super::*;

const CHAT: &str = "/v1/chat/completions";

/// The error object of an answer, which must have this status.
fn error(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    let error = answer.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert!(error["type"].is_string(), "{answer:?}");
    error
}

#[test]
fn requests_that_do_not_fit() {
    let server = Server::start(&[]);
    let post = |path: &str, body: &str| server.request("POST", path, &[], body.as_bytes());
    for path in [
        CHAT,
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    ] {
        for body in
            ["", "{", "[1", "\"x\"", "null", "{}", "[]", "{\"messages\": 3, \"prompt\": {}, \"input\": 3}", "\u{0}"]
        {
            error(&post(path, body), 400);
        }
    }
    for (more, parameter) in [
        (json!({"n": 9}), "n"),
        (json!({"logit_bias": {"x": 2}}), "logit_bias"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "none"}}}), "tool_choice"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"response_format": {"type": "xml"}}), "response_format"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "fish"}}}}),
            "response_format",
        ),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"reasoning_effort": "some"}), "reasoning_effort"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
    ] {
        assert_eq!(error(&server.post(CHAT, &with(peru(), more.clone())), 400)["param"], parameter, "{more}");
    }
    for more in [json!({"temperature": -1}), json!({"temperature": "hot"}), json!({"top_p": 7}), json!({"seed": 1e99})]
    {
        error(&server.post(CHAT, &with(peru(), more)), 400);
    }
    for path in ["/v1/embeddings", "/nothing", "/v1/models/none", "/v1/messages/batches"] {
        assert!([404, 405].contains(&server.post(path, &json!({})).status), "{path}");
    }
    error(&server.get(CHAT), 405);
    // Anthropic's errors have a type of their own around
    let answer = server.post("/v1/messages", &json!({"messages": []}));
    assert_eq!((answer.status, &answer.json()["type"]), (400, &json!("error")));
    assert_eq!(server.ask(CHAT, &peru())["choices"][0]["message"]["content"], "Lima");
}

#[test]
fn nothing_is_cut_off() {
    let server = Server::start(&["-c", "64"]);
    let long = json!({"messages": user(&"word ".repeat(200))});
    let found = error(&server.post(CHAT, &long), 400);
    assert_eq!(found["code"], "context_length_exceeded");
    let message = found["message"].as_str().unwrap();
    let numbers: Vec<usize> = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert!(numbers[0] == 64 && numbers[1] > 200, "{message}");
    let stream = server.post(CHAT, &with(long.clone(), json!({"stream": true})));
    assert_eq!(error(&stream, 400)["code"], "context_length_exceeded");
    let message = error(&server.post("/v1/messages", &with(long, json!({"max_tokens": 9}))), 400)["message"].clone();
    assert!(message.as_str().unwrap().contains("64"), "{message}");
    // an answer that fills the context ends there and says so
    let full =
        server.ask("/v1/completions", &json!({"prompt": "Once upon a time", "max_tokens": 1000, "temperature": 0}));
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert!(full["usage"]["total_tokens"].as_u64().unwrap() <= 64, "{full}");
}

#[test]
fn large_bodies() {
    let server = Server::start(&[]);
    let text = "word ".repeat(10_000_000 / 5);
    assert_eq!(error(&server.post(CHAT, &json!({"messages": user(&text)})), 400)["code"], "context_length_exceeded");
    // nothing is made of it that is many times as large
    #[cfg(target_os = "linux")]
    {
        let memory = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert!(memory() < 300_000, "{} kB at the most", memory());
    }
    let text = "x".repeat((16 << 20) + 1);
    assert_eq!(error(&server.post(CHAT, &json!({"messages": user(&text)})), 413)["code"], "request_too_large");
    let anthropic = server.post("/v1/messages", &json!({"messages": user(&text)}));
    assert_eq!(error(&anthropic, 413)["type"], "request_too_large");
    // a body that does not come
    let mut stream = server.connect();
    write!(stream, "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{").unwrap();
    drop(stream);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_key_opens() {
    let server = Server::start(&["--api-key", "secret"]);
    error(&server.post(CHAT, &peru()), 401);
    error(&server.get("/v1/models"), 401);
    error(&server.get("/metrics"), 401);
    let answer = server.request("POST", "/v1/messages", &[("x-api-key", "wrong")], b"{}");
    assert_eq!(error(&answer, 401)["type"], "authentication_error");
    for header in [("Authorization", "Bearer secret"), ("x-api-key", "secret")] {
        let body = peru().to_string();
        let answer = server.request("POST", CHAT, &[header], body.as_bytes());
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "Lima");
    }
    assert_eq!((server.get("/health").status, server.get("/").status), (200, 200));
}

#[test]
fn pages_of_other_places_are_refused() {
    let server = Server::start(&["--cors-origin", "https://good.example"]);
    let from = |origin: &str| server.request("GET", "/v1/models", &[("Origin", origin)], b"");
    let good = from("https://good.example");
    assert_eq!((good.status, good.header("access-control-allow-origin")), (200, Some("https://good.example")));
    let evil = from("https://evil.example");
    error(&evil, 403);
    assert_eq!(evil.header("access-control-allow-origin"), None);
    let asked = server.request("OPTIONS", CHAT, &[("Origin", "https://good.example")], b"");
    assert_eq!(asked.status, 204);
    assert!(asked.header("access-control-allow-headers").unwrap().contains("Authorization"));
    // a name of someone else's that leads here
    error(&server.request("GET", "/v1/models", &[("Host", "evil.example")], b""), 403);
}

/// The stderr of a server that must not start.
fn refused(arguments: &[&str]) -> String {
    let output = flashflood(&[&["serve", "--device", "cpu"], arguments].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn servers_that_do_not_start() {
    for address in ["0.0.0.0", "::", "192.0.2.1"] {
        let stderr = refused(&["--host", address, "--port", "0"]);
        assert!(stderr.contains("error: ") && stderr.contains("hint: give an --api-key, or --insecure"), "{stderr}");
    }
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let stderr = refused(&["--port", port]);
    assert!(stderr.contains("cannot listen on") && stderr.contains("hint: "), "{stderr}");
    let stderr = refused(&["--port", "0", "-m", "/does/not/exist"]);
    assert!(stderr.contains("error: ") && stderr.contains("/does/not/exist"), "{stderr}");
    assert!(refused(&["--port", "0", "--api-key", ""]).contains("the API key is empty"));
    let open = Server::start(&["--host", "0.0.0.0", "--insecure"]);
    assert!(open.address.starts_with("0.0.0.0:"), "{}", open.address);
}
