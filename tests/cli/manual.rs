//! `flashflood completions` and `flashflood man`: they know every command and flag.

use super::*;

#[test]
fn every_shell_learns_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for word in ["flashflood", "inspect", "doctor", "pull", "expert-cache"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    outcome(&["completions", "abacus"]).misused(&["abacus", "bash"]);
}

#[test]
fn a_script_that_bash_accepts() {
    let script = stdout(&["completions", "bash"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flashflood.bash");
    let ask = format!(
        "{script}\nCOMP_WORDS=(flashflood ins) COMP_CWORD=1\n_flashflood flashflood ins flashflood\necho \"${{COMPREPLY[@]}}\""
    );
    fs::write(&path, ask).unwrap();
    let Ok(output) = Command::new("bash").arg(&path).output() else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "inspect", "{output:?}");
}

#[test]
fn pages_of_the_manual() {
    assert!(stdout(&["man"]).contains("flashflood\\-run(1)"));
    assert!(stdout(&["man", "run"]).contains("expert\\-cache"));
    outcome(&["man", "fly"]).failed(&["no page of 'fly'", "pages are run"]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    assert_eq!(stdout(&["man", "--folder", out.to_str().unwrap()]), "");
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for page in ["flashflood.1", "flashflood-run.1", "flashflood-pull.1", "flashflood-doctor.1"] {
        assert!(names.iter().any(|name| name == page), "{names:?}");
    }
    // nothing is left for a reader who has enough
    let mut child = flashflood(&["man"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
