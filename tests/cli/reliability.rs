//! Damaged models, machines that lack something, and files of others: a word about it, never other text or an end without
//! one.

use super::*;

const TELL: [&str; 11] =
    ["run", "--device", "cpu", "--temp", "0", "--seed", "1", "-n", "8", "--raw", "Once upon a time"];

fn tell(pack: &Path, more: &[&str]) -> Outcome {
    let model = ["-m", pack.to_str().unwrap()];
    outcome(&[&TELL[..], &model, more].concat())
}

fn damage(path: &Path, at: usize, zeros: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at..at + zeros].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_pack_does_not_tell_another_story() {
    let pack = Copy::of_pack();
    let whole = tell(pack.0.path(), &[]);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let resident = pack.0.path().join("resident.safetensors");
    let half = fs::metadata(&resident).unwrap().len() as usize / 2;
    damage(&resident, half, 4096);
    tell(pack.0.path(), &[]).failed(&["resident.safetensors", "resident weights", "checksum"]);
    outcome(&["verify", pack.0.path().to_str().unwrap()]).failed(&["resident.safetensors", "checksum"]);
    // whoever does not want to know
    let other = tell(pack.0.path(), &["--no-verify"]);
    assert_eq!(other.code, Some(0), "{other:?}");
    assert_ne!(other.stdout, whole.stdout);
}

/// A pack that this program makes knows its tokenizer, its template and itself.
#[test]
fn the_files_beside_the_weights_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack");
    let from = in_repository("models/small-moe");
    let path = pack.to_str().unwrap();
    stdout(&["pack", from.to_str().unwrap(), path, "--bits", "0", "--resident-bits", "0"]);
    assert!(stdout(&["verify", path]).contains("intact"));
    let whole = tell(&pack, &[]);
    assert_eq!((whole.code, whole.stderr.contains("warning")), (Some(0), false), "{whole:?}");

    let tokenizer = pack.join("tokenizer.json");
    let before = fs::read_to_string(&tokenizer).unwrap();
    // the ids of two tokens exchanged
    let (the, and) = (id_of(&before, "Ġthe"), id_of(&before, "Ġand"));
    let exchanged = before
        .replacen(&format!("\"Ġthe\":{the}"), "\"Ġthe\":TMP", 1)
        .replacen(&format!("\"Ġand\":{and}"), &format!("\"Ġand\":{the}"), 1)
        .replacen("\"Ġthe\":TMP", &format!("\"Ġthe\":{and}"), 1);
    assert_ne!(exchanged, before);
    fs::write(&tokenizer, exchanged).unwrap();
    tell(&pack, &[]).failed(&["tokenizer.json"]);
    fs::write(&tokenizer, before).unwrap();

    // a template may be edited
    let template = pack.join("chat_template.jinja");
    fs::write(&template, fs::read_to_string(&template).unwrap() + " ").unwrap();
    let edited = tell(&pack, &[]);
    assert_eq!((edited.code, &edited.stdout), (Some(0), &whole.stdout));
    assert!(
        edited.stderr.to_lowercase().contains("warn") && edited.stderr.contains("chat_template.jinja"),
        "{edited:?}"
    );

    let manifest = pack.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let changed = text.replacen("\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 5", 1);
    assert_ne!(changed, text, "{text}");
    fs::write(&manifest, changed).unwrap();
    tell(&pack, &[]).failed(&["manifest.json", "checksum"]);
}

fn id_of(tokenizer: &str, token: &str) -> String {
    let after = tokenizer.split(&format!("\"{token}\":")).nth(1).unwrap();
    after.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn what_has_no_hashes_cannot_be_verified() {
    let tiny = in_repository("tests/golden/oracle/tiny");
    outcome(&["verify", tiny.to_str().unwrap()]).failed(&["none of its files has a hash", "flashflood pull"]);
    outcome(&["verify", "/nowhere"]).failed(&["/nowhere"]);
}

/// A template comes with a model: it ends neither the program nor the machine's memory.
#[test]
fn templates_end() {
    let pack = Copy::of_pack();
    let template = pack.0.path().join("chat_template.jinja");
    for (source, said) in [
        (format!("{{{{ {}1 }}}}", "not ".repeat(50_000)), "line 1"),
        (format!("{{{{ a{} }}}}", ".b".repeat(50_000)), "line 1"),
        (format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000)), "line 1"),
        ("{{ [1]|tojson(indent=99999999999) }}".to_owned(), "line 1"),
        ("{{ '%99999999999d'|format(1) }}".to_owned(), "line 1"),
    ] {
        fs::write(&template, source).unwrap();
        outcome(&["run", "--device", "cpu", "-n", "1", "hi", "-m", pack.0.path().to_str().unwrap()])
            .failed(&["chat_template.jinja", said]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn standard_error_may_be_full() {
    let mut command = flashflood(&["run", "--device", "cpu", "-n", "3", "--raw", "a", "--stats"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = command.stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn more_threads_than_are_of_use_end_as_well() {
    let mut command = flashflood(&["run", "--device", "cpu", "-n", "3", "--raw", "a"]);
    assert_eq!(ended(command.env("RAYON_NUM_THREADS", "5000").spawn().unwrap()).code, Some(0));
}

/// Sessions hold what people wrote.
#[cfg(unix)]
#[test]
fn sessions_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let sessions = folder.path().join("sessions");
    stdout(&[
        "run",
        "--device",
        "cpu",
        "--temp",
        "0",
        "-n",
        "3",
        "--raw",
        "a",
        "--session-dir",
        sessions.to_str().unwrap(),
    ]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&sessions), 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&sessions).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!((files.len(), mode(&files[0])), (1, 0o600));
}

/// A file that is mapped gets shorter, or its disk fails: a word and an exit code, and no signal.
#[cfg(unix)]
#[test]
fn a_mapped_file_that_is_shortened() {
    use std::io::Read;
    let pack = Copy::of_pack();
    let path = pack.0.path().to_str().unwrap();
    // an answer that is bound to be long
    let schema = r#"{"type": "string", "pattern": "^x{2000}$"}"#;
    let run = ["run", "--device", "cpu", "-n", "4000", "--json-schema", schema, "Count.", "-m"];
    let mut child = flashflood(&[&run[..], &[path]].concat()).spawn().unwrap();
    // what it says is read, so that it goes on
    let mut said = child.stdout.take().unwrap();
    let mut first = [0; 16];
    said.read_exact(&mut first).unwrap();
    let resident = pack.0.path().join("resident.safetensors");
    fs::OpenOptions::new().write(true).open(&resident).unwrap().set_len(4096).unwrap();
    let reader = std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
    let outcome = ended(child);
    reader.join().unwrap().unwrap();
    outcome.failed(&[resident.to_str().unwrap(), "the file was shortened", "flashflood verify"]);
}

/// Addresses that cannot be had (`ulimit -v`): a run does what it should, or says what it lacks and what to do.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there() {
    let pack = in_repository("models/small-moe");
    let (mut ends, mut silent) = (Vec::new(), 0);
    // KiB: from what the program does not even start with to what is enough
    for step in 0..60 {
        let limit = (20_000.0 * 1.1f64.powi(step)) as u64;
        let limited = |arguments: &[&str]| {
            let run = flashflood(arguments);
            let mut limited = Command::new("sh");
            limited.arg("-c").arg(format!("ulimit -c 0; ulimit -v {limit}; exec \"$0\" \"$@\"")).arg(run.get_program());
            limited.args(run.get_args()).envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
            limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let output = limited.spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
        };
        // the system cannot load it
        if limited(&["--version"]).0 != Some(0) {
            assert!(limit < 200_000, "{limit} KiB");
            continue;
        }
        let (code, written, said) =
            limited(&["run", "--device", "cpu", "-n", "4", "--raw", "a", "-m", pack.to_str().unwrap()]);
        match code {
            Some(0) => assert!(!written.is_empty()),
            Some(1) => assert!(said.contains("\nhint: ") && said.contains("error: "), "{limit} KiB: {said}"),
            // at the edge of what the system can load it kills some programs before their first instruction, and not others
            None if said.is_empty() => silent += 1,
            _ => panic!("{limit} KiB: {code:?}: {said}"),
        }
        ends.push((limit, code));
        if matches!(ends[..], [.., (_, Some(0)), (_, Some(0)), (_, Some(0))]) {
            break;
        }
    }
    assert!(silent <= 2, "{silent} of {ends:?}");
    assert_eq!(ends.last().map(|(_, code)| *code), Some(Some(0)), "{ends:?}");
}

/// What experts a text needs says much about the text.
#[cfg(unix)]
#[test]
fn traces_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (victim, trace) = (folder.path().join("victim"), folder.path().join("trace"));
    fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, &trace).unwrap();
    let run = |trace: &str| stdout(&["run", "--device", "cpu", "-n", "3", "--raw", "a", "--trace-experts", trace]);
    run(trace.to_str().unwrap());
    let meta = fs::symlink_metadata(&trace).unwrap();
    assert!(meta.is_file() && meta.len() > 0, "{meta:?}");
    assert_eq!((meta.permissions().mode() & 0o777, fs::read_to_string(&victim).unwrap()), (0o600, "kept".to_owned()));
    // devices stay what they are
    run("/dev/null");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

/// Names come with a model: they order terminals to do nothing.
#[cfg(unix)]
#[test]
fn what_models_say_of_themselves_is_text() {
    let places = list::places();
    let named = |start: &Path, name: &str| start.join(name.replace('!', "\u{1b}]0;owned\u{7}\u{9b}2J\u{7f}"));
    let config = "{\"model_type\": \"a\\u001b[2Jb\\u009b1m\", \"torch_dtype\": \"c\\u0007\"}";
    let other = places.0.path().join("models--org--other/snapshots/abc123/config.json");
    fs::write(&other, config).unwrap();
    let pack = Copy::of_pack();
    fs::write(named(pack.0.path(), "x!y.json"), "{}").unwrap();
    let pack_path = pack.path().to_owned();
    let snapshot = Copy::of("tests/golden/oracle/mini_next");
    fs::write(snapshot.file("config.json"), config).unwrap();
    let snapshot_path = snapshot.path().to_owned();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["inspect", "--device", "cpu", &pack_path],
        &["inspect", "--device", "cpu", "--json", &pack_path],
        &["inspect", "--device", "cpu", &snapshot_path],
    ] {
        let outcome = ended(list::with_places(arguments, &places).spawn().unwrap());
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!all.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{arguments:?}: {all:?}");
        assert!(all.contains("2J"), "what was said is there: {arguments:?}: {all:?}");
    }
}
