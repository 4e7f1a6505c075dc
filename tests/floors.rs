//! The library is a house: a room of `src` knows those on the floors below it, and none above. The floors are a table
//! in CONTRIBUTING.md.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Arrows that still run up: (from, to).
const KNOWN: [(&str, &str); 0] = [];

/// One use of a name of the crate root.
#[derive(Debug, PartialEq)]
struct Arrow {
    /// From 1.
    line: usize,
    /// The name behind `crate::`: a room, or what the root exports of one.
    name: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rooms from the ground up.
fn floors() -> Vec<String> {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let table = text.split("\n## Floors\n").nth(1).expect("a part called Floors").split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut rooms: Vec<String> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    rooms.reverse();
    rooms
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file is in: `["engine", "plan"]` for `engine/plan.rs`, none for the crate root.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Words and signs with their lines; comments, texts and characters are left out.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let from = at;
        let starts = |what: &str| what.chars().enumerate().all(|(i, c)| chars.get(from + i) == Some(&c));
        let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
        if starts("//") {
            at += chars[at..].iter().take_while(|c| **c != '\n').count();
        } else if starts("/*") {
            at += 2;
            while at < chars.len() && !(chars[at - 1] == '*' && chars[at] == '/') {
                at += 1;
            }
            at += 1;
        } else if starts("r") && chars.get(from + 1 + hashes) == Some(&'"') {
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at += hashes + 2;
            at += chars[at..].windows(end.len()).position(|window| window == end).unwrap() + end.len();
        } else if starts("\"") {
            at += 1;
            while chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if starts("'\\") {
            at += 3;
            at += chars[at..].iter().take_while(|c| **c != '\'').count() + 1;
        } else if starts("'") && chars.get(from + 2) == Some(&'\'') {
            at += 3;
        } else if is_word(chars[at]) {
            at += chars[at..].iter().take_while(|c| is_word(**c)).count();
            found.push((line, chars[from..at].iter().collect()));
        } else if starts("::") {
            at += 2;
            found.push((line, "::".to_owned()));
        } else {
            at += 1;
            if !chars[from].is_whitespace() {
                found.push((line, chars[from].to_string()));
            }
        }
        line += chars[from..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// Without the items behind `#[cfg(test)]`: tests may look anywhere.
fn without_tests(tokens: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let is_test = |at: usize| {
        ["#", "[", "cfg", "(", "test", ")", "]"]
            .iter()
            .enumerate()
            .all(|(i, sign)| tokens.get(at + i).is_some_and(|(_, token)| token == sign))
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !is_test(at) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // to the end of the item: its block, or its semicolon
        let mut depth = 0;
        while at < tokens.len() {
            let token = tokens[at].1.as_str();
            depth += i32::from(token == "{") - i32::from(token == "}");
            at += 1;
            if depth == 0 && [";", "}"].contains(&token) {
                break;
            }
        }
    }
    kept
}

/// What the text of a file in `module` takes from the crate root.
fn arrows(text: &str, module: &[String]) -> Vec<Arrow> {
    let tokens = without_tests(tokens(text));
    let sign = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let mut next = at;
        let is_root = match sign(at) {
            // the program is another crate
            "crate" | "flashflood" => sign(at + 1) == "::",
            "super" if at == 0 || sign(at - 1) != "::" => {
                while sign(next) == "super" && sign(next + 1) == "::" && sign(next + 2) == "super" {
                    next += 2;
                }
                (next - at) / 2 + 1 == module.len() && sign(next + 1) == "::"
            }
            _ => false,
        };
        if !is_root {
            continue;
        }
        next += 2;
        let mut take = |at: usize| found.push(Arrow { line: tokens[at].0, name: sign(at).to_owned() });
        if sign(next) != "{" {
            take(next);
            continue;
        }
        let mut depth = 0;
        for at in next.. {
            depth += i32::from(sign(at) == "{") - i32::from(sign(at) == "}");
            match (depth, sign(at)) {
                (0, _) => break,
                (1, "{" | ",") if sign(at + 1) != "}" => take(at + 1),
                _ => {}
            }
        }
    }
    found
}

/// The room of everything that the crate root exports.
fn exports() -> BTreeMap<String, String> {
    let tokens = tokens(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let words: Vec<&str> = tokens.iter().map(|(_, token)| token.as_str()).collect();
    let mut found = BTreeMap::new();
    for at in 0..words.len() {
        if words[at] == "use" {
            for name in words[at + 2..].iter().take_while(|word| **word != ";") {
                found.insert((*name).to_owned(), words[at + 1].to_owned());
            }
        }
    }
    found
}

#[test]
fn every_room_is_in_the_table() {
    let mut rooms = BTreeSet::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let module = module_of(Path::new(&entry.unwrap().file_name()));
        rooms.extend(module);
    }
    let floors = floors();
    assert_eq!(rooms, floors.iter().cloned().collect(), "src, and the table of floors in CONTRIBUTING.md");
    assert_eq!(floors.len(), rooms.len(), "a room is on one floor: {floors:?}");
}

#[test]
fn no_arrow_runs_up() {
    let (floors, exports) = (floors(), exports());
    let floor_of = |room: &str| floors.iter().position(|known| known == room);
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files.sort();
    let (mut wrong, mut known, mut all) = (Vec::new(), BTreeSet::new(), 0);
    for path in files {
        let module = module_of(path.strip_prefix(root().join("src")).unwrap());
        // the root knows every room, and files of tests may look anywhere
        let Some(from) = module.first().filter(|_| module.last().unwrap() != "tests") else { continue };
        for Arrow { line, name } in arrows(&fs::read_to_string(&path).unwrap(), &module) {
            all += 1;
            let room = if floor_of(&name).is_some() { &name } else { exports.get(&name).unwrap_or(&name) };
            let place = format!("{}:{line}", path.strip_prefix(root()).unwrap().display());
            let Some(to) = floor_of(room) else {
                wrong.push(format!("{place}: crate::{name} is neither a room nor exported by lib.rs"));
                continue;
            };
            if Some(to) <= floor_of(from) {
                continue;
            }
            match KNOWN.iter().find(|arrow| **arrow == (from.as_str(), room.as_str())) {
                Some(arrow) => _ = known.insert(*arrow),
                None => wrong.push(format!("{place}: {from} uses crate::{name} of {room}, which is on a floor above")),
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that run up:\n{}", wrong.join("\n"));
    assert_eq!(known, BTreeSet::from(KNOWN), "arrows that are gone need not be known");
    assert!(all > 100, "{all} arrows: are they found?");
}

#[test]
fn arrows_are_found_wherever_they_stand() {
    let text = r##"
//! [`crate::comment`]
use crate::one::{A, b::C};
use crate::{
    two::D, Three,
    four::{E, F},
};
use super::super::five;
use super::sibling;
fn f<'a>(x: &'a crate::six::G) -> char {
    let _ = ("crate::text \" crate::text", r#"crate::raw " "#, '"', '\'', b'{', "https://");
    /* crate::block */
    flashflood::seven(super::super::super::Eight)
}
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic }")]
mod tests {
    use crate::test;
}
#[cfg(test)]
mod more;
use crate::nine;
"##;
    let found = |module: &[&str]| -> Vec<(usize, String)> {
        let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
        arrows(text, &module).into_iter().map(|arrow| (arrow.line, arrow.name)).collect()
    };
    let expected = |more: &[(usize, &str)]| -> Vec<(usize, String)> {
        let plain = [(3, "one"), (5, "two"), (5, "Three"), (6, "four"), (10, "six"), (13, "seven"), (22, "nine")];
        let mut all: Vec<(usize, String)> =
            plain.iter().chain(more).map(|(line, name)| (*line, (*name).to_owned())).collect();
        all.sort_by_key(|(line, _)| *line);
        all
    };
    assert_eq!(found(&["a", "b"]), expected(&[(8, "five")]));
    assert_eq!(found(&["a"]), expected(&[(9, "sibling")]));
    assert_eq!(found(&["a", "b", "c"]), expected(&[(13, "Eight")]));
}
