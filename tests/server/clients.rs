//! The clients that people have: the `openai` and `anthropic` packages of Python, and the libraries that programs are made
//! of, against this server.
//!
//! They are installed from PyPI into a folder of their own under the build folder. Where there is no Python, or no way to
//! PyPI, the tests say so and pass; with `FLASHFLOOD_CLIENT_TESTS=require` that is a failure.

use super::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What is installed: with versions, so that a new release breaks nothing here.
const PACKAGES: [&str; 2] = ["openai>=1.60,<3", "anthropic>=0.40,<1"];

/// Runs a command to its end.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A proxy must not stand between this machine and itself.
pub(super) fn without_proxies(command: &mut Command) {
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
}

/// An interpreter in a folder of its own that has the packages; `modules` are what they are imported as.
pub(super) fn python(folder: &str, packages: &[&str], modules: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let has_them = || run(Command::new(&python).args(["-c", &format!("import {modules}")]));
    if has_them().is_ok() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    has_them()?;
    Ok(python)
}

/// Says that a test cannot be run here.
pub(super) fn skip(name: &str, reason: &str) {
    let is_required = std::env::var("FLASHFLOOD_CLIENT_TESTS").is_ok_and(|value| value == "require");
    assert!(!is_required, "{reason}");
    eprintln!("SKIPPED {name}: {reason}");
}

/// Runs a script of `tests/clients` against a server with a key, with `more` as its last argument.
pub(super) fn run_script(
    name: &str,
    python: impl FnOnce() -> Result<PathBuf, String>,
    more: impl FnOnce() -> Result<String, String>,
) {
    run_script_against(&[], name, python, more);
}

/// The same, with more arguments for the server.
pub(super) fn run_script_against(
    arguments: &[&str],
    name: &str,
    python: impl FnOnce() -> Result<PathBuf, String>,
    more: impl FnOnce() -> Result<String, String>,
) {
    let (python, more) = match more().and_then(|more| Ok((python()?, more))) {
        Ok(found) => found,
        Err(reason) => return skip(name, &reason),
    };
    let server = Server::start(&[&["--api-key", "secret", "--model-name", "small-moe"], arguments].concat());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let mut command = Command::new(python);
    without_proxies(&mut command);
    command.arg("-B").arg(path).arg(format!("http://{}", server.address)).arg("secret");
    let output = command.args((!more.is_empty()).then_some(more)).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// A script with the packages of OpenAI and Anthropic.
fn script(name: &str) {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = || PYTHON.get_or_init(|| python("python-clients", &PACKAGES, "openai, anthropic")).clone();
    run_script(name, found, || Ok(String::new()));
}

/// Beside those of the protocols' makers.
const LIBRARIES: [&str; 5] = [
    "instructor==1.17.0",
    "langchain-openai==1.7.4",
    "litellm==1.110.2",
    "ollama==0.6.3",
    "pydantic-ai-slim[openai]==2.38.0",
];

#[test]
fn libraries() {
    let found = || python("python-libraries", &LIBRARIES, "instructor, langchain_openai, litellm, ollama, pydantic_ai");
    run_script("libraries_client.py", found, || Ok(String::new()));
}

#[test]
fn openai() {
    script("openai_client.py");
}

#[test]
fn anthropic() {
    script("anthropic_client.py");
}

/// What is said to clients that wait.
#[test]
fn waiting() {
    script("waiting_client.py");
}

/// The harness of most published evaluations, by its way of asking for probabilities of prompts.
#[test]
fn lm_eval() {
    let found = || {
        python("python-lm-eval", &["lm-eval[api]==0.4.13", "transformers==5.24.0"], "lm_eval, transformers, aiohttp")
    };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    run_script("lm_eval_client.py", found, || Ok(model.display().to_string()));
}

/// Requests made from `/openapi.json`, most of them odd: none of them may be the server's fault.
#[test]
fn schemathesis() {
    let found = || python("python-schemathesis", &["schemathesis==4.32.5"], "schemathesis");
    // answers that nobody limits end with the context
    run_script_against(&["--ctx", "256", "--queue", "64"], "schemathesis_client.py", found, || Ok(String::new()));
}
