//! The items of the crate root are enough: commands that talk, the server and the C library are written with them, and they
//! are few enough to be read at once. (What all commands share, such as where a model is found, and the tables of `--profile`
//! use more.)

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flashflood::{Device, Engine, EngineOptions, Event, Finish, Message, Request};

fn sources(of: &[&str]) -> Vec<PathBuf> {
    fn walk(path: PathBuf, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().flatten().for_each(|entry| walk(entry.path(), found));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    let mut found = Vec::new();
    of.iter().for_each(|path| walk(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), &mut found));
    assert!(!found.is_empty());
    found
}

/// Names that follow `prefix` in a text, such as `engine` of `flashflood::engine::Engine`.
fn names_behind<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        // a module: something follows it
        rest[end..].starts_with("::").then_some(&rest[..end])
    })
}

#[test]
fn commands_that_talk_and_the_c_library_use_the_root_alone() {
    let talking =
        ["src/cli/asking.rs", "src/cli/chat.rs", "src/cli/chat", "src/cli/run.rs", "src/cli/serve.rs", "targets/c/src"];
    for path in sources(&talking) {
        let text = fs::read_to_string(&path).unwrap();
        for list in text.split("use flashflood::{").skip(1).map(|rest| rest.split("};").next().unwrap()) {
            assert!(!list.contains("::"), "{}: uses flashflood::{{{list}}}", path.display());
        }
        for module in names_behind(&text, "flashflood::") {
            // `serve` is the server's own door
            assert!(module == "server", "{}: uses flashflood::{module}", path.display());
        }
    }
}

#[test]
fn the_server_uses_the_root_and_how_requests_are_read() {
    for path in sources(&["src/server"]) {
        let text = fs::read_to_string(&path).unwrap();
        for module in names_behind(&text, "crate::") {
            assert!(["request", "server", "state"].contains(&module), "{}: uses crate::{module}", path.display());
        }
    }
}

/// The declarations of the root's items, with public fields and signatures of functions, are fewer than 300 lines.
#[test]
fn it_can_be_read_at_once() {
    let root = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let exported: String = root.split("pub use ").skip(1).map(|item| item.split(';').next().unwrap()).collect();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for path in sources(&[
        "src/engine.rs",
        "src/engine",
        "src/experts/reader.rs",
        "src/experts/stats.rs",
        "src/generate.rs",
        "src/generate",
        "src/request.rs",
        "src/request/language.rs",
        "src/request/openai.rs",
        "src/session.rs",
        "src/session",
        "src/state",
        "src/text",
    ]) {
        for (name, count) in public_lines(&fs::read_to_string(path).unwrap()) {
            if exported.split(|c: char| !c.is_alphanumeric()).any(|word| word == name) {
                *lines.entry(name).or_default() += count;
            }
        }
    }
    for name in ["Engine", "Session", "Event", "Request", "Language"] {
        assert!(lines.contains_key(name), "{name} is not found: {lines:?}");
    }
    let all: usize = lines.values().sum();
    println!("{all} lines: {lines:?}");
    assert!(all < 300, "{all} lines: {lines:?}");
}

/// Lines of declarations by the type that they belong to: public types with their fields, and the signatures of public
/// functions of their `impl` blocks.
fn public_lines(text: &str) -> Vec<(String, usize)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = Vec::new();
    let mut of_impl: Option<String> = None;
    let mut of_type: Option<String> = None;
    let mut in_signature = false;
    for line in text.lines() {
        let word = |after: &str| {
            let rest = line.split_once(after).unwrap().1;
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .find(|word| !word.is_empty() && *word != "a")
                .unwrap_or_default()
                .to_owned()
        };
        if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
            let name = word(if line.starts_with("pub struct ") { "pub struct " } else { "pub enum " });
            found.push((name.clone(), 1));
            of_type = line.ends_with('{').then_some(name);
        } else if line == "}" {
            (of_type, of_impl) = (None, None);
        } else if let Some(name) = &of_type {
            // variants of an enum, and public fields
            let is_public =
                line.starts_with("    pub ") || line.trim_start().chars().next().is_some_and(char::is_uppercase);
            found.extend((is_public).then(|| (name.clone(), 1)));
        } else if line.starts_with("impl") && !line.contains(" for ") {
            let rest = line.trim_start_matches("impl").trim_start_matches("<'a>").trim();
            of_impl = Some(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned());
        } else if let Some(name) = &of_impl {
            in_signature |= line.starts_with("    pub fn ");
            found.extend(in_signature.then(|| (name.clone(), 1)));
            in_signature &= !line.ends_with('{');
        }
    }
    found
}

/// The library as another program uses it: a question, its events, and the next question from the state of the first.
#[test]
fn a_conversation() {
    let options = EngineOptions { device: Device::Cpu, ..EngineOptions::default() };
    let mut engine = Engine::embedded(&options).unwrap();
    let language = engine.language().unwrap();
    let mut session = engine.session().unwrap();
    let mut turns = vec![Message::new("user", "What is the capital of Peru?")];
    let mut ask = |turns: &[Message]| {
        let mut request = Request::chat(turns.iter().cloned());
        request.sampling.temperature = Some(0.0);
        request.sampling.do_sample = Some(false);
        let (mut text, mut prefilled) = (String::new(), 0);
        let made = session.answer(&language.prepare(request).unwrap(), |event| {
            match event {
                Event::Text(piece) => text.push_str(&piece),
                Event::Prefill { done, .. } => prefilled = done,
                _ => {}
            }
            true
        });
        let made = made.unwrap();
        assert_eq!((made.finish, prefilled), (Finish::Stop, made.prompt));
        (text, made.reused)
    };
    assert_eq!(ask(&turns), ("Lima".to_owned(), 0));
    turns.push(Message::new("assistant", "Lima"));
    turns.push(Message::new("user", "What is the capital of France?"));
    let (text, reused) = ask(&turns);
    assert!(text == "Paris" && reused > 10, "{text:?}, {reused} reused");
}
