//! `flashflood list`, and models by the name that it gives them.

use serde_json::Value;

use super::*;

/// A cache with a whole model, half of one, and one of another architecture; and a folder with packs.
pub(crate) fn places() -> (TempDir, TempDir) {
    let (cache, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = |name: &str| {
        let folder = cache.path().join(format!("models--org--{name}"));
        let snapshot = folder.join("snapshots/abc123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(folder.join("blobs")).unwrap();
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "abc123").unwrap();
        (folder, snapshot)
    };
    let (_, whole) = repository("whole");
    copy_into(&in_repository("tests/golden/small-moe/snapshot-8bit"), &whole);
    let (folder, half) = repository("half");
    copy_into(&in_repository("tests/golden/oracle/mini_next"), &half);
    fs::remove_file(half.join("model-00002-of-00002.safetensors")).unwrap();
    fs::write(folder.join("blobs/0.incomplete"), vec![0; 12_345]).unwrap();
    let (_, other) = repository("other");
    fs::write(other.join("config.json"), r#"{"model_type": "llama", "torch_dtype": "bfloat16"}"#).unwrap();
    let pack = data.path().join("flashflood/packs/small");
    fs::create_dir_all(&pack).unwrap();
    copy_into(&in_repository("models/small-moe"), &pack);
    let begun = data.path().join("flashflood/begun");
    fs::create_dir_all(&begun).unwrap();
    fs::write(begun.join("progress.json"), "{}").unwrap();
    (cache, data)
}

pub(crate) fn with_places(arguments: &[&str], places: &(TempDir, TempDir)) -> Command {
    let mut command = flashflood(arguments);
    command.env("HF_HUB_CACHE", places.0.path()).env("XDG_DATA_HOME", places.1.path());
    without_other_programs(&mut command, places.1.path());
    command
}

/// No models of LM Studio's and ollama's.
fn without_other_programs(command: &mut Command, home: &Path) {
    command.env("HOME", home).env("USERPROFILE", home).env("OLLAMA_MODELS", home.join("no-ollama"));
}

#[cfg(unix)]
#[test]
fn what_is_here_and_in_which_state() {
    let places = places();
    let outcome = ended(with_places(&["list", "--json"], &places).spawn().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let models: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    let of = |end: &str| models.iter().find(|model| model["name"].as_str().unwrap().ends_with(end)).unwrap();
    assert_eq!(models.len(), 5, "{models:#?}");
    assert_eq!(
        (&of("org/whole")["state"], &of("org/whole")["format"]),
        (&"complete".into(), &"qwen3_5_moe 8-bit".into())
    );
    assert_eq!((&of("org/half")["state"], of("org/half")["bytes"].as_u64()), (&"partial".into(), Some(12_345)));
    assert_eq!(
        (&of("org/other")["state"], &of("org/other")["format"]),
        (&"not-supported".into(), &"llama bfloat16".into())
    );
    assert_eq!((&of("packs/small")["state"], &of("packs/small")["kind"]), (&"complete".into(), &"pack".into()));
    assert_eq!(of("flashflood/begun")["state"], "partial");
    let text = ended(with_places(&["list"], &places).spawn().unwrap()).stdout;
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn a_model_by_the_name_of_its_repository() {
    let places = places();
    let arguments = ["run", "-m", "org/whole", "--device", "cpu", "What is the capital of Peru?"];
    let outcome = ended(with_places(&arguments, &places).spawn().unwrap());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "Lima\n"), "{outcome:#?}");
    let missing = ended(with_places(&["run", "-m", "org/none", "hello"], &places).spawn().unwrap());
    missing.failed(&["org/none: no such folder", "Hugging Face cache", "flashflood pull org/none"]);
    let half = ended(with_places(&["inspect", "org/half"], &places).spawn().unwrap());
    half.failed(&["model-00002-of-00002.safetensors: missing", "is the download complete?"]);
}

#[test]
fn nothing_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("none");
    let mut command = flashflood(&["list"]);
    command.env("HF_HUB_CACHE", &place).env("XDG_DATA_HOME", &place);
    without_other_programs(&mut command, &place);
    let outcome = ended(command.spawn().unwrap());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome:#?}");
    assert!(
        outcome.stderr.contains("no models in") && outcome.stderr.contains("hint: flashflood pull"),
        "{outcome:#?}"
    );
}
