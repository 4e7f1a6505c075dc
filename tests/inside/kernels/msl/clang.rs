//! Compiles the C++ around kernels, and links it with the runner.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Kernels in one run of the compiler: reading the header takes as long as a kernel.
const TOGETHER: usize = 24;

/// A clang++ that knows the vector functions that the header uses, with ThreadSanitizer. Linux only: elsewhere there is a
/// Metal compiler, or nobody who needs one.
pub(crate) fn find() -> Option<PathBuf> {
    let names = (19..30).rev().map(|version| format!("clang++-{version}")).chain(["clang++".to_owned()]);
    let is_right = |name: &PathBuf| {
        let mut compiler = Command::new(name);
        compiler.args(["-x", "c++", "-fsanitize=thread", "-o", "/dev/null", "-"]);
        let pipes = compiler.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut compiler) = pipes.spawn() else { return false };
        // one that ends early is not right either
        let program = b"#if __clang_major__ < 19\n#error old\n#endif\nint main() {}\n";
        let written = compiler.stdin.take().map(|mut stdin| stdin.write_all(program));
        compiler.wait().is_ok_and(|status| status.success()) && written.is_some_and(|w| w.is_ok())
    };
    if cfg!(target_os = "linux") { names.map(PathBuf::from).find(is_right) } else { None }
}

/// How a runner is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    Plain,
    /// With ThreadSanitizer.
    Sanitized,
}

/// Compiles `units` in `folder` and links them into a runner.
///
/// # Errors
/// What the compiler says.
pub(crate) fn build(clang: &Path, folder: &Path, units: &[PathBuf], build: Build) -> Result<PathBuf, String> {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/apple/msl");
    let native = if cfg!(target_arch = "x86_64") { "-march=native" } else { "-mcpu=native" };
    // in Metal a literal is a float; runtime arrays are declared with one element
    let mut flags = vec!["-std=c++20", "-O1", native, "-ffp-contract=off", "-Xclang", "-cl-single-precision-constant"];
    flags.extend(["-Wall", "-Werror", "-Wno-unknown-attributes", "-Wno-array-bounds"]);
    // naga keeps what a shader declares
    flags.extend(["-Wno-unused-variable", "-Wno-unused-const-variable", "-Wno-unused-function"]);
    flags.extend(["-Wno-unused-but-set-variable", "-Wno-parentheses-equality"]);
    let name = |stem: &str, extension: &str| folder.join(format!("{build:?}-{stem}.{extension}"));
    let runner_source = header.join("run.cpp");
    let compile = |from: &Path, to: &Path| {
        let mut command = Command::new(clang);
        // the runner's own accesses are no races
        let is_runner = from == runner_source;
        let flag = if is_runner { "-DSANITIZED" } else { "-fsanitize=thread" };
        command
            .args(&flags)
            .args((build == Build::Sanitized).then_some(flag))
            .arg("-I")
            .arg(&header)
            .arg("-I")
            .arg(folder)
            .arg("-c")
            .arg(from)
            .arg("-o")
            .arg(to);
        said(&mut command)
    };
    let runner = name("runner", "o");
    let mut jobs = vec![(runner_source.clone(), runner)];
    for (i, units) in units.chunks(TOGETHER).enumerate() {
        let includes = units.iter().map(|unit| format!("#include {unit:?}\n"));
        let head = "#include \"run.hpp\"\n#include <metal_stdlib>\n".to_owned();
        let source = name(&i.to_string(), "cpp");
        std::fs::write(&source, head + &includes.collect::<String>()).unwrap();
        jobs.push((source, name(&i.to_string(), "o")));
    }
    let outcomes = in_parallel(&jobs, |(from, to)| compile(from, to));
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let linked = folder.join(format!("{build:?}-run"));
    let mut link = Command::new(clang);
    link.args((build == Build::Sanitized).then_some("-fsanitize=thread"));
    said(link.args(jobs.iter().map(|(_, object)| object)).arg("-lm").arg("-o").arg(&linked))?;
    Ok(linked)
}

/// Runs a script; what was printed where that fails.
pub(crate) fn run(runner: &Path, arguments: &[&str], script: &Path) -> Result<(), String> {
    let mut command = Command::new(runner);
    // the first report is enough, and nothing is looked up that takes a debugger
    command.env("TSAN_OPTIONS", "halt_on_error=1:symbolize=0:report_signal_unsafe=0");
    said(command.args(arguments).arg(script))
}

fn said(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let last = command.get_args().last().map_or("", |a: &OsStr| a.to_str().unwrap_or(""));
    Err(format!("{last}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Does `jobs` with as many threads as there are cores; outcomes in the order of the jobs.
pub(crate) fn in_parallel<J: Sync, O: Send>(jobs: &[J], work: impl Fn(&J) -> O + Sync) -> Vec<O> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let outcome = work(job);
                    outcomes.lock().unwrap().push((index, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
