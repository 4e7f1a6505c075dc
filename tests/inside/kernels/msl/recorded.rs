//! The scripts and kernels that all tests of Metal share: made once, by the property tests of the kernels.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tempfile::TempDir;

use super::{FOLDER, PHASE, clang};

const WANTED: &str = "clang++ of version 19 or newer with ThreadSanitizer (Debian: clang-19 and libclang-rt-19-dev)";

/// Tests that are no trials of kernels, or too many workgroups.
const SKIPPED: [&str; 8] =
    ["msl::proof", "msl::barriers", "unpack::", "wrong::", "logits_top_k::", "teams", "bandwidth", "folds_its_grid"];

/// Scripts of all property tests, and the kernels that they run.
pub(super) struct Recorded {
    pub(super) clang: PathBuf,
    pub(super) folder: TempDir,
    pub(super) scripts: Vec<PathBuf>,
    pub(super) units: Vec<PathBuf>,
}

/// Those that another test holds, or new ones: the last to let go deletes the files. `None` without a clang, where that
/// is allowed.
pub(super) fn recorded() -> Option<Arc<Recorded>> {
    static RECORDED: Mutex<Weak<Recorded>> = Mutex::new(Weak::new());
    let record = || {
        let Some(clang) = clang::find() else {
            let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
            let required = is("CI", "true") || is("FLASHFLOOD_MSL", "require");
            assert!(!required, "there is no {WANTED}");
            println!("kernels are not run as Metal: there is no {WANTED}");
            return None;
        };
        // what is compiled there is executed: not in a folder for temporary files, which may forbid that
        let beside = std::env::current_exe().unwrap();
        let folder = tempfile::Builder::new().prefix("flashflood-msl").tempdir_in(beside.parent().unwrap()).unwrap();
        run_trials("record", folder.path());
        let files = |extension: &str| -> Vec<PathBuf> {
            let all = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
            let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
            files.sort();
            files
        };
        let (scripts, units) = (files("script"), files("cpp"));
        Some(Arc::new(Recorded { clang, folder, scripts, units }))
    };
    // a test that failed here leaves nothing behind that another could not use
    let mut shared = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    let recorded = shared.upgrade().or_else(record)?;
    *shared = Arc::downgrade(&recorded);
    Some(recorded)
}

/// Held by a test while it runs scripts, which leave their outputs beside them: another's would be read for its own.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static RUNS: Mutex<()> = Mutex::new(());
    RUNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the property tests of the kernels for a phase: the same cases every time.
pub(super) fn run_trials(phase: &str, folder: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("inside::kernels::").args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
    command.env(PHASE, phase).env(FOLDER, folder);
    command.env_remove("PROPTEST_CASES").env("PROPTEST_RNG_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{phase}: {said}");
}

/// `SHADER.NUMBER.cpp` is of a shader.
pub(super) fn shader_of(unit: &Path) -> &str {
    unit.file_name().unwrap().to_str().unwrap().split('.').next().unwrap()
}

/// The number of the kernel.
pub(super) fn number_of(unit: &Path) -> u32 {
    unit.file_stem().unwrap().to_str().unwrap().split('.').nth(1).unwrap().parse().unwrap()
}
