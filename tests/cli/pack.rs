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
