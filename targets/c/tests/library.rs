//! The shared library as programs in C and Python meet it: the example, misuse, and ctypes.
//!
//! A machine without a C compiler or Python says so and passes; with `CI=true` that is a failure. `valgrind` is used where
//! it is there.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The folder of the built library: where this test is, less `deps`.
fn built() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let name = if cfg!(target_os = "macos") { "libflashflood_c.dylib" } else { "libflashflood_c.so" };
    // cargo leaves it in `deps`, and links it one up for people
    [folder.clone(), folder.parent().unwrap().to_owned()]
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{}: no {name}", folder.display()))
}

fn is_there(program: &str) -> bool {
    if Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is not installed");
    eprintln!("SKIPPED: {program} is not installed");
    false
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a program with the library that it was compiled with: cargo names folders that may have an older one.
fn run(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Compiles a program against the library, with every warning an error.
fn compiled(source: &str, folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (library, program) = (built(), folder.join("program"));
    let path = library.parent().unwrap();
    let output = Command::new("cc")
        .args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-g"])
        .arg(root.join(source))
        .arg("-I")
        .arg(root)
        .arg("-L")
        .arg(path)
        .arg(format!("-Wl,-rpath,{}", path.display()))
        .args(["-lflashflood_c", "-o"])
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    program
}

#[test]
fn the_example_answers() {
    if !is_there("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = run(&compiled("examples/chat.c", folder.path())).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Lima\n");
    // the pool is as large as is of use, whatever the environment says
    let mut command = run(&folder.path().join("program"));
    let output = command.env("RAYON_NUM_THREADS", "5000").output().unwrap();
    assert_eq!((output.status.success(), &output.stdout[..]), (true, &b"Lima\n"[..]), "{}", text(&output));
    let output = run(&folder.path().join("program")).arg("/no/such/model").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/no/such/model"), "{}", text(&output));
}

#[test]
fn misuse_is_defined() {
    if !is_there("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compiled("tests/misuse.c", folder.path());
    let output = run(&program).arg(folder.path().join("states")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Neither the example nor misuse leaves memory behind, or reads and writes what is not its own.
#[test]
fn valgrind_finds_nothing() {
    if !is_there("cc") || !is_there("valgrind") {
        return;
    }
    for source in ["examples/chat.c", "tests/misuse.c"] {
        let folder = tempfile::tempdir().unwrap();
        let program = compiled(source, folder.path());
        let mut command = run(Path::new("valgrind"));
        command.args(["--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]).arg(&program);
        if source == "tests/misuse.c" {
            command.arg(folder.path().join("states"));
        }
        let output = command.env("RAYON_NUM_THREADS", "2").output().unwrap();
        assert!(output.status.success(), "{source}: {}", text(&output));
    }
}

#[test]
fn python_talks_to_it() {
    if !is_there("python3") {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flashflood.py");
    let output = Command::new("python3").arg("-B").arg(script).arg(built()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
