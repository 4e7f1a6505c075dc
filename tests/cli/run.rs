//! `flashflood run`: where a prompt may come from, and what text comes back.

use super::*;

/// With activations in f32, so that all devices tell the same.
const STORY: [&str; 7] = ["run", "--raw", "Once upon a time", "--temp", "0", "--activations", "f32"];
const BEGINNING: &str = "Once upon a time there was a little dog named Max who lived near the tower.";

fn story(more: &[&str]) -> Outcome {
    let outcome = outcome(&[&STORY, more].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    outcome
}

#[test]
fn a_story_on_each_device() {
    for device in ["cpu", "gpu"] {
        let text = story(&["-n", "40", "--device", device]).stdout;
        assert!(text.starts_with(BEGINNING) && text.ends_with('\n'), "{device}: {text:?}");
    }
}

/// What is measured on a GPU is kept in the user's cache folder, and the text is the same; a software driver is never
/// measured.
#[test]
fn only_gpus_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&STORY[..], &["-n", "40", "--device", "gpu"]].concat();
    let mut command = flashflood(&arguments);
    command.env_remove("FLASHFLOOD_NO_AUTOTUNE").env("RUST_LOG", "info");
    for variable in ["XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"] {
        command.env(variable, folder.path());
    }
    let outcome = ended(command.spawn().unwrap());
    assert_eq!((outcome.code, outcome.stdout), (Some(0), story(&["-n", "40", "--device", "gpu"]).stdout));
    let files = ["flashflood/teams.json", "Library/Caches/flashflood/teams.json"];
    let is_kept = files.iter().any(|file| folder.path().join(file).exists());
    let is_software = ["llvmpipe", "Basic Render"].iter().any(|name| outcome.stderr.contains(name));
    assert_eq!(is_kept, !is_software, "{}", outcome.stderr);
}

#[test]
fn a_question_is_answered() {
    for more in [&["--temp", "0"][..], &["--seed", "1"], &["--seed", "2", "--device", "cpu"]] {
        let answer = stdout(&[&["run", "What is the capital of Peru?"], more].concat());
        assert_eq!(answer, "Lima\n", "{more:?}");
    }
}

#[test]
fn an_answer_follows_its_schema() {
    let schema =
        r#"{"type": "object", "properties": {"n": {"enum": [3]}}, "required": ["n"], "additionalProperties": false}"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.json");
    fs::write(&file, schema).unwrap();
    let question = ["run", "What is the capital of Peru?", "--device", "cpu", "--temp", "0", "--json-schema"];
    for given in [schema, &format!("@{}", file.display())] {
        let answer = stdout(&[&question[..], &[given]].concat());
        assert_eq!(answer.split_whitespace().collect::<String>(), r#"{"n":3}"#);
    }
    for (bad, part) in
        [("{", "expected JSON"), ("@/does/not/exist", "/does/not/exist"), ("{\"type\": \"fish\"}", "fish")]
    {
        outcome(&[&question[..], &[bad]].concat()).failed(&[part]);
    }
}

#[test]
fn the_prompt_comes_from_an_argument_a_file_or_stdin() {
    let raw = ["run", "--raw", "--device", "cpu", "--temp", "0", "-n", "20"];
    let expected = stdout(&[&raw[..], &["Once upon a time"]].concat());
    // a shell's echo ends the line, and that is not part of the prompt
    for input in ["Once upon a time", "Once upon a time\n"] {
        let outcome = outcome_with_input(&raw, input.as_bytes());
        assert_eq!((outcome.code, outcome.stdout), (Some(0), expected.clone()));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    fs::write(&file, "Once upon a time").unwrap();
    assert_eq!(stdout(&[&raw[..], &["-f", file.to_str().unwrap()]].concat()), expected);
    let answer = outcome_with_input(&["run", "--device", "cpu"], b"What is the capital of Peru?\n");
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), "Lima\n"));
}

#[test]
fn an_empty_prompt_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty");
    fs::write(&file, "").unwrap();
    for how in [&["run"][..], &["run", "--raw"], &["run", ""], &["run", "--file", file.to_str().unwrap()]] {
        outcome(how).failed(&["the prompt is empty", "as an argument or on standard input"]);
    }
    outcome_with_input(&["run"], b"\n").failed(&["the prompt is empty"]);
}

#[test]
fn a_prompt_that_is_not_text_is_an_error() {
    outcome_with_input(&["run"], b"caf\xe9").failed(&["standard input", "UTF-8"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("latin-1.txt");
    fs::write(&file, b"caf\xe9").unwrap();
    let file = file.to_str().unwrap();
    outcome(&["run", "-f", file]).failed(&[file, "UTF-8"]);
    outcome(&["run", "-f", "/does/not/exist"]).failed(&["/does/not/exist"]);
}

#[test]
fn text_ends_where_it_is_told_to() {
    let whole = story(&["-n", "40", "--device", "cpu"]).stdout;
    for (stop, shown) in
        [("tower", BEGINNING.trim_end_matches("tower.")), ("named Max", "Once upon a time there was a little dog ")]
    {
        let found = story(&["-n", "40", "--device", "cpu", "--stop", "no such text", "--stop", stop]).stdout;
        assert_eq!(found, format!("{shown}\n"));
        assert!(whole.starts_with(shown));
    }
    assert_eq!(story(&["-n", "0", "--device", "cpu"]).stdout, "Once upon a time\n");
    // the context ends before the text does
    let short = story(&["-c", "12", "--device", "cpu"]);
    assert!(BEGINNING.starts_with(short.stdout.trim_end()), "{short:#?}");
    assert!(short.stderr.contains("note: the context is full; raise --ctx for more"), "{short:#?}");
}

#[test]
fn a_seed_gives_its_text_again() {
    let with_seed = |seed: &str, more: &[&str]| {
        let sampled =
            ["run", "--raw", "Once upon a time", "--temp", "0.9", "-n", "40", "--device", "cpu", "--seed", seed];
        stdout(&[&sampled[..], more].concat())
    };
    let text = with_seed("7", &[]);
    assert_eq!(with_seed("7", &[]), text);
    assert_eq!(with_seed("7", &["--expert-cache", "1MB"]), text);
    assert_ne!(with_seed("8", &[]), text);
}

#[test]
fn stats_go_to_stderr() {
    let plain = story(&["-n", "20", "--device", "cpu"]);
    let with_stats = story(&["-n", "20", "--device", "cpu", "--stats"]);
    assert_eq!(with_stats.stdout, plain.stdout);
    for part in ["prefill 4 tokens in ", "decode 19 tokens at ", "experts: ", " % hit (", "resident weights ", "CPU ("]
    {
        assert!(with_stats.stderr.contains(part) && !plain.stderr.contains(part), "{part:?}: {with_stats:#?}");
    }
}

#[test]
fn without_a_driver_the_cpu_computes() {
    let without_driver = |device: &str| {
        let mut command = flashflood(&["run", "What is the capital of Peru?", "--device", device]);
        ended(command.env("VK_DRIVER_FILES", "/does/not/exist.json").spawn().unwrap())
    };
    // where there are other ways to a GPU than Vulkan, this says nothing
    if cfg!(target_os = "linux") {
        let auto = without_driver("auto");
        assert_eq!((auto.code, auto.stdout.as_str(), auto.stderr.as_str()), (Some(0), "Lima\n", ""));
        without_driver("gpu").failed(&["no GPU or software driver found"]);
    }
}

#[test]
fn verbose_says_where_and_with_what_memory() {
    let outcome = story(&["-n", "1", "--device", "cpu", "--verbose"]);
    assert!(outcome.stderr.contains("expert slots"), "{outcome:#?}");
}

#[test]
fn a_profile_is_a_table_beside_the_text() {
    let profiled = story(&["-n", "8", "--device", "gpu", "--profile"]);
    assert_eq!(profiled.stdout, story(&["-n", "8", "--device", "gpu"]).stdout);
    let row = |name: &str| {
        let row = profiled.stderr.lines().find(|line| line.starts_with(&format!("| {name}")));
        row.unwrap_or_else(|| panic!("{name}: {profiled:#?}")).split('|').map(|cell| cell.trim().to_owned())
    };
    for kernel in ["delta_net |", "attention_f16 |", "combine_norm |", "matvec", "expert_gate_up"] {
        let calls: f64 = row(kernel).nth(2).unwrap().parse().unwrap();
        assert!(calls >= 1.0, "{kernel}: {profiled:#?}");
    }
    // only what reads weights has a speed, and it is a share of the ceiling
    assert!(profiled.stderr.contains("ceiling: "), "{profiled:#?}");
    assert!(row("matvec").nth(7).unwrap().parse::<f64>().unwrap() > 0.0, "{profiled:#?}");
    assert_eq!(row("delta_net |").nth(6).unwrap(), "");
}

#[test]
fn the_processor_has_a_profile() {
    let profiled = story(&["-n", "2", "--device", "cpu", "--profile"]);
    assert_eq!(profiled.stdout, story(&["-n", "2", "--device", "cpu"]).stdout);
    let row = |kernel: &str| {
        let found = profiled.stderr.lines().find(|line| line.starts_with(&format!("| {kernel} |")));
        found.unwrap_or_else(|| panic!("no {kernel}: {profiled:#?}")).split('|').map(str::trim)
    };
    assert!(profiled.stderr.contains("ceiling: "), "{profiled:#?}");
    for reads_weights in ["matmul", "experts"] {
        assert!(row(reads_weights).nth(7).unwrap().parse::<f64>().unwrap() > 0.0, "{profiled:#?}");
    }
    assert_eq!(row("delta_net").nth(6).unwrap(), "");
}

/// The driver's own words are not ours to hide, but nobody asked for a window.
#[test]
fn no_desktop_is_looked_for() {
    let arguments = ["run", "--raw", "Once upon a time", "--max-tokens", "2", "--device", "gpu"];
    let mut command = flashflood(&arguments);
    for name in ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY"] {
        command.env_remove(name);
    }
    let outcome = ended(command.spawn().unwrap());
    assert!(outcome.code == Some(0) && !outcome.stderr.contains("XDG_RUNTIME_DIR"), "{outcome:#?}");
}
