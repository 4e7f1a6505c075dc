//! `flashflood pull` against a hub in the test: fresh, cut in the middle, damaged, refused, offline, and without room.

use std::time::Duration;

use super::hub::{Behaviour, COMMIT, FakeHub, REPO, Served};
use super::*;

/// Bytes that no other page repeats.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}

/// A repository of the small model, and files that are not read.
fn files() -> Vec<Served> {
    let text = |name, text: &str| Served { name, bytes: text.as_bytes().to_vec(), large: false };
    vec![
        text("config.json", "{\"model_type\": \"qwen3_5_moe\"}\n"),
        text("empty.txt", ""),
        Served { name: "model-00001-of-00002.safetensors", bytes: noise(300_000, 1), large: true },
        Served { name: "model-00002-of-00002.safetensors", bytes: noise(200_001, 2), large: true },
        Served { name: "model.gguf", bytes: noise(1000, 3), large: true },
        Served { name: "onnx/model.safetensors", bytes: noise(1000, 4), large: true },
    ]
}

/// A cache of its own, and a hub.
struct Place {
    cache: TempDir,
    hub: FakeHub,
}

impl Place {
    fn with(behaviour: Behaviour) -> Place {
        Place { cache: tempfile::tempdir().unwrap(), hub: FakeHub::of(files(), behaviour) }
    }

    fn pull(&self, more: &[&str]) -> Command {
        self.pull_as(REPO, more)
    }

    fn pull_as(&self, name: &str, more: &[&str]) -> Command {
        let mut command = flashflood(&[&["pull", name], more].concat());
        command.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HUB_CACHE", self.cache.path());
        command
    }

    fn pulled(&self) -> Outcome {
        ended(self.pull(&[]).spawn().unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("models--org--mini")
    }

    fn snapshot(&self) -> PathBuf {
        self.folder().join("snapshots").join(COMMIT)
    }

    fn blobs(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder().join("blobs"))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// Every file that is wanted is there with its bytes, in the layout of the cache, and nothing else is.
    fn is_whole(&self, wanted: &[&str]) {
        let mut hashes = Vec::new();
        for file in files() {
            let path = self.snapshot().join(file.name);
            if !wanted.contains(&file.name) {
                assert!(!path.exists(), "{}", file.name);
                continue;
            }
            assert!(fs::read(&path).unwrap() == file.bytes, "{}", file.name);
            hashes.push(file.hash());
            #[cfg(unix)]
            {
                let up = if file.name.contains('/') { "../../.." } else { "../.." };
                assert_eq!(fs::read_link(&path).unwrap().to_str().unwrap(), format!("{up}/blobs/{}", file.hash()));
            }
        }
        hashes.sort();
        assert_eq!(self.blobs(), hashes);
        assert_eq!(fs::read_to_string(self.folder().join("refs/main")).unwrap(), COMMIT);
    }

    /// Ranges that were asked for of files, without those from the start.
    fn ranges(&self) -> Vec<String> {
        self.hub
            .asked()
            .into_iter()
            .filter(|asked| asked.path.starts_with("/cdn/"))
            .filter_map(|asked| asked.range)
            .collect()
    }
}

const READ: [&str; 4] =
    ["config.json", "empty.txt", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[test]
fn fresh_and_again() {
    let place = Place::with(Behaviour::default());
    let outcome = place.pulled();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_eq!(outcome.stdout, format!("{}\n", place.snapshot().display()));
    // no bar where there is no terminal
    assert_eq!(outcome.stderr, "4 files, 500.0 kB\n");
    place.is_whole(&READ);
    let asked = place.hub.asked().len();
    let again = place.pulled();
    assert_eq!((again.code, again.stdout), (Some(0), outcome.stdout));
    assert_eq!(place.hub.asked().len(), asked + 1, "only the list of files");
}

#[test]
fn other_files_when_asked_for() {
    let place = Place::with(Behaviour::default());
    let outcome = ended(place.pull(&["--include", "onnx/*", "--include", "*.gguf"]).spawn().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    place.is_whole(&["model.gguf", "onnx/model.safetensors"]);
    ended(place.pull(&["--include", "*.pth"]).spawn().unwrap()).failed(&["none of its 6 files matches *.pth"]);
    outcome_of_misuse(place.pull(&["--include", "[a"])).misused(&["--include"]);
}

fn outcome_of_misuse(mut command: Command) -> Outcome {
    ended(command.spawn().unwrap())
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_broke() {
    let place = Place::with(Behaviour { break_after: Some((70_000, 5)), ..Behaviour::default() });
    let outcome = place.pulled();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    place.is_whole(&READ);
    let ranges = place.ranges();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
}

#[test]
fn a_connection_that_always_breaks_ends_and_keeps_what_came() {
    let place = Place::with(Behaviour { break_after: Some((0, 1000)), ..Behaviour::default() });
    place.pulled().failed(&["/resolve/", "goes on where it stopped"]);
    assert!(!place.folder().join("refs/main").exists());
    place.hub.behave(Behaviour::default());
    assert_eq!(place.pulled().code, Some(0));
    place.is_whole(&READ);
}

#[cfg(unix)]
#[test]
fn a_killed_download_goes_on_where_it_stopped() {
    let place = Place::with(Behaviour { slow: Duration::from_millis(20), ..Behaviour::default() });
    let mut child = place.pull(&[]).spawn().unwrap();
    let begun = || {
        let blobs = place.blobs().into_iter().filter(|name| name.ends_with(".incomplete"));
        let lengths =
            blobs.map(|name| fs::metadata(place.folder().join("blobs").join(name)).map_or(0, |meta| meta.len()));
        lengths.filter(|length| *length > 20_000).count()
    };
    while begun() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SIGKILL: nothing is tidied up
    child.kill().unwrap();
    child.wait().unwrap();
    place.hub.behave(Behaviour::default());
    let outcome = place.pulled();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    place.is_whole(&READ);
    let ranges = place.ranges();
    let first =
        |range: &String| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<u64>().unwrap();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges.iter().all(|range| first(range) > 20_000), "{ranges:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_130_and_keeps_what_came() {
    let place = Place::with(Behaviour { slow: Duration::from_millis(20), ..Behaviour::default() });
    let child = place.pull(&[]).spawn().unwrap();
    while place.ranges().is_empty() && !place.blobs().iter().any(|name| name.ends_with(".incomplete")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let outcome = ended(child);
    assert_eq!(outcome.code, Some(130), "{outcome:#?}");
    assert!(outcome.stderr.contains("goes on where this one stopped"), "{outcome:#?}");
    place.hub.behave(Behaviour::default());
    assert_eq!(place.pulled().code, Some(0));
    place.is_whole(&READ);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let place = Place::with(Behaviour { break_after: Some((70_000, 1)), no_ranges: true, ..Behaviour::default() });
    assert_eq!(place.pulled().code, Some(0));
    place.is_whole(&READ);
}

#[test]
fn damaged_files_are_fetched_again_once() {
    let place = Place::with(Behaviour { damage: 1, ..Behaviour::default() });
    let outcome = place.pulled();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("came damaged: fetching it again"), "{outcome:#?}");
    place.is_whole(&READ);
    let place = Place::with(Behaviour { damage: 1000, ..Behaviour::default() });
    place.pulled().failed(&["expected ", "found ", "twice", "changes files"]);
    assert!(!place.blobs().contains(&files()[2].hash()), "{:?}", place.blobs());
}

#[test]
fn who_may_not_and_what_is_not_there() {
    let place = Place::with(Behaviour { token: Some("secret"), ..Behaviour::default() });
    place.pulled().failed(&["401", "access to org/mini is denied", "set HF_TOKEN"]);
    let wrong = ended(place.pull(&[]).env("HF_TOKEN", "wrong").spawn().unwrap());
    wrong.failed(&["401", "the token that is set may not read it"]);
    assert!(!wrong.stderr.contains("wrong\n"), "{wrong:#?}");
    assert_eq!(ended(place.pull(&[]).env("HF_TOKEN", "secret").spawn().unwrap()).code, Some(0));
    place.is_whole(&READ);
    // files come from another host, which learns nothing
    for asked in place.hub.asked() {
        let is_hub = asked.host.starts_with("127.0.0.1");
        assert_eq!(is_hub, !asked.path.starts_with("/cdn/"), "{asked:?}");
        assert!(is_hub || asked.token.is_none(), "{asked:?}");
    }
    let mut other = flashflood(&["pull", "org/other"]);
    other.env("HF_ENDPOINT", place.hub.endpoint()).env("HF_HUB_CACHE", place.cache.path()).env("HF_TOKEN", "secret");
    ended(other.spawn().unwrap()).failed(&["404", "there is no such model", "check the name"]);
    ended(place.pull(&["--revision", "../x"]).spawn().unwrap()).failed(&["'../x': expected a branch"]);
    outcome(&["pull", "nonsense"]).failed(&["'nonsense'", "name of a repository"]);
}

#[test]
fn without_a_network() {
    let place = Place::with(Behaviour::default());
    let offline = || ended(place.pull(&[]).env("HF_HUB_OFFLINE", "1").spawn().unwrap());
    offline().failed(&["org/mini: it is not in the Hugging Face cache", "HF_HUB_OFFLINE forbids the network"]);
    let local = || ended(place.pull(&["--local-only"]).spawn().unwrap());
    local().failed(&["--local-only forbids the network", "flashflood pull org/mini"]);
    assert_eq!(place.pulled().code, Some(0));
    // files that are no model
    local().failed(&["cannot be used", "config.json"]);
    assert_eq!(place.hub.asked().iter().filter(|asked| asked.path.starts_with("/api/")).count(), 1);
    let mut nobody = place.pull(&[]);
    // a port that nobody listens at
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable = ended(nobody.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}")).spawn().unwrap());
    unreachable.failed(&[&port.to_string(), "--local-only needs no network"]);
}

#[test]
fn without_room() {
    let place = Place::with(Behaviour { claim: Some(1 << 60), ..Behaviour::default() });
    place.pulled().failed(&["org/mini: ", "are still to come", "are free in", "HF_HUB_CACHE"]);
    assert_eq!(place.hub.asked().len(), 1, "nothing is fetched");
}

/// A repository of GGUF files: two quantisations, one of them in a folder and in parts.
fn gguf_files() -> Vec<Served> {
    let large = |name, seed| Served { name, bytes: noise(1000, seed), large: true };
    vec![
        Served { name: "README.md", bytes: b"text".to_vec(), large: false },
        Served { name: "config.json", bytes: b"{}".to_vec(), large: false },
        large("mini-Q4_K_M.gguf", 1),
        large("mmproj-F16.gguf", 2),
        large("UD-Q4_K_XL/mini-UD-Q4_K_XL-00001-of-00002.gguf", 3),
        large("UD-Q4_K_XL/mini-UD-Q4_K_XL-00002-of-00002.gguf", 4),
    ]
}

#[test]
fn the_files_of_one_quantisation() {
    let place = Place { cache: tempfile::tempdir().unwrap(), hub: FakeHub::of(gguf_files(), Behaviour::default()) };
    let pulled = |quant: &str| ended(place.pull_as(&format!("{REPO}{quant}"), &[]).spawn().unwrap());
    let here = || gguf_files().iter().map(|file| place.snapshot().join(file.name).exists()).collect::<Vec<_>>();
    pulled("").failed(&["found GGUF files: Q4_K_M, UD-Q4_K_XL", "flashflood pull org/mini:Q4_K_M"]);
    pulled(":Q5_K_M").failed(&["org/mini: expected GGUF files of Q5_K_M, found Q4_K_M, UD-Q4_K_XL"]);
    ended(place.pull_as("org/mini:Q4_K_M", &["--include", "*"]).spawn().unwrap()).failed(&["--include", "give one"]);
    assert!(!place.folder().exists(), "nothing is fetched");
    let whole = pulled(":q4_k_m");
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), "1 file, 1.0 kB\n"), "{whole:#?}");
    assert_eq!(whole.stdout, format!("{}\n", place.snapshot().join("mini-Q4_K_M.gguf").display()));
    assert_eq!(here(), [false, false, true, false, false, false]);
    let split = pulled("@main:UD-Q4_K_XL");
    assert_eq!(split.stderr, "2 files, 2.0 kB\n", "{split:#?}");
    assert!(split.stdout.ends_with("UD-Q4_K_XL-00001-of-00002.gguf\n"), "{split:#?}");
    assert_eq!(here(), [false, false, true, false, true, true]);
    // what -m makes of the same name: not a model, as its bytes are noise
    let mut run = flashflood(&["inspect", "org/mini:ud-q4_k_xl"]);
    ended(run.env("HF_HUB_CACHE", place.cache.path()).spawn().unwrap()).failed(&["00001-of-00002", "GGUF file"]);
    let local = place.pull_as("org/mini:Q4_K_M", &["--local-only"]).spawn().unwrap();
    ended(local).failed(&["org/mini:Q4_K_M: it is in the Hugging Face cache, but cannot be used", "a GGUF file"]);
    let local = place.pull_as("org/mini:Q8_0", &["--local-only"]).spawn().unwrap();
    ended(local).failed(&["name ends with Q8_0, found Q4_K_M, UD-Q4_K_XL", "flashflood pull org/mini:Q8_0"]);
}

#[test]
fn a_busy_hub_is_waited_for() {
    let busy = |list, file| Place::with(Behaviour { busy: [list, file], ..Behaviour::default() });
    let never = (0, "", "");
    let start = std::time::Instant::now();
    let place = busy((1, "429 Too Many Requests", "Retry-After: 1\r\n"), never);
    let outcome = place.pulled();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("note: the hub answered 429, too many requests: waiting 1 s\n"), "{outcome:#?}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    place.is_whole(&READ);
    // a date that is over, and no word of when
    for (more, wait) in [("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 0), ("", 1)] {
        let place = busy((1, "503 Service Unavailable", more), (1, "502 Bad Gateway", "Retry-After: 0\r\n"));
        let outcome = place.pulled();
        let note = format!("answered 503, it has too much to do: waiting {wait} s");
        assert!(outcome.code == Some(0) && outcome.stderr.contains(&note), "{outcome:#?}");
        place.is_whole(&READ);
    }
}

#[test]
fn a_hub_that_stays_busy_is_left_alone() {
    let always = (1000, "429 Too Many Requests", "Retry-After: 0\r\n");
    let place = Place::with(Behaviour { busy: [always; 2], ..Behaviour::default() });
    place.pulled().failed(&["/api/models/org/mini", "the hub answered 429, 6 times", "set HF_TOKEN"]);
    assert_eq!(place.hub.asked().len(), 6);
    let named = ended(place.pull(&[]).env("HF_TOKEN", "secret").spawn().unwrap());
    named.failed(&["429, 6 times", "goes on where it stopped"]);
    let long = (1000, "429 Too Many Requests", "Retry-After: 86400\r\n");
    place.hub.behave(Behaviour { busy: [(0, "", ""), long], ..Behaviour::default() });
    place.pulled().failed(&["/resolve/", "the hub answered 429", "try again in 86400 s"]);
}
