//! `flashflood logits`: the file that it writes, and that it writes all of it or nothing.

use flashflood::weights::safetensors::{Dtype, TensorSet};

use super::*;

const IDS: &str = "12, 7\n3,99 5 4 1023";

fn run(folder: &TempDir, name: &str, more: &[&str]) -> (Outcome, PathBuf) {
    let model = in_repository("models/small-moe");
    let out = folder.path().join(name);
    let fixed = ["logits", model.to_str().unwrap(), "--device", "cpu", "--out", out.to_str().unwrap()];
    (outcome(&[&fixed[..], more].concat()), out)
}

fn file_names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn logits_and_routing_of_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids");
    fs::write(&ids, IDS).unwrap();
    let at_ids = format!("@{}", ids.display());
    let mut all = Vec::new();
    for (name, how) in [("whole", vec![]), ("steps", vec!["--step"]), ("chunks", vec!["--chunk", "3"])] {
        let tokens = if name == "whole" { at_ids.as_str() } else { IDS };
        let (outcome, out) = run(&folder, name, &[&["--tokens", tokens][..], &how].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome:#?}");
        let found = TensorSet::open_file(&out).unwrap();
        assert_eq!(found.names().collect::<Vec<_>>(), ["logits", "routing"]);
        let (logits, routing) = (found.get("logits").unwrap(), found.get("routing").unwrap());
        assert_eq!((logits.dtype, &logits.shape[..]), (Dtype::F32, &[7, 2048][..]));
        assert_eq!((routing.dtype, &routing.shape[..]), (Dtype::U32, &[7, 8, 4][..]));
        assert!(logits.to_f32().unwrap().iter().all(|logit| logit.is_finite()));
        let experts = routing.bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        assert!(experts.max().unwrap() < 32);
        all.push((logits.bytes.to_vec(), routing.bytes.to_vec()));
    }
    assert!(all[0] == all[1] && all[0] == all[2], "how a prompt is cut changes bits");
    assert_eq!(file_names(&folder).len(), 4);
}

#[test]
fn dumps_what_operations_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--tokens", IDS, "--chunk", "3", "--dump", "layer.0.mixer_out", "--dump", "layer.1.experts"];
    let (outcome, out) = run(&folder, "out", &more);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let found = TensorSet::open_file(&out).unwrap();
    assert_eq!(found.get("layer.0.mixer_out").unwrap().shape, [7, 256]);
    assert_eq!(found.get("layer.1.experts").unwrap().shape, [7 * 4, 256]);
    assert_eq!(found.names().count(), 4, "{:?}", found.names().collect::<Vec<_>>());
}

#[test]
fn errors_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let failed = |more: &[&str], parts: &[&str]| run(&folder, "out.safetensors", more).0.failed(parts);
    failed(&["--tokens", IDS, "--dump", "no_such_op"], &["no operation's label contains no_such_op"]);
    failed(&["--tokens", "1,x,3"], &["token id 'x'", "whole number"]);
    failed(&["--tokens", "1,-3"], &["token id '-3'"]);
    failed(&["--tokens", "4294967296"], &["token id '4294967296'"]);
    failed(&["--tokens", ""], &["no token ids"]);
    failed(&["--tokens", "1,2048"], &["token 2048", "expected less than 2048"]);
    failed(&["--tokens", "@/does/not/exist"], &["/does/not/exist"]);
    failed(&["--tokens", IDS, "--ctx", "3"], &["the context holds 3 tokens", "7 more"]);
    assert_eq!(file_names(&folder), [""; 0]);
    fs::create_dir(folder.path().join("taken")).unwrap();
    run(&folder, "taken", &["--tokens", IDS]).0.failed(&["taken", "expected a file in a folder that exists"]);
    run(&folder, "none/out", &["--tokens", IDS]).0.failed(&["none/out", "expected a file in a folder that exists"]);
    assert_eq!(file_names(&folder), ["taken"]);
}
