//! `flashflood doctor`: what it finds, where settings come from, and that it leaves nothing behind.

use serde_json::Value;

use super::*;

fn diagnosis(command: &mut Command, code: i32) -> Value {
    let outcome = ended(command.spawn().unwrap());
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn finding<'a>(diagnosis: &'a Value, check: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check} in {findings:#?}"))
}

#[test]
fn settings_and_their_origins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "chunk = 32\n[run]\nmax-tokens = 9\n").unwrap();
    let pack = in_repository("models/small-moe");
    let mut command = flashflood(&["doctor", "--json", "--skip-disk", "--device", "cpu", "-m", pack.to_str().unwrap()]);
    command.env("FLASHFLOOD_CONFIG", &file).env("FLASHFLOOD_CTX", "512");
    let found = diagnosis(&mut command, 0);
    let setting = |flag: &str| {
        let setting = found["settings"].as_array().unwrap().iter().find(|setting| setting["flag"] == flag).unwrap();
        (setting["value"].as_str().map(str::to_owned), setting["from"].as_str().unwrap().to_owned())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(setting("device"), (some("cpu"), "flag".into()));
    assert_eq!(setting("ctx"), (some("512"), "environment: FLASHFLOOD_CTX".into()));
    assert_eq!(setting("chunk"), (some("32"), "configuration file".into()));
    assert_eq!(setting("max-tokens"), (some("9"), "configuration file".into()));
    assert_eq!(setting("expert-cache"), (some("auto"), "built-in".into()));
    let (temp, from) = setting("temp");
    assert!(temp.is_some() && from == "the model's generation_config.json", "{temp:?} {from}");
    let model = finding(&found, "model");
    assert_eq!(model["status"], "PASS");
    assert!(model["text"].as_str().unwrap().contains("512 positions"), "{model}");
    assert_eq!(finding(&found, "configuration")["text"], file.to_str().unwrap());
}

#[test]
fn kernels_are_held_against_the_cpu() {
    let found = diagnosis(&mut flashflood(&["doctor", "--json", "--skip-disk", "--device", "gpu"]), 0);
    assert!(finding(&found, "device")["text"].as_str().unwrap().contains("bindings up to"), "{found}");
    assert_eq!(finding(&found, "kernels")["status"], "PASS", "{found}");
    for check in ["system", "memory", "Hugging Face", "port", "configuration"] {
        finding(&found, check);
    }
}

#[test]
fn the_disk_is_measured_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = flashflood(&["doctor", "--json", "--device", "cpu"]);
    let found = diagnosis(command.env("HF_HUB_CACHE", folder.path().join("not/yet")), 0);
    let speeds = found["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == "disk speed");
    let texts: Vec<&str> = speeds.map(|finding| finding["text"].as_str().unwrap()).collect();
    for depth in [1, 4, 8] {
        let part = format!("reads of 7.1 MB, {depth} at a time: ");
        assert!(texts.iter().any(|text| text.contains(&part) && text.contains("past the page cache")), "{texts:#?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_failed_check_is_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "context = 5\n").unwrap();
    let arguments = ["doctor", "--skip-disk", "--device", "cpu", "-m", "/does/not/exist"];
    let outcome = ended(flashflood(&arguments).env("FLASHFLOOD_CONFIG", &file).spawn().unwrap());
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    for line in ["FAIL  model ", "FAIL  configuration ", "hint: ", "PASS  device", "--ctx "] {
        assert!(line == "--ctx " || outcome.stdout.contains(line), "{line}: {outcome:#?}");
    }
    assert!(outcome.stderr.contains("error: 2 checks failed"), "{outcome:#?}");
    // no driver at all
    let mut command = flashflood(&["doctor", "--skip-disk", "--device", "gpu"]);
    let blind = ended(
        command.env("VK_DRIVER_FILES", "/does/not/exist").env("VK_ICD_FILENAMES", "/does/not/exist").spawn().unwrap(),
    );
    assert_eq!(blind.code, Some(1), "{blind:#?}");
    assert!(blind.stdout.contains("FAIL  device") && blind.stdout.contains("hint: --device cpu"), "{blind:#?}");
}
