//! `flashflood chat`: a script on standard input, and somebody at a terminal.

use super::*;

const PERU: &str = "What is the capital of Peru?";

/// A chat whose lines come from standard input.
fn chat(folder: &Path, more: &[&str], lines: &str) -> Outcome {
    let arguments =
        [&["chat", "--device", "cpu", "--temp", "0", "--chat-dir", folder.to_str().unwrap()], more].concat();
    outcome_with_input(&arguments, lines.as_bytes())
}

fn answers(folder: &Path, lines: &str) -> Outcome {
    let outcome = chat(folder, &[], lines);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    outcome
}

#[test]
fn questions_of_one_and_of_several_lines() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!("{PERU}\n\n\"\"\"\nWhat is the capital\nof France?\n\"\"\"\n\"\"\"{PERU}\"\"\"\n");
    assert_eq!(answers(folder.path(), &lines).stdout, "Lima\nParis\nLima\n");
    // what follows /quit is not read
    assert_eq!(answers(folder.path(), &format!("/quit\n{PERU}\n")).stdout, "");
    let file = folder.path().join("question.txt");
    fs::write(&file, PERU).unwrap();
    assert_eq!(answers(folder.path(), &format!("/read {}\n", file.display())).stdout, "Lima\n");
}

/// What was said before is part of the next prompt, is not computed again, and is there again after /load: in another
/// process, from the state that /save kept.
#[test]
fn a_conversation_is_kept_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let reused = |outcome: &Outcome| -> usize {
        let line =
            outcome.stderr.lines().find(|line| line.contains(" reused)")).unwrap_or_else(|| panic!("{outcome:#?}"));
        line.split(" reused)").next().unwrap().rsplit('(').next().unwrap().parse().unwrap()
    };
    let first = answers(folder.path(), &format!("{PERU}\n/stats\n"));
    assert_eq!(reused(&first), 0);
    let again = answers(folder.path(), &format!("{PERU}\n{PERU}\n/stats\n/save my talk\n"));
    assert!(reused(&again) >= 20, "{again:#?}");
    let loaded = answers(folder.path(), &format!("/load my talk\n{PERU}\n/stats\n"));
    assert!(reused(&loaded) > reused(&again), "{loaded:#?}");
    assert_eq!(loaded.stdout, "Lima\n");
    assert!(loaded.stderr.contains("user: What is") && loaded.stderr.contains("assistant: Lima"), "{loaded:#?}");
    // with /clear it is as if nothing had been said; the beginning of every prompt may be known all the same
    let cleared = answers(folder.path(), &format!("/load my talk\n/clear\n{PERU}\n/save other\n"));
    assert_eq!(cleared.stdout, "Lima\n");
    let kept = fs::read_to_string(folder.path().join("other.json")).unwrap();
    assert_eq!(kept.matches("\"user\"").count(), 1, "{kept}");
}

/// The last question once more, and as an editor changes it: the exchange before is replaced, not added to.
#[test]
#[cfg(unix)]
fn the_last_question_again_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!("{PERU}\n/retry\n/save again\n");
    assert_eq!(answers(folder.path(), &lines).stdout, "Lima\nLima\n");
    let kept = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(kept("again.json").matches("\"user\"").count(), 1, "{}", kept("again.json"));
    chat(folder.path(), &[], "/retry\n").failed(&["nothing was asked yet"]);
    chat(folder.path(), &[], &format!("{PERU}\n/copy\n")).failed(&["/copy asks a terminal"]);
    let with_editor = |editor: &str, lines: &str| {
        let mut command = flashflood(&["chat", "--device", "cpu", "--temp", "0", "--chat-dir"]);
        command.arg(folder.path()).env_remove("VISUAL").env("EDITOR", editor).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        ended(child)
    };
    let changed = with_editor("sed -i s/Peru/France/", &format!("{PERU}\n/edit\n/save changed\n"));
    assert_eq!((changed.code, changed.stdout.as_str()), (Some(0), "Lima\nParis\n"), "{changed:#?}");
    assert!(!kept("changed.json").contains("Peru"), "{}", kept("changed.json"));
    with_editor("false", &format!("{PERU}\n/edit\n")).failed(&["false ended with"]);
    with_editor(" ", &format!("{PERU}\n/edit\n")).failed(&["neither VISUAL nor EDITOR", "export EDITOR"]);
    // nothing of what an editor had is left
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with("question")));
}

#[test]
fn settings_hold_from_the_next_answer_on() {
    let folder = tempfile::tempdir().unwrap();
    let outcome =
        answers(folder.path(), &format!("/set max-tokens 1\n/system Be brief.\n/set\nTell a story.\n{PERU}\n"));
    assert!(outcome.stderr.contains("cut at 1 tokens"), "{outcome:#?}");
    assert!(outcome.stderr.contains("system              \"Be brief.\""), "{outcome:#?}");
    assert!(outcome.stderr.contains("max-tokens          1\n"), "{outcome:#?}");
}

#[test]
fn lines_that_are_wrong_end_a_script() {
    let folder = tempfile::tempdir().unwrap();
    for (line, parts) in [
        ("/hepl", &["there is no command /hepl", "/help lists commands"][..]),
        ("/load nothing", &["nothing.json"]),
        ("/set temp hot", &["expected a number", "'hot'"]),
        ("/set temp -1", &["temperature", "-1"]),
        ("/read no-such-file", &["no-such-file"]),
    ] {
        chat(folder.path(), &[], &format!("{line}\n{PERU}\n")).failed(parts);
    }
    chat(folder.path(), &["-c", "8"], &format!("{PERU}\n")).failed(&["maximum context length is 8 tokens", "--ctx"]);
}

/// Thoughts are on standard error, and end when their budget is used up: an answer follows.
#[test]
fn thoughts_have_a_budget() {
    let pack = Copy::of_pack_that_thinks();
    let thought = |more: &[&str]| {
        // at this temperature tokens are nearly random: the one that ends thoughts does not come soon
        let arguments = ["run", "-m", pack.path(), "--device", "cpu", "--seed", "1", "-n", "20", PERU];
        let arguments = [&arguments[..], &["--temp", "50", "--top-k", "0", "--top-p", "1"]].concat();
        let outcome = outcome(&[&arguments[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        outcome
    };
    let free = thought(&[]);
    assert_eq!(free.stdout.trim(), "");
    let words = |outcome: &Outcome| outcome.stderr.split_whitespace().count();
    let most = words(&free);
    assert!(most > 0, "{free:#?}");
    let none = thought(&["--think-budget", "0"]);
    assert!(none.stdout.trim().len() > 1 && none.stderr.trim().is_empty(), "{none:#?}");
    let one = thought(&["--think-budget", "1"]);
    assert!(one.stdout.trim().len() > 1 && free.stderr.starts_with(one.stderr.trim_end()), "{one:#?} {free:#?}");
    let hidden = thought(&["--think-budget", "1", "--hide-thinking"]);
    assert_eq!((hidden.stdout, hidden.stderr.as_str()), (one.stdout, ""));
}

/// Types, stops an answer with Ctrl-C, and ends, at a terminal of Python's.
#[test]
#[cfg(unix)]
fn somebody_at_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let script = in_repository("tests/clients/chat_at_a_terminal.py");
    let mut command = Command::new("python3");
    let pack = Copy::of_pack_that_thinks();
    command.arg("-B").arg(script).arg(env!("CARGO_BIN_EXE_flashflood")).arg(folder.path()).arg(pack.path());
    command.env("FLASHFLOOD_CONFIG", "").env("FLASHFLOOD_NO_AUTOTUNE", "1").env_remove("NO_COLOR").env("TERM", "xterm");
    match command.output() {
        Err(e) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "python3: {e}");
            eprintln!("SKIPPED: python3: {e}");
        }
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        }
    }
}
