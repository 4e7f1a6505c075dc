//! Two replicas behind a gateway that people have: nginx and LiteLLM's proxy, with the files of `targets/replicas`.
//!
//! LiteLLM comes from PyPI as the packages of `clients` do; nginx is the system's. Where one is not there, its tests say so
//! and pass; with `FLASHFLOOD_CLIENT_TESTS=require` that is a failure.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::clients::{python, run, skip, without_proxies};
use super::*;

/// The proxy, and what of `litellm[proxy]` it does not work without here: all of that is three times as large.
const LITELLM: [&str; 22] = [
    "litellm==1.110.2",
    "apscheduler==3.11.3",
    "backoff==2.2.1",
    "cryptography==50.0.2",
    "expression==5.8.0",
    "fastapi==0.165.0",
    "fastapi-sso==0.23.0",
    "httpx2==2.16.2",
    "mcp==2.3.0",
    "orjson==3.13.0",
    "prometheus-client==0.26.0",
    "pyjwt==2.15.1",
    "pynacl==1.6.2",
    "python-multipart==0.0.34",
    "redis==8.1.0",
    "rich==13.9.4",
    "semver==3.1.2",
    "soundfile==0.14.0",
    "starlette==1.10.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "websockets==16.1.1",
];

/// Of the replicas; LiteLLM's own is longer, as it wants it.
const KEY: &str = "secret";
const LITELLM_KEY: &str = "sk-0123456789abcdef0123456789abcdef";

/// Debian has it where only root looks.
fn nginx() -> Result<PathBuf, String> {
    let name = ["nginx", "/usr/sbin/nginx"].into_iter().find(|name| run(Command::new(name).arg("-v")).is_ok());
    name.map(PathBuf::from).ok_or_else(|| "nginx is not installed".to_owned())
}

fn replicas(more: &[&str]) -> [Server; 2] {
    // after one has died, all sixteen wait for the other; their state takes 6 MB each
    let options = ["--api-key", KEY, "--model-name", "flashflood", "--queue", "16", "--session-memory", "256MB"];
    [(); 2].map(|()| Server::start(&[&options, more].concat()))
}

/// A gateway, with its folder.
struct Gateway {
    server: Server,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts a program on `file` of `targets/replicas`, with the addresses of this test in it.
    fn start(file: &str, replicas: &[Server; 2], program: impl FnOnce(&Path, String, u16) -> Command) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/replicas");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut text = fs::read_to_string(from.join(file)).unwrap();
        assert!(text.contains("127.0.0.1:8081") && text.contains("127.0.0.1:8082"), "{text}");
        text = text.replace("127.0.0.1:8081", &replicas[0].address).replace("127.0.0.1:8082", &replicas[1].address);
        text = text.replace("127.0.0.1:8080", &address);
        fs::copy(from.join("replicas.py"), folder.path().join("replicas.py")).unwrap();
        let mut command = program(folder.path(), text, port);
        let said = fs::File::create(folder.path().join("said")).unwrap();
        command.current_dir(&folder).stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let server = Server { child: command.spawn().unwrap(), address, stderr: Arc::default() };
        let mut gateway = Gateway { server, folder };
        let since = Instant::now();
        while TcpStream::connect(&gateway.server.address).is_err() {
            let has_ended = gateway.server.child.try_wait().unwrap().is_some();
            assert!(!has_ended && since.elapsed() < PATIENCE, "{}", gateway.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    /// The conversations of `replicas_client.py`; `arguments` are its own.
    fn converse(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/replicas_client.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).arg(&self.server.address).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}{}", text(&output.stdout), text(&output.stderr), self.said());
        print!("{}", text(&output.stdout));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // by itself, so that its workers end as well
        let _ = Command::new("kill").args(["-TERM", &self.server.child.id().to_string()]).status();
        let _ = self.server.child.wait();
    }
}

/// What a monitoring system reads of the replica that is left: it has answered, and seldom read anew.
fn survivor_tells(replicas: &mut [Server; 2]) {
    let dead = replicas.iter_mut().filter_map(|replica| replica.child.try_wait().unwrap()).count();
    assert_eq!(dead, 1);
    let left = replicas.iter_mut().find_map(|replica| replica.child.try_wait().unwrap().is_none().then_some(&*replica));
    let metrics = left.unwrap().request("GET", "/metrics", &[("Authorization", &format!("Bearer {KEY}"))], b"").body;
    let count = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("flashflood_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}: {metrics}")).parse().unwrap()
    };
    // between the half and all of 320 turns
    assert!(count("requests_total") > 160.0, "{metrics}");
    let share = count("cached_tokens_total") / count("prompt_tokens_total");
    assert!(share > 0.8, "{share}: {metrics}");
}

fn behind_nginx(nginx: &Path, more: &[&str], moved: &str) {
    let mut replicas = replicas(more);
    let gateway = Gateway::start("nginx.conf", &replicas, |folder, text, _| {
        let at = folder.display();
        // places that whoever runs the tests may write to
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let places: String = kinds.map(|kind| format!("{kind}_temp_path {at}/{kind};\n")).concat();
        let text = text.replace("/var/log/nginx", &at.to_string()).replacen("http {", &format!("http {{\n{places}"), 1);
        fs::write(folder.join("nginx.conf"), text).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-c").arg(folder.join("nginx.conf"));
        command.args(["-g", &format!("daemon off; pid {at}/pid; error_log {at}/said;")]);
        command
    });
    let [first, second] = replicas.each_ref().map(|replica| format!("{}={}", replica.address, replica.child.id()));
    let headers = "X-Session-Id,X-Claude-Code-Session-Id,Session-Id";
    gateway.converse(&[KEY, "X-Replica", headers, moved, &first, &second]);
    assert!(gateway.server.get("/nginx_status").body.starts_with("Active connections: "));
    assert_eq!(gateway.server.get("/metrics").status, 404);
    survivor_tells(&mut replicas);
}

#[test]
fn nginx_keeps_conversations_where_their_state_is() {
    match nginx() {
        Ok(nginx) => behind_nginx(&nginx, &[], "anew"),
        Err(reason) => skip("replicas behind nginx", &reason),
    }
}

/// With one folder of sessions for both, what moves goes on from the file.
#[test]
fn a_shared_folder_of_sessions_outlives_a_replica() {
    let folder = tempfile::tempdir().unwrap();
    match nginx() {
        Ok(nginx) => behind_nginx(&nginx, &["--session-dir", folder.path().to_str().unwrap()], "shared"),
        Err(reason) => skip("replicas with a shared folder", &reason),
    }
}

#[test]
fn litellm_keeps_conversations_where_their_state_is() {
    let modules = "litellm, fastapi_sso, mcp, nacl, prometheus_client, redis, semver, soundfile, uvloop, websockets";
    let python = match python("python-litellm-proxy", &LITELLM, modules) {
        Ok(python) => python,
        Err(reason) => return skip("replicas behind LiteLLM", &reason),
    };
    let mut replicas = replicas(&[]);
    let gateway = Gateway::start("litellm.yaml", &replicas, |folder, text, port| {
        fs::write(folder.join("litellm.yaml"), text).unwrap();
        let mut command = Command::new(python.with_file_name("litellm"));
        without_proxies(&mut command);
        command.args(["--config", "litellm.yaml", "--host", "127.0.0.1", "--port", &port.to_string()]);
        command.env("FLASHFLOOD_API_KEY", KEY).env("LITELLM_MASTER_KEY", LITELLM_KEY);
        // prices of models are not fetched
        command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        command
    });
    let names = ["replica-1", "replica-2"];
    let [first, second] = [0, 1].map(|n| format!("{}={}", names[n], replicas[n].child.id()));
    let ways = "X-Session-Id,prompt_cache_key,user";
    gateway.converse(&[LITELLM_KEY, "x-litellm-model-id", ways, "anew", &first, &second]);
    let key = format!("Bearer {LITELLM_KEY}");
    let metrics = gateway.server.request("GET", "/metrics/", &[("Authorization", &key)], b"").body;
    for name in names {
        let counts = |line: &&str| line.starts_with("litellm_deployment_success") && line.contains(name);
        assert!(metrics.lines().any(|line| counts(&line)), "{name}: {metrics}");
    }
    survivor_tells(&mut replicas);
}
