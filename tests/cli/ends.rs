//! Ends that are not the text's own: Ctrl-C, and readers that have had enough.

use std::io::Read;
use std::time::{Duration, Instant};

use super::*;

/// At a temperature at which all tokens are about as likely, a text ends only by chance: with this seed after 2,392
/// tokens.
const ENDLESS: [&str; 15] = [
    "run",
    "--raw",
    "Once upon a time",
    "--device",
    "cpu",
    "--temp",
    "100",
    "--top-k",
    "0",
    "--top-p",
    "1",
    "--seed",
    "4",
    "-n",
    "8000",
];

#[cfg(unix)]
fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_text_is_made() {
    let mut child = flashflood(&ENDLESS).spawn().unwrap();
    // until it writes more than the prompt
    let mut begun = [0; 24];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    interrupt(&child);
    let start = Instant::now();
    let outcome = ended(child);
    assert_eq!(outcome.code, Some(130), "{outcome:#?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(outcome.stdout.ends_with('\n') && !outcome.stderr.contains("error: inter"), "{outcome:#?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_the_prompt_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.txt");
    fs::write(&file, "They went to the tower together and sat under a tree. ".repeat(600)).unwrap();
    let file = file.to_str().unwrap();
    let mut child = flashflood(&["run", "--raw", "-f", file, "--device", "cpu"]).spawn().unwrap();
    // the prompt is shown before it is read
    let mut begun = [0; 24];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    interrupt(&child);
    assert_eq!(ended(child).code, Some(130));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_file_of_logits() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids");
    fs::write(&ids, "5 ".repeat(20_000)).unwrap();
    let out = folder.path().join("out.safetensors");
    let (ids, out) = (format!("@{}", ids.display()), out.to_str().unwrap().to_owned());
    let model = in_repository("models/small-moe");
    let child =
        flashflood(&["logits", model.to_str().unwrap(), "--device", "cpu", "--tokens", &ids, "--out", &out]).spawn();
    let child = child.unwrap();
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    assert_eq!(ended(child).code, Some(130));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the ids");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut child = flashflood(&ENDLESS).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut begun = [0; 24];
    stdout.read_exact(&mut begun).unwrap();
    drop(stdout);
    let start = Instant::now();
    let outcome = ended(child);
    assert_eq!((outcome.code, outcome.stderr.contains("error: ")), (Some(0), false), "{outcome:#?}");
    assert!(start.elapsed() < Duration::from_secs(5), "it went on for {:?}", start.elapsed());
}

#[test]
fn commands_that_nobody_listens_to_end_as_they_would() {
    let unheard = |arguments: &[&str]| {
        let mut child = flashflood(arguments).spawn().unwrap();
        drop(child.stdout.take());
        drop(child.stderr.take());
        child.wait().unwrap().code()
    };
    let pack = in_repository("models/small-moe");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(unheard(&["pack", "--verify", pack.to_str().unwrap()]), Some(0));
    let out = folder.path().join("out");
    assert_eq!(unheard(&["pack", pack.to_str().unwrap(), out.to_str().unwrap(), "--bits", "0"]), Some(0));
    assert_eq!(unheard(&["bench", "-n", "2", "-r", "1", "--device", "cpu"]), Some(0));
    assert_eq!(unheard(&["run", "-m", "/does/not/exist", "hello"]), Some(1));
    assert_eq!(unheard(&["--help"]), Some(0));
}
