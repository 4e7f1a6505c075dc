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
