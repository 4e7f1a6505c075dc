//! `flashflood pack`: from a snapshot to a pack that runs, and the check of one.

use super::*;

#[test]
fn a_snapshot_is_packed_checked_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = in_repository("tests/golden/small-moe/snapshot-8bit");
    let out = folder.path().join("pack");
    let (snapshot, out) = (snapshot.to_str().unwrap(), out.to_str().unwrap());
    let said = stdout(&["pack", snapshot, out, "--bits", "4", "--verify"]);
    assert!(said.contains("256 expert records") && said.contains("8 layers, experts "), "{said}");
    let answer = stdout(&["run", "-m", out, "What is the capital of Peru?", "--device", "cpu"]);
    assert_eq!(answer, "Lima\n");
    // what is there already is kept
    let again = outcome(&["pack", snapshot, out, "--bits", "4"]);
    assert_eq!(again.code, Some(0), "{again:#?}");
}

/// Killed at a dozen moments, and begun again each time: layers that were finished are not written again, and the pack is to
/// the byte what an undisturbed run makes.
#[test]
#[cfg(unix)]
fn a_killed_run_loses_nothing_that_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = in_repository("tests/golden/small-moe/snapshot-8bit");
    let pack =
        |out: &Path| ["pack", snapshot.to_str().unwrap(), out.to_str().unwrap(), "--bits", "4"].map(str::to_owned);
    let (quiet, disturbed) = (folder.path().join("quiet"), folder.path().join("disturbed"));
    let since = std::time::Instant::now();
    stdout(&pack(&quiet).each_ref().map(String::as_str));
    let whole = since.elapsed();
    let when = |name: &str| fs::metadata(disturbed.join("experts").join(name)).and_then(|meta| meta.modified()).ok();
    let layers = || -> Vec<String> {
        let entries = fs::read_dir(disturbed.join("experts")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".bin"))
            .collect();
        names.sort();
        names
    };
    let mut most_finished = 0;
    let mut finished: Vec<(String, Option<std::time::SystemTime>)> = Vec::new();
    for n in 1..=12 {
        let mut child = flashflood(&pack(&disturbed).each_ref().map(String::as_str)).spawn().unwrap();
        std::thread::sleep(whole * n / 13);
        child.kill().unwrap();
        child.wait().unwrap();
        for (name, written) in &finished {
            assert_eq!((when(name), layers().contains(name)), (*written, true), "{name} was written again");
        }
        most_finished = most_finished.max(finished.len());
        // the last one may not have been checked and noted before the kill
        let names = layers();
        finished = names.iter().rev().skip(1).map(|name| (name.clone(), when(name))).collect();
    }
    assert!(most_finished > 1, "no kill came behind a finished layer");
    stdout(&pack(&disturbed).each_ref().map(String::as_str));
    for name in layers() {
        let bytes = |of: &Path| fs::read(of.join("experts").join(&name)).unwrap();
        assert!(bytes(&quiet) == bytes(&disturbed), "{name}");
    }
    assert!(stdout(&["pack", "--verify", disturbed.to_str().unwrap()]).contains("are intact"));
}

#[test]
fn a_flipped_byte_is_found() {
    let pack = Copy::of_pack();
    assert!(stdout(&["pack", "--verify", pack.path()]).contains("are intact"));
    pack.change("experts/layer-005.bin", |bytes| bytes[70_000] ^= 4);
    outcome(&["pack", "--verify", pack.path()]).failed(&["layer-005.bin", "expected", "found"]);
    let pack = Copy::of_pack();
    pack.change("resident.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 4);
    outcome(&["pack", "--verify", pack.path()]).failed(&["resident.safetensors", "expected", "found"]);
}

#[test]
fn what_cannot_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pack");
    let out = out.to_str().unwrap();
    outcome(&["pack", "/does/not/exist", out]).failed(&["/does/not/exist", "expected a folder with a model"]);
    outcome(&["pack", "--verify", "/does/not/exist"]).failed(&["/does/not/exist"]);
    outcome(&["pack", "/does/not/exist"]).misused(&["<OUT>"]);
    outcome(&["pack", "/does/not/exist", out, "--bits", "7"]).misused(&["'7'"]);
    assert!(!Path::new(out).exists());
}
