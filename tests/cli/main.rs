//! The program as its users meet it: what goes to stdout and to stderr, exit codes, and every kind of bad input.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod calibrate;
mod chat;
mod check;
mod config;
mod doctor;
mod ends;
mod errors;
mod hub;
mod inspect;
mod list;
mod logits;
mod manual;
#[cfg(unix)]
mod messages;
mod models;
mod pack;
mod pull;
mod reliability;
mod run;
mod sessions;
mod synth;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// What a command did.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The program, without what the environment of whoever runs the tests says about it.
fn flashflood(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashflood"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if upper.starts_with("FLASHFLOOD_") || upper.starts_with("HF_") || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    // no configuration file, and no Hugging Face cache or token
    command.env("FLASHFLOOD_CONFIG", "").env("HF_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-hugging-face"));
    // tests write nothing into the user's cache folder
    command.env("FLASHFLOOD_NO_AUTOTUNE", "1");
    command.env_remove("RUST_LOG").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let outcome = Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
    outcome
}

/// Runs the program to its end.
fn outcome(arguments: &[&str]) -> Outcome {
    ended(flashflood(arguments).spawn().unwrap())
}

fn outcome_with_input(arguments: &[&str], input: &[u8]) -> Outcome {
    let mut child = flashflood(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ended(child)
}

/// The stdout of a run that must succeed.
fn stdout(arguments: &[&str]) -> String {
    let outcome = outcome(arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:#?}");
    outcome.stdout
}

impl Outcome {
    /// Exit code 1, and one `error:` line of this program, which contains all of `parts`. Drivers may write to stderr
    /// as well.
    fn failed(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let is_error = |line: &&str| {
            line.starts_with("error: ") && parts.iter().all(|part| line.contains(part) || self.hint().contains(part))
        };
        assert!(self.stderr.lines().any(|line| is_error(&line)), "no error line with {parts:?}: {self:#?}");
    }

    fn hint(&self) -> &str {
        self.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default()
    }

    /// Exit code 2: the command line itself is wrong.
    fn misused(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:#?}");
        for part in ["error: "].iter().chain(parts) {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:#?}");
        }
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A copy of a folder, to be damaged.
struct Copy(TempDir);

impl Copy {
    fn of(folder: &str) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        copy_into(&in_repository(folder), dir.path());
        Copy(dir)
    }

    /// The pack that the program has embedded.
    fn of_pack() -> Copy {
        Copy::of("models/small-moe")
    }

    /// The same with a chat template that lets the model think, as those of larger models do.
    fn of_pack_that_thinks() -> Copy {
        let copy = Copy::of_pack();
        copy.change("chat_template.jinja", |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let (history, prompt) = text.rsplit_once("<think>\\n\\n</think>\\n\\n").unwrap();
            *bytes = format!("{history}<think>\\n{prompt}").into_bytes();
        });
        copy
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        fs::write(self.file(name), bytes).unwrap();
    }
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_into(&entry.path(), &to);
        } else {
            // read and written, so that the copy can be changed where the original is read-only
            fs::write(to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
fn help_of_every_command() {
    let help = stdout(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // a name is followed by two blanks; the rest of a long description begins further right
    let names: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split("  ").next()).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty() && *name != "help").collect();
    for command in ["run", "pack", "logits"] {
        assert!(names.contains(&command), "{names:?}");
    }
    for name in names {
        for help in [stdout(&[name, "--help"]), stdout(&["help", name]), stdout(&[name, "-h"])] {
            assert!(help.contains("Usage: flashflood "), "{help}");
        }
    }
    assert!(stdout(&["--version"]).starts_with(concat!("flashflood ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn misuse_is_exit_code_2() {
    outcome(&["frobnicate"]).misused(&["frobnicate"]);
    outcome(&["run", "--frobnicate", "hello"]).misused(&["--frobnicate"]);
    outcome(&["run", "--device", "abacus", "hello"]).misused(&["abacus", "auto, gpu, cpu"]);
    outcome(&["run", "--file", "x", "hello"]).misused(&["--file", "cannot be used with"]);
    outcome(&["run", "-n", "many", "hello"]).misused(&["many"]);
    outcome(&["logits"]).misused(&["--tokens", "--out"]);
    for size in ["", "much", "-1", "1.2.3GB", "12parrots"] {
        outcome(&["run", &format!("--expert-cache={size}"), "hello"]).misused(&["--expert-cache"]);
    }
    assert_eq!(outcome(&[]).code, Some(2));
}
