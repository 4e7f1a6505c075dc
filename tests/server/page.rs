//! The page for browsers, in a real one: headless Chromium, through Python's playwright.
//!
//! Where there is no Chromium or no playwright the tests say so and pass; with `FLASHFLOOD_CLIENT_TESTS=require` that is
//! a failure. `FLASHFLOOD_SCREENSHOTS=FOLDER` keeps pictures, `FLASHFLOOD_LONG_ANSWER=1` measures 10,000 tokens in place of
//! 1,200.

use std::io::Read;

use serde_json::Value;

use super::Server;
use super::clients::{python, run_script, run_script_against};

/// A browser that is driven, and axe, which finds what keeps people out.
const PACKAGES: [&str; 2] = ["playwright>=1.40,<2", "axe-playwright-python>=0.1.4,<0.2"];

fn browser() -> Result<std::path::PathBuf, String> {
    static INSTALLED: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = INSTALLED.lock().unwrap();
    python("python-browser", &PACKAGES, "playwright, axe_playwright_python")
}

/// With the real server and the small model, whose experts stream.
#[test]
fn a_person_with_a_browser() {
    run_script_against(&["--expert-cache", "1MB"], "page.py", browser, chromium);
}

/// With answers that are slow, cut off, hostile, long, and with a server that goes away.
#[test]
fn answers_of_every_kind() {
    run_script("page_scripted.py", browser, chromium);
}

#[test]
fn the_page_comes_packed_to_who_takes_it_so() {
    let server = Server::start(&[]);
    let plain = server.get("/");
    assert!(plain.body.contains("</html>") && plain.header("content-encoding").is_none());
    assert!(plain.header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'sha256-"));
    let mut packed = Vec::new();
    server.send("GET", "/", &[("Accept-Encoding", "br, gzip")], b"").read_to_end(&mut packed).unwrap();
    let head = String::from_utf8_lossy(&packed[..1000]).to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(packed.len() < plain.body.len() / 2, "{} of {}", packed.len(), plain.body.len());
}

/// `GET /machine` needs the key, describes the machine, and then tells what requests do.
#[test]
fn the_machine_room_is_told_what_happens() {
    let server = Server::start(&["--api-key", "secret", "--expert-cache", "1MB"]);
    assert_eq!(server.get("/machine").status, 401);
    let key = ("Authorization", "Bearer secret");
    let stream = server.send("GET", "/machine", &[key], b"");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stream)).map_while(Result::ok);
    let mut events = lines.filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    // a machine that is busy may answer a request sent later first: nobody would listen yet
    let first = events.next().unwrap();
    let body = br#"{"messages": [{"role": "user", "content": "What is the capital of Peru?"}], "max_tokens": 8}"#;
    assert_eq!(server.request("POST", "/v1/chat/completions", &[key], body).status, 200);
    let layers: Vec<u64> = serde_json::from_value(first["machine"]["layers"].clone()).unwrap();
    assert!(!layers.is_empty() && first["machine"]["plan"]["slots"].as_u64().unwrap() > 0, "{first}");
    let mut there = std::collections::BTreeSet::new();
    let (mut used, mut prompt, mut written) = (0, 0, 0);
    // events come for as long as one listens
    let since = std::time::Instant::now();
    for event in events {
        assert!(since.elapsed() < super::PATIENCE, "{used} {prompt} {written}: {event}");
        let changes: Vec<u64> = serde_json::from_value(event["experts"].clone()).unwrap();
        for change in changes.chunks(3) {
            let [layer, expert, state] = change else { panic!("{event}") };
            assert!(expert < &layers[usize::try_from(*layer).unwrap()], "{event}");
            used += usize::from(*state >= 2);
            if *state == 0 {
                there.remove(&(*layer, *expert))
            } else {
                there.insert((*layer, *expert))
            };
        }
        for step in event["steps"].as_array().unwrap() {
            let tokens = step["tokens"].as_u64().unwrap();
            if step["prompt"] == true { prompt += tokens } else { written += tokens }
        }
        // the answer is short: a token is written at least
        if prompt > 0 && written > 0 && used > 0 && event["stats"]["misses"].as_u64().unwrap() > 0 {
            break;
        }
    }
    assert!(there.len() as u64 <= first["machine"]["plan"]["slots"].as_u64().unwrap(), "{}", there.len());
}

/// The browser of the machine.
fn chromium() -> Result<String, String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<std::path::PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.exists());
    found.map(|path| path.display().to_string()).ok_or_else(|| "no Chromium is installed".to_owned())
}
