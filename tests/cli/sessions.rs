//! `flashflood run --session-dir`.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const STORY: [&str; 9] = ["run", "--raw", "--device", "cpu", "--temp", "0", "-n", "20", "--stats"];

fn flashflood(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashflood"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLASHFLOOD_")) {
        command.env_remove(name);
    }
    command.env("FLASHFLOOD_NO_AUTOTUNE", "1").env_remove("RUST_LOG").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Text and messages of a run that must succeed.
fn run(arguments: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = flashflood(arguments).output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(status.success() && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (stdout, stderr)
}

/// `reused R of P tokens` in the statistics.
fn reused(stderr: &str) -> (usize, usize) {
    let line = stderr.lines().find_map(|line| line.strip_prefix("reused ")).unwrap_or_else(|| panic!("{stderr}"));
    let (reused, rest) = line.split_once(" of ").unwrap();
    (reused.parse().unwrap(), rest.split_once(" tokens").unwrap().0.parse().unwrap())
}

/// What is in a folder, in order.
fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_text_goes_on_where_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("made/by/run");
    let sessions = ["--session-dir", directory.to_str().unwrap()];
    let (plain, _) = run(&[&STORY[..], &["Once upon a time"]].concat());
    let (first, stats) = run(&[&STORY[..], &sessions, &["Once upon a time"]].concat());
    assert_eq!((&first, reused(&stats)), (&plain, (0, 4)));
    // the last of 20 tokens was written and not run
    let more = first.trim_end_matches('\n');
    let (plain, _) = run(&[&STORY[..], &[more]].concat());
    let (second, stats) = run(&[&STORY[..], &sessions, &[more]].concat());
    assert_eq!((&second, reused(&stats)), (&plain, (23, 24)), "{stats}");
    assert_eq!(names(&directory).len(), 1, "the longer timeline replaces the shorter");
}

/// The same text with another seed: all but its last token is there, and the blank behind it, which is chosen anew.
#[test]
fn a_text_is_continued_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = ["--session-dir", folder.path().to_str().unwrap()];
    let prompt = "They went to the tower together and sat under a tree. ".repeat(4);
    let with_seed = |seed: &str, more: &[&str]| {
        let sampled = ["run", "--raw", "--device", "cpu", "-n", "20", "--temp", "0.9", "--stats", "--seed", seed];
        run(&[&sampled[..], more, &[&prompt]].concat())
    };
    with_seed("1", &sessions);
    let (second, stats) = with_seed("2", &sessions);
    let (reused, total) = reused(&stats);
    assert!(total > 40 && reused == total - 2, "{stats}");
    assert_eq!(second, with_seed("2", &[]).0);
}

#[test]
fn questions_share_a_system_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let system = "Answer with the name of a city. ".repeat(8);
    let ask = |country: &str, more: &[&str]| {
        let question = format!("What is the capital of {country}?");
        let common = ["run", "--device", "cpu", "--stats", "--temp", "0", "--system", &system, &question];
        run(&[&common[..], more].concat())
    };
    let sessions = ["--session-dir", folder.path().to_str().unwrap()];
    let (_, stats) = ask("Peru", &sessions);
    assert_eq!(reused(&stats).0, 0);
    let (answer, stats) = ask("Japan", &sessions);
    assert_eq!(answer, ask("Japan", &[]).0);
    let (reused, total) = reused(&stats);
    assert!(reused > 50 && total - reused < 30, "{stats}");
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn damage_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&STORY[..], &["--session-dir", folder.path().to_str().unwrap()]].concat();
    let (first, _) = run(&[&arguments[..], &["Once upon a time"]].concat());
    let more = first.trim_end_matches('\n');
    let file = folder.path().join(&names(folder.path())[0]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let (second, messages) = run(&[&arguments[..], &[more]].concat());
    assert_eq!((second, reused(&messages)), (run(&[&STORY[..], &[more]].concat()).0, (0, 24)));
    let warning = messages.lines().find(|line| line.starts_with("warning: ")).unwrap();
    assert!(warning.contains(file.to_str().unwrap()) && warning.contains("damaged: length: expected "), "{warning}");
}

/// A program that is killed while it writes leaves the file of the run before.
#[test]
fn killed_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&STORY[..], &["--session-dir", folder.path().to_str().unwrap()]].concat();
    let (first, _) = run(&[&arguments[..], &["Once upon a time"]].concat());
    let more = first.trim_end_matches('\n');
    let endless = ["-n", "5000", "--temp", "100", "--top-k", "0", "--top-p", "1", "--seed", "4"];
    let options = ["run", "--raw", "--device", "cpu", "--session-dir", folder.path().to_str().unwrap()];
    let mut child = flashflood(&[&options[..], &endless, &[more]].concat()).spawn().unwrap();
    let mut begun = vec![0; more.len() + 10];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, stats) = run(&[&arguments[..], &[more]].concat());
    assert_eq!(reused(&stats), (23, 24));
    assert!(!stats.contains("warning"), "{stats}");
}

#[test]
fn what_cannot_be_kept_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&STORY[..], &["Once upon a time", "--session-dir", folder.path().to_str().unwrap()]].concat();
    let (_, messages) = run(&[&arguments[..], &["--session-space", "1kB"]].concat());
    assert!(messages.contains("warning: this session is not kept: the session takes "), "{messages}");
    assert!(names(folder.path()).is_empty());
    let output = flashflood(&[&arguments[..], &["--session-space", "much"]].concat()).output().unwrap();
    let message = text(&output.stderr);
    assert!(
        output.status.code() == Some(2) && message.contains("expected a size such as 8GB, found 'much'"),
        "{message}"
    );
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = flashflood(&[&STORY[..], &["hello", "--session-dir", file.to_str().unwrap()]].concat()).output();
    let output = output.unwrap();
    let message = text(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains(file.to_str().unwrap()), "{message}");
}

/// A prompt of thousands of tokens on a pipe: no bar, with the flag or without.
#[test]
fn no_bar_on_a_pipe() {
    let prompt = "They went to the tower together and sat under a tree. ".repeat(150);
    for more in [&[][..], &["--no-progress"]] {
        let (_, messages) = run(&[&["run", "--raw", "--device", "cpu", "-n", "1", &prompt][..], more].concat());
        assert_eq!(messages, "", "{more:?}");
    }
}
