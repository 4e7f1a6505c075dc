//! State that outlives the server, and one conversation that another takes the place of.

use super::*;

const CHAT: &str = "/v1/chat/completions";

/// A conversation of its own: long enough that the state of another one is not taken for it.
fn turns(name: &str, count: usize) -> Value {
    let mut turns =
        vec![json!({"role": "system", "content": format!("{name}: {name}. Answer {name} as {name} would.")})];
    for n in 0..count {
        turns.push(json!({"role": "user", "content": "What is the capital of Peru?"}));
        if n + 1 < count {
            turns.push(json!({"role": "assistant", "content": "Lima"}));
        }
    }
    turns.into()
}

/// Tokens of the prompt, and how many of them were computed before.
fn usage(server: &Server, messages: Value) -> (u64, u64) {
    let answer = server.ask(CHAT, &json!({"messages": messages, "temperature": 0, "max_tokens": 4}));
    let usage = &answer["usage"];
    (usage["prompt_tokens"].as_u64().unwrap(), usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

/// Files of sessions that are whole.
fn files(folder: &std::path::Path) -> usize {
    files_that_end(folder, "session")
}

/// Files of sessions that were begun.
fn parts(folder: &std::path::Path) -> usize {
    files_that_end(folder, "part")
}

fn files_that_end(folder: &std::path::Path, end: &str) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == end)).count()
}

#[test]
fn two_conversations_and_a_server_that_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--session-dir", folder.path().to_str().unwrap()];
    let mut server = Server::start(&arguments);
    usage(&server, turns("red", 1));
    usage(&server, turns("blue", 1));
    assert_eq!(files(folder.path()), 1, "the first conversation is kept when the second begins");
    let (prompt, cached) = usage(&server, turns("red", 2));
    let (rules, _) = usage(&server, json!([turns("red", 1)[0]]));
    assert!(cached > rules && prompt > cached, "{cached} of {prompt}, {rules} of all conversations");
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let server = Server::start(&arguments);
    for name in ["blue", "red"] {
        let (prompt, cached) = usage(&server, turns(name, 2));
        assert!(cached > rules, "{name}: {cached} of {prompt}, {rules} of all conversations");
    }
}

/// A server that is killed at some moment, mostly while it writes a file: what was kept before is still there and whole,
/// and the next server answers as if nothing had been.
#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--session-dir", folder.path().to_str().unwrap()];
    let mut first = Server::start(&arguments);
    usage(&first, turns("kept", 2));
    first.signal("-TERM");
    assert_eq!(first.ended(), Some(0));
    assert_eq!(files(folder.path()), 1);
    let undisturbed = {
        let mut server = Server::start(&arguments);
        let found = usage(&server, turns("kept", 2));
        server.signal("-KILL");
        server.ended();
        found
    };
    assert!(undisturbed.1 > 30, "{undisturbed:?}");
    let mut half_written = 0;
    // moments after a request, and the moment at which a file is begun, which is another one on every machine
    let delays = [0, 1, 3, 8, 18, 38, 80].map(Some);
    for delay in delays.into_iter().chain([None; 5]) {
        let mut server = Server::start(&arguments);
        usage(&server, turns(&format!("other {delay:?}"), 3));
        let before = parts(folder.path());
        // another conversation comes: this one is written now
        let asked = json!({"messages": turns("third", 1), "temperature": 0, "max_tokens": 4});
        let waiting = server.send("POST", CHAT, &[("Content-Type", "application/json")], asked.to_string().as_bytes());
        match delay {
            Some(delay) => std::thread::sleep(Duration::from_millis(delay)),
            None => {
                let begun = Instant::now();
                while parts(folder.path()) == before && begun.elapsed() < Duration::from_secs(20) {}
            }
        }
        server.signal("-KILL");
        server.ended();
        drop(waiting);
        half_written += usize::from(parts(folder.path()) > before);
    }
    assert!(half_written > 0, "no kill came while a file was written");
    let server = Server::start(&arguments);
    assert_eq!(usage(&server, turns("kept", 2)), undisturbed);
    let stderr = server.stderr.lock().unwrap().clone();
    assert!(!stderr.contains("WARN"), "no file is half written: {stderr}");
}
