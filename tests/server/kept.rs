//! State that outlives the server, and one conversation that another takes the place of.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

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
fn files(folder: &Path) -> usize {
    files_that_end(folder, "session")
}

/// Files of sessions that were begun.
fn parts(folder: &Path) -> usize {
    files_that_end(folder, "part")
}

fn files_that_end(folder: &Path, end: &str) -> usize {
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

/// How a server ends whose clients are at work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Killed,
    /// When its clients have had their answers and the state of the last one was written.
    KilledInQuiet,
    Told,
}

/// A client with a conversation of its own, until it hears nothing more: the turns that were answered, and the tokens of
/// the last one's prompt.
fn converse(server: &Server, name: &str, goes_on: &AtomicBool) -> Option<(usize, u64)> {
    let turn = |count: usize| {
        let body = json!({"messages": turns(name, count), "temperature": 0, "max_tokens": 4}).to_string();
        let head =
            format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: {name}-{count}");
        let mut stream = TcpStream::connect(&server.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
        let answer = Answer::read(stream).ok().filter(|answer| answer.status == 200)?;
        // half an answer is none
        let answer: Value = serde_json::from_str(&answer.body).ok()?;
        Some((count, answer["usage"]["prompt_tokens"].as_u64()?))
    };
    (1..).take_while(|_| goes_on.load(Ordering::Relaxed)).map_while(turn).last()
}

/// Ends a server at a moment at which its clients are at work, and gives the answers that they had and those of them whose
/// state must be there: all, unless it is killed, which may lose the one that no other conversation came after.
fn finished_before(
    end: End,
    server: &mut Server,
    names: &[String],
    moment: Duration,
) -> Vec<(String, usize, u64, bool)> {
    let goes_on = &AtomicBool::new(true);
    let running = &*server;
    let finished: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = names.iter().map(|name| scope.spawn(move || converse(running, name, goes_on))).collect();
        std::thread::sleep(moment);
        match end {
            End::Killed => running.signal("-KILL"),
            End::KilledInQuiet => {}
            End::Told => running.signal("-TERM"),
        }
        goes_on.store(false, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let log = || server.stderr.lock().unwrap().clone();
    if end == End::KilledInQuiet {
        let since = Instant::now();
        while log().rfind(" kept tokens=") < log().rfind(": computed ") {
            assert!(since.elapsed() < PATIENCE, "nothing is written in a quiet moment: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server.signal("-KILL");
    }
    let log = log();
    assert_eq!(server.ended(), (end == End::Told).then_some(0));
    let must = |name: &str, count: usize| {
        let after = log.split_once(&format!("id=\"{name}-{count}\"")).map_or("", |(_, after)| after);
        let of_others = |line: &&str| line.contains(": computed ") && !line.contains(&format!("id=\"{name}-"));
        end != End::Killed || after.lines().skip(1).any(|line| of_others(&line))
    };
    let named = names.iter().zip(finished).filter_map(|(name, finished)| Some((name.clone(), finished?)));
    named.map(|(name, (count, prompt))| (name.clone(), count, prompt, must(&name, count))).collect()
}

/// Moments that are random, and the same each time. FLASHFLOOD_KILLS is how many there are.
#[cfg(unix)]
#[test]
fn every_finished_state_is_there_whenever_the_server_ends() {
    let kills = std::env::var("FLASHFLOOD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut seed = 21u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut half_written, mut expected, mut finished, mut found) = (0, 0, 0, 0);
    for round in 0..kills {
        let folder = tempfile::tempdir().unwrap();
        let drain = if round % 2 == 0 { "0" } else { "20" };
        let arguments = ["--queue", "64", "--drain-seconds", drain, "--session-dir", folder.path().to_str().unwrap()];
        let end = [End::Killed, End::KilledInQuiet, End::Told][round % 3];
        let moment = Duration::from_millis(100 + random(if end == End::KilledInQuiet { 700 } else { 2_500 }));
        let names: Vec<String> = ["red", "blue", "green", "grey"].map(|name| format!("{name}{round}")).into();
        let mut server = Server::start(&arguments);
        let answered = finished_before(end, &mut server, &names, moment);
        let begun = parts(folder.path());
        half_written += begun;
        let next = Server::start(&arguments);
        let (mut round_expected, mut round_found) = (0, 0);
        for (name, count, prompt, must) in &answered {
            let (_, cached) = usage(&next, turns(name, count + 1));
            let is_there = cached >= *prompt;
            assert!(
                is_there || !must,
                "round {round}, {end:?} after {moment:?}: {name} was answered {count} times: {cached} of {prompt}; {}",
                server.stderr.lock().unwrap()
            );
            round_expected += usize::from(*must);
            round_found += usize::from(is_there);
        }
        println!(
            "{end:?} after {moment:?}, drain {drain}: {} finished, {round_expected} expected, {round_found} found, {begun} half written",
            answered.len()
        );
        let stderr = next.stderr.lock().unwrap().clone();
        assert!(!stderr.contains("WARN"), "no file is half written: {stderr}");
        (expected, finished, found) = (expected + round_expected, finished + answered.len(), found + round_found);
    }
    println!(
        "{kills} moments, {half_written} half written; {finished} states finished, {expected} expected, {found} found"
    );
    assert!(expected > kills, "{expected} states in {kills} rounds: the load is none");
}
