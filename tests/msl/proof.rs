//! The tests themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use flashflood::compute::shaders;
use tempfile::TempDir;

use super::clang::{self, Build, in_parallel};
use super::{FOLDER, PHASE};

/// Tests that are no trials of kernels, or too many workgroups.
const SKIPPED: [&str; 7] =
    ["msl::proof", "unpack::", "wrong::", "logits_top_k::", "teams", "bandwidth", "folds_its_grid"];

/// Scripts of all property tests, and the kernels that they run.
struct Recorded {
    clang: PathBuf,
    folder: TempDir,
    scripts: Vec<PathBuf>,
    units: Vec<PathBuf>,
}

/// Makes them once for all tests of this file. `None` without a clang, where that is allowed.
fn recorded() -> Option<&'static Recorded> {
    static RECORDED: OnceLock<Option<Recorded>> = OnceLock::new();
    let record = || {
        let Some(clang) = clang::find() else {
            let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
            let required = is("CI", "true") || is("FLASHFLOOD_MSL", "require");
            assert!(!required, "no clang++ of version 19 or newer (Debian: clang-19 and libclang-rt-19-dev)");
            println!("kernels are not run as Metal: there is no clang++ of version 19 or newer");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("flashflood-msl").tempdir().unwrap();
        run_trials("record", folder.path());
        let files = |extension: &str| -> Vec<PathBuf> {
            let all = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
            let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
            files.sort();
            files
        };
        let (scripts, units) = (files("script"), files("cpp"));
        Some(Recorded { clang, folder, scripts, units })
    };
    RECORDED.get_or_init(record).as_ref()
}

/// Runs the property tests of this binary for a phase: the same cases every time.
fn run_trials(phase: &str, folder: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
    command.env(PHASE, phase).env(FOLDER, folder);
    command.env("PROPTEST_CASES", "2").env("PROPTEST_RNG_SEED", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{phase}: {said}");
}

/// `SHADER.NUMBER.cpp` is of a shader.
fn shader_of(unit: &Path) -> &str {
    unit.file_name().unwrap().to_str().unwrap().split('.').next().unwrap()
}

/// Each kernel, compiled and run in every weight format, is near its twin; and the order of threads between barriers
/// changes no bit.
#[test]
fn kernels_are_their_twins() {
    let start = Instant::now();
    let Some(recorded) = recorded() else { return };
    let (folder, scripts, units) = (recorded.folder.path(), &recorded.scripts, &recorded.units);
    println!("{} scripts, {} kernels: {:.1?}", scripts.len(), units.len(), start.elapsed());
    let run: BTreeSet<&str> = units.iter().map(|unit| shader_of(unit)).collect();
    // Metal has matrices of 8 x 8, this kernel takes 16 x 16: it is for Vulkan
    let known = shaders::names().filter(|name| !name.starts_with("matmul_cooperative"));
    let missing: Vec<&str> = known.filter(|name| !run.contains(name)).collect();
    assert!(missing.is_empty(), "no property test runs {missing:?}");
    let runner = clang::build(&recorded.clang, folder, units, Build::Plain).unwrap_or_else(|e| panic!("{e}"));
    println!("compiled: {:.1?}", start.elapsed());
    let run = |script: &PathBuf| -> Result<(), String> {
        let out = script.with_extension("script.out");
        clang::run(&runner, &["--descending"], script)?;
        let descending = std::fs::read(&out).unwrap();
        clang::run(&runner, &[], script)?;
        if descending != std::fs::read(&out).unwrap() {
            return Err(format!("{}: the order of threads decides: a barrier is missing", script.display()));
        }
        Ok(())
    };
    let failed: Vec<String> = in_parallel(scripts, run).into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("run: {:.1?}", start.elapsed());
    run_trials("compare", folder);
    println!("compared: {:.1?}", start.elapsed());
}
