//! Snapshots of what the program says: the help of every command, and each error that a user can meet, with exit code,
//! stdout and stderr. `INSTA_UPDATE=always cargo test --test cli messages` writes them anew; read the difference.

use super::hub::{Behaviour, FakeHub, REPO, Served};
use super::*;

/// Columns that help is wrapped at.
const COLUMNS: &str = "100";

/// What a command said, as a terminal would show it, with the places of this machine left out.
fn said(command: &mut Command, places: &[(&str, &str)]) -> String {
    let shown = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let shown: Vec<String> =
        shown.map(|argument| if argument.contains(' ') { format!("{argument:?}") } else { argument }).collect();
    let outcome = ended(command.env("COLUMNS", COLUMNS).spawn().unwrap());
    // drivers talk as well
    let stderr: Vec<&str> = outcome.stderr.lines().filter(|line| !line.contains("XDG_RUNTIME_DIR")).collect();
    let section = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("-- {name}\n{text}\n") };
    let code = outcome.code.unwrap();
    let mut text = format!(
        "$ flashflood {}\n{}{}-- exit code {code}\n\n",
        shown.join(" "),
        section("stdout", outcome.stdout.trim_end()),
        section("stderr", &stderr.join("\n"))
    );
    let root = env!("CARGO_MANIFEST_DIR");
    for (place, name) in places.iter().chain(&[(root, "ROOT"), (env!("CARGO_PKG_VERSION"), "VERSION")]) {
        text = text.replace(place, name);
    }
    text
}

fn all_said(commands: &[&[&str]], places: &[(&str, &str)]) -> String {
    commands.iter().map(|arguments| said(&mut flashflood(arguments), places)).collect()
}

fn snapshot(name: &str, text: String) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

fn commands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split("  ").next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

#[test]
fn help() {
    snapshot("help", said(&mut flashflood(&["--help"]), &[]));
    for command in commands() {
        snapshot(&format!("help_{command}"), said(&mut flashflood(&[&command, "--help"]), &[]));
    }
}

#[test]
fn wrong_command_lines() {
    let text = all_said(
        &[
            &["frobnicate"],
            &["run", "--frobnicate", "hello"],
            &["run", "--ctxx", "5", "hello"],
            &["run", "--device", "abacus", "hello"],
            &["run", "-n", "many", "hello"],
            &["run", "--expert-cache", "12parrots", "hello"],
            &["run", "--rope-scaling", "linear:2", "hello"],
            &["run", "--chunk", "0", "hello"],
            &["run", "--file", "x", "hello"],
            &["logits"],
            &["pack", "x"],
            &["pack", "x", "y", "--bits", "7"],
            &["pull"],
            &["pull", "org/model", "--include", "[a"],
            &["completions", "abacus"],
        ],
        &[],
    );
    snapshot("wrong_command_lines", text);
}

#[test]
fn models_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let gguf = folder.path().join("model.gguf");
    let places = [(empty, "FOLDER")];
    let mut text = all_said(&[&["run", "-m", empty, "hello"]], &places);
    fs::write(&gguf, "GGUF").unwrap();
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-hugging-face");
    let places = [(empty, "FOLDER"), (home.to_str().unwrap(), "HF_HOME")];
    text += &all_said(
        &[
            &["run", "-m", "/does/not/exist", "hello"],
            &["run", "-m", gguf.to_str().unwrap(), "hello"],
            &["run", "-m", "org/model", "hello"],
            &["inspect", "org/model"],
            &["pack", "--verify", "/does/not/exist"],
            &["pull", "model"],
            &["pull", "org/model", "--local-only"],
            &["man", "fly"],
        ],
        &places,
    );
    snapshot("models_that_are_not_there", text);
}

#[test]
fn models_that_are_damaged() {
    let pack = Copy::of_pack();
    let places = [(pack.path(), "PACK")];
    let run = |pack: &Copy, places: &[(&str, &str)]| {
        all_said(&[&["run", "--device", "cpu", "-m", pack.path(), "hello"]], places)
    };
    pack.change("experts/layer-003.bin", |bytes| bytes.truncate(1000));
    let mut text = run(&pack, &places);
    fs::remove_file(pack.file("experts/layer-003.bin")).unwrap();
    text += &run(&pack, &places);
    fs::write(pack.file("manifest.json"), r#"{"format": "flashflood-pack", "version": 99}"#).unwrap();
    text += &run(&pack, &places);
    let pack = Copy::of_pack();
    let places = [(pack.path(), "PACK")];
    pack.change("resident.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 4);
    text += &all_said(&[&["pack", "--verify", pack.path()]], &places);
    fs::remove_file(pack.file("tokenizer.json")).unwrap();
    text += &run(&pack, &places);
    let llama = Copy::of("tests/golden/oracle/mini_next");
    let places = [(llama.path(), "SNAPSHOT")];
    fs::write(llama.file("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    text += &run(&llama, &places);
    snapshot("models_that_are_damaged", text);
}

#[test]
fn memory_and_devices() {
    let mut text = all_said(
        &[
            &["run", "--device", "cpu", "-c", "1000000000", "hello"],
            &["run", "--device", "cpu", "-c", "40000", "hello"],
            &["run", "--device", "cpu", "-c", "70000", "--rope-scaling", "yarn:2", "hello"],
            &["run", "--device", "cpu", "-c", "4", "Tell me a story."],
            &["run", "--device", "cpu", "--expert-cache", "1kB", "hello"],
            &["run", "--device", "cpu", ""],
            &["run", "--device", "cpu", "--temp", "-1", "hello"],
            &["run", "--stripe", "/x", "hello"],
            &["bench", "--experts"],
        ],
        &[],
    );
    let mut blind = flashflood(&["run", "--device", "gpu", "hello"]);
    blind.env("VK_DRIVER_FILES", "/does/not/exist").env("VK_ICD_FILENAMES", "/does/not/exist");
    text += &said(&mut blind, &[]);
    snapshot("memory_and_devices", text);
}

#[test]
fn configuration_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let places = [(folder.path().to_str().unwrap(), "FOLDER")];
    let of = |text: &str| {
        fs::write(&path, text).unwrap();
        format!("config.toml: {text}\n{}", said(flashflood(&["list"]).env("FLASHFLOOD_CONFIG", &path), &places))
    };
    let text = [
        "context = 5",
        "[run]\nmax_tokens = 5",
        "[walk]\nctx = 5",
        "ctx = 'many'",
        "device = 'abacus'",
        "verbose = 'yes'",
        "ctx = [1]",
        "ctx = ",
    ];
    let text: String = text.into_iter().map(of).collect();
    let missing = said(flashflood(&["list"]).env("FLASHFLOOD_CONFIG", "/does/not/exist"), &places);
    snapshot("configuration_files", text + &missing);
}

#[test]
fn hubs_that_say_no() {
    let cache = tempfile::tempdir().unwrap();
    let file = Served { name: "model.safetensors", bytes: vec![7; 100], large: true };
    let hub = FakeHub::of(vec![file], Behaviour { token: Some("secret"), ..Behaviour::default() });
    let endpoint = hub.endpoint();
    let places = [(endpoint.as_str(), "HUB"), (cache.path().to_str().unwrap(), "CACHE")];
    let pull = |name: &str, token: &str| {
        let mut command = flashflood(&["pull", name]);
        command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HUB_CACHE", cache.path()).env("HF_TOKEN", token);
        said(&mut command, &places)
    };
    let mut text = pull(REPO, "") + &pull(REPO, "wrong") + &pull("org/other", "secret");
    hub.behave(Behaviour { damage: 1000, ..Behaviour::default() });
    text += &pull(REPO, "");
    hub.behave(Behaviour { break_after: Some((0, 1000)), ..Behaviour::default() });
    text += &pull(REPO, "");
    hub.behave(Behaviour::default());
    text += &pull(REPO, "");
    snapshot("hubs_that_say_no", text);
}

/// Nothing but text goes into a pipe, whatever the environment says of colours.
#[test]
fn no_escapes_in_pipes() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["run", "--frobnicate"], &["list"], &["inspect", "--device", "cpu"]]
    {
        for (name, value) in [("NO_COLOR", "1"), ("TERM", "xterm-256color"), ("CLICOLOR", "1")] {
            let outcome = ended(flashflood(arguments).env(name, value).spawn().unwrap());
            assert!(!(outcome.stdout + &outcome.stderr).contains('\u{1b}'), "{arguments:?} with {name}={value}");
        }
    }
}
