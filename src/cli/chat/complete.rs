//! What Tab adds to a line: names of commands, of conversations that were kept, of settings, and of files.

use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

use super::commands::COMMANDS;
use super::conversation::SETTINGS;

/// Helps with a line.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub(super) struct Completion {
    /// Conversations that were kept.
    folder: PathBuf,
    files: FilenameCompleter,
}

impl Completion {
    pub(super) fn new(folder: PathBuf) -> Self {
        Completion { folder, files: FilenameCompleter::new() }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        if let Some((command, rest)) = typed.split_once(' ')
            && command == "/read"
        {
            return self.files.complete(line, at, context).map(|(from, found)| (from.max(at - rest.len()), found));
        }
        let (from, words) = candidates(typed, &self.folder);
        let pair = |word: String| Pair { display: word.clone(), replacement: word };
        Ok((from, words.into_iter().map(pair).collect()))
    }
}

/// Where what is completed begins, and what it may become.
fn candidates(typed: &str, folder: &Path) -> (usize, Vec<String>) {
    let begins = |words: Vec<String>, with: &str| -> Vec<String> {
        let mut found: Vec<String> = words.into_iter().filter(|word| word.starts_with(with)).collect();
        found.sort();
        found.dedup();
        found
    };
    match typed.split_once(' ') {
        None if typed.starts_with('/') => {
            let commands = COMMANDS.iter().filter_map(|(usage, _)| usage.split(' ').next());
            let commands = commands.filter(|word| word.starts_with('/')).map(str::to_owned);
            (0, begins(commands.collect(), typed))
        }
        Some(("/load" | "/save", rest)) => (typed.len() - rest.len(), begins(kept(folder), rest)),
        Some(("/set", rest)) if !rest.contains(' ') => {
            (typed.len() - rest.len(), begins(SETTINGS.map(str::to_owned).to_vec(), rest))
        }
        Some(("/think", rest)) => (typed.len() - rest.len(), begins(vec!["on".to_owned(), "off".to_owned()], rest)),
        _ => (typed.len(), Vec::new()),
    }
}

/// Names of the conversations in a folder.
pub(super) fn kept(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn commands_settings_and_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["trip to Lima", "trip home", "soup"] {
            std::fs::write(folder.path().join(format!("{name}.json")), "{}").unwrap();
        }
        let of = |typed: &str| candidates(typed, folder.path());
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(of("/s"), (0, words(&["/save", "/set", "/stats", "/system"])));
        assert_eq!(of("/load trip"), (6, words(&["trip home", "trip to Lima"])));
        assert_eq!(of("/set min"), (5, words(&["min-p"])));
        assert_eq!(of("/think o"), (7, words(&["off", "on"])));
        for nothing in ["hello /s", "", "/nothing x", "/set temp 0"] {
            assert_eq!(of(nothing).1, words(&[]), "{nothing}");
        }
    }
}
