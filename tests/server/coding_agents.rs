//! Coding agents as their users install them, with their default settings: each is asked something, calls its shell as the
//! model wants, reads the result, and says the model's last word.
//!
//! They come from npm into a folder of their own under the build folder. Where there is no npm, or no way to its registry,
//! the test says so and passes; with `FLASHFLOOD_CLIENT_TESTS=require` that is a failure.

use std::fs;
use std::path::{Path, PathBuf};

use super::clients::{run, skip, without_proxies};
use super::*;

/// With versions, so that a new release breaks nothing here.
const PACKAGES: [&str; 3] = ["@anthropic-ai/claude-code@2.1.332", "@openai/codex@0.171.0", "opencode-ai@1.18.33"];

/// The folder that has the agents as programs.
fn installed() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coding-agents");
    let programs = folder.join("node_modules/.bin");
    if !["claude", "codex", "opencode"].iter().all(|name| programs.join(name).exists()) {
        fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let mut npm = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
        run(npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(PACKAGES))?;
    }
    for name in ["claude", "codex", "opencode"] {
        run(Command::new(programs.join(name)).arg("--version"))?;
    }
    Ok(programs)
}

/// Runs an agent in a folder of its own; what it wrote.
fn ask(programs: &Path, server: &Server, name: &str, arguments: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let address = format!("http://{}", server.address);
    fs::create_dir(home.path().join(".codex")).unwrap();
    let provider = format!(
        "model = \"parrot\"\nmodel_provider = \"here\"\n[model_providers.here]\nname = \"here\"\nbase_url = \"{address}/v1\"\nwire_api = \"responses\"\n"
    );
    fs::write(home.path().join(".codex/config.toml"), provider).unwrap();
    let provider = json!({"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": format!("{address}/v1")},
        "models": {"parrot": {"name": "parrot"}}});
    fs::write(home.path().join("opencode.json"), json!({"provider": {"here": provider}}).to_string()).unwrap();
    let (out, said) = (home.path().join("out"), fs::File::create(home.path().join("out")).unwrap());
    let mut command = Command::new(programs.join(name));
    without_proxies(&mut command);
    if name == "claude" {
        command.env("ANTHROPIC_BASE_URL", &address).env("ANTHROPIC_AUTH_TOKEN", "x");
    }
    let mut child = command
        .args(arguments)
        .current_dir(home.path())
        .env("HOME", home.path())
        // opencode believes it more than the folder that it is in
        .env("PWD", home.path())
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap();
    let since = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if since.elapsed() > PATIENCE => {
                let _ = child.kill();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let mut said = fs::read_to_string(out).unwrap();
    // opencode writes elsewhere what went wrong
    let logs = fs::read_dir(home.path().join(".local/share/opencode/log")).into_iter().flatten().flatten();
    logs.for_each(|log| said += &fs::read_to_string(log.path()).unwrap_or_default());
    assert!(status.is_some_and(|status| status.success()), "{name}: {status:?}: {said}");
    assert!(said.contains("The parrot is done."), "{name}: {said}");
    let ran = fs::read_to_string(home.path().join("parrot-was-here"));
    assert_eq!(ran.ok().as_deref(), Some("parrot\n"), "{name} did not run the command: {said}");
}

#[test]
fn they_call_a_tool_and_read_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let made = || -> Result<PathBuf, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/parrot.py");
        run(Command::new("python3").arg(script).arg(folder.path()))?;
        installed()
    };
    let programs = match made() {
        Ok(programs) => programs,
        Err(reason) => return skip("coding agents", &reason),
    };
    let server = Server::start(&["--model", folder.path().to_str().unwrap(), "--model-name", "parrot"]);
    // nobody is there whom it could ask whether it may
    let claude = ["--allowedTools", "Bash", "--model", "parrot", "-p", "Look around"];
    ask(&programs, &server, "claude", &claude);
    let codex = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Look around"];
    ask(&programs, &server, "codex", &codex);
    ask(&programs, &server, "opencode", &["run", "-m", "here/parrot", "Look around"]);
}
