//! GGUF files where other programs keep them: what `list` shows, and that `-m` takes the names that it shows.

use std::process::Command;

use serde_json::{Value as Json, json};

use super::program::with_bytes;
use super::*;
use crate::program::{flashflood, golden_text};

/// A home with a Hugging Face cache, LM Studio's folders and ollama's store.
struct Home(tempfile::TempDir);

const HASH: &str = "0011223344556677889900112233445566778899001122334455667788990011";

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A manifest of ollama's.
    fn manifest(&self, name: &str, hash: &str) {
        let layer = json!({ "mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{hash}") });
        let text = json!({ "schemaVersion": 2, "layers": [layer] }).to_string();
        self.put(&format!(".ollama/models/manifests/{name}"), text.as_bytes());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = flashflood(arguments);
        command.env("HOME", self.0.path()).env("USERPROFILE", self.0.path()).env("XDG_DATA_HOME", self.path("data"));
        command.env("OLLAMA_MODELS", self.path(".ollama/models")).env("HF_HUB_CACHE", self.path("hub"));
        command
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
    }
}

const SNAPSHOT: &str = "hub/models--org--mini-GGUF/snapshots";

fn filled() -> Home {
    let home = Home::new();
    let (_folder, path) = with_bytes("mixtral");
    let whole = fs::read(path).unwrap();
    home.put("hub/models--org--mini-GGUF/refs/main", b"abc");
    home.put(&format!("{SNAPSHOT}/abc/config.json"), b"{}");
    home.put(&format!("{SNAPSHOT}/abc/mini-BF16.gguf"), &whole);
    home.put(&format!("{SNAPSHOT}/abc/mmproj-F16.gguf"), &whole);
    home.put(&format!("{SNAPSHOT}/abc/Q8_0/mini-Q8_0.gguf"), &whole[..whole.len() / 2]);
    // of an older commit
    home.put(&format!("{SNAPSHOT}/def/mini-Q4_K_M.gguf"), &whole);
    home.put(&format!("{SNAPSHOT}/def/mini-BF16.gguf"), &whole);
    let golden = golden("qwen3").0;
    for (n, part) in golden.gguf(Form::PLAIN).split(3).iter().enumerate().skip(1) {
        home.put(&format!(".lmstudio/models/pub/split/model-{n:05}-of-00003.gguf"), &part.bytes());
    }
    let mut other = golden.gguf(Form::PLAIN);
    other.put("general.architecture", "gemma3");
    home.put(".cache/lm-studio/models/pub/other/other.gguf", &other.bytes());
    home.put(".cache/lm-studio/models/pub/snapshot/config.json", br#"{"model_type": "llama"}"#);
    home.put(&format!(".ollama/models/blobs/sha256-{HASH}"), &whole);
    home.manifest("registry.ollama.ai/library/mini/8x7b", HASH);
    home.manifest("hf.co/org/mini/Q4_K_M", HASH);
    home.manifest("registry.ollama.ai/somebody/gone/latest", &HASH.replace('0', "1"));
    home.put(".ollama/models/manifests/registry.ollama.ai/library/odd/latest", b"no JSON");
    home
}

#[test]
fn list_shows_files_of_other_programs() {
    let home = filled();
    let models: Vec<Json> = serde_json::from_str(&home.stdout(&["list", "--json"])).unwrap();
    let lm_studio = |place: &str| home.path(place).display().to_string();
    let found: Vec<(&str, &str, &str)> =
        models.iter().map(|model| ["name", "state", "format"].map(|key| model[key].as_str().unwrap()).into()).collect();
    let (split, other) =
        (".lmstudio/models/pub/split/model-00001-of-00003.gguf", ".cache/lm-studio/models/pub/other/other.gguf");
    let (split, other) = (lm_studio(split), lm_studio(other));
    let snapshot = lm_studio(".cache/lm-studio/models/pub/snapshot");
    let broken = found.iter().find(|(name, ..)| *name == "org/mini-GGUF:Q8_0").unwrap();
    assert!(broken.1 == "broken" && broken.2.contains("expected a file of at least"), "{broken:?}");
    let expected = [
        ("org/mini-GGUF:BF16", "complete", "llama BF16"),
        *broken,
        ("org/mini-GGUF@def:Q4_K_M", "complete", "llama BF16"),
        (split.as_str(), "partial", ""),
        (other.as_str(), "not-supported", "gemma3 F32"),
        (snapshot.as_str(), "not-supported", "llama"),
        ("ollama:hf.co/org/mini:Q4_K_M", "complete", "llama BF16"),
        ("ollama:mini:8x7b", "complete", "llama BF16"),
        ("ollama:odd:latest", "not-supported", "no GGUF file"),
        ("ollama:somebody/gone:latest", "partial", ""),
    ];
    assert_eq!(found, expected);
    let blob = fs::metadata(home.path(&format!(".ollama/models/blobs/sha256-{HASH}"))).unwrap().len();
    assert_eq!(models[7]["bytes"].as_u64(), Some(blob));
    let text = home.stdout(&["list"]);
    assert!(text.lines().count() == 11 && text.contains("broken"), "{text}");
}

#[test]
fn models_by_the_names_of_list() {
    let home = filled();
    let (prompt, continuation) = golden_text("mixtral");
    let rest = ["--device", "cpu", "--activations", "f32", "--raw", &prompt, "--temp", "0", "-n", "12"];
    for name in ["ollama:mini:8x7b", "ollama:hf.co/org/mini:q4_k_m", "org/mini-GGUF:bf16", "org/mini-GGUF@def:Q4_K_M"] {
        assert_eq!(home.stdout(&[&["run", "-m", name], &rest[..]].concat()), format!("{prompt}{continuation}\n"));
    }
    home.fails(
        &["run", "-m", "ollama:mini", "hello"],
        &["ollama:mini: expected", "ollama:mini:8x7b", "ollama pull mini"],
    );
    home.fails(&["inspect", "ollama:odd"], &["ollama:odd:latest: its manifest names no GGUF file"]);
    home.fails(&["inspect", "ollama:somebody/gone"], &["sha256-1111", "missing", "ollama pull somebody/gone"]);
    home.fails(&["inspect", "org/mini-GGUF:Q4_K_M"], &["found BF16, Q8_0"]);
    home.fails(&["inspect", "org/mini-GGUF"], &["expected one GGUF model, found 2", "such as"]);
}
