//! The store of ollama: its models are GGUF files, which are read where they lie.
//!
//! ```text
//! manifests/registry.ollama.ai/library/NAME/TAG      JSON: layers, each with a mediaType and a digest
//! manifests/HOST/NAMESPACE/NAME/TAG                  of other places: hf.co/ORG/NAME/TAG
//! blobs/sha256-HASH                                  a layer
//! ```

use std::env::var_os;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What stands for a place that is not said.
const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// The layer with the weights.
const MODEL: &str = "application/vnd.ollama.image.model";

/// A folder with manifests and blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaStore {
    root: PathBuf,
}

/// A model of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaModel {
    /// As ollama calls it, with its tag.
    pub name: String,
    /// The GGUF file; `None` where its manifest names none.
    pub blob: Option<PathBuf>,
    /// Bytes of all its layers, as the manifest has them.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

impl OllamaStore {
    /// The store in `root`, which need not exist.
    pub(crate) fn at(root: impl Into<PathBuf>) -> OllamaStore {
        OllamaStore { root: root.into() }
    }

    /// Where ollama keeps models: the folder `OLLAMA_MODELS`, or that of the user and, on Linux, that of its service.
    pub fn of_user() -> Vec<OllamaStore> {
        if let Some(root) = var_os("OLLAMA_MODELS").filter(|value| !value.is_empty()) {
            return vec![OllamaStore::at(root)];
        }
        let home = etcetera::home_dir().ok().map(|home| home.join(".ollama/models"));
        let service = cfg!(target_os = "linux").then(|| PathBuf::from("/usr/share/ollama/.ollama/models"));
        home.into_iter().chain(service).map(OllamaStore::at).collect()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its models, by name; none where there is no store, or one that may not be read.
    pub fn models(&self) -> Vec<OllamaModel> {
        let mut found = Vec::new();
        for (host, folder) in inside(&self.root.join("manifests")) {
            for (namespace, folder) in inside(&folder) {
                for (name, folder) in inside(&folder) {
                    for (tag, manifest) in inside(&folder).into_iter().filter(|(_, path)| path.is_file()) {
                        let name = Name { host: host.clone(), namespace: namespace.clone(), name: name.clone(), tag };
                        found.push(self.read(&name, &manifest));
                    }
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The model that ollama would call `name`: `qwen3.5:35b`, `somebody/model`, `hf.co/org/name:Q4_K_M`.
    pub fn find(&self, name: &str) -> Option<OllamaModel> {
        let wanted = Name::parse(name)?.shown();
        self.models().into_iter().find(|model| model.name.eq_ignore_ascii_case(&wanted))
    }

    /// What the model is called whose GGUF file is at `path`; `None` where that is no blob of a store.
    pub fn name_of(path: &Path) -> Option<String> {
        let file = path.file_name()?.to_str()?;
        let blobs = path.parent().filter(|blobs| blobs.ends_with("blobs"))?;
        let is_this = |model: &OllamaModel| model.blob.as_deref().and_then(Path::file_name) == Some(file.as_ref());
        OllamaStore::at(blobs.parent()?).models().into_iter().find(is_this).map(|model| model.name)
    }

    fn read(&self, name: &Name, manifest: &Path) -> OllamaModel {
        let text = std::fs::read_to_string(manifest).unwrap_or_default();
        let layers = serde_json::from_str::<Manifest>(&text).map(|manifest| manifest.layers).unwrap_or_default();
        let model = layers.iter().find(|layer| layer.media_type == MODEL);
        let bytes = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        OllamaModel { name: name.shown(), blob: model.and_then(|layer| self.blob(&layer.digest)), bytes }
    }

    /// Where the blob of a digest lies, or would.
    fn blob(&self, digest: &str) -> Option<PathBuf> {
        // it becomes a path on this machine
        let hash = digest.strip_prefix("sha256:").filter(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let place = |between: char| self.root.join("blobs").join(format!("sha256{between}{hash}"));
        // the first versions wrote digests as they are
        Some(Some(place(':')).filter(|old| old.is_file()).unwrap_or_else(|| place('-')))
    }
}

/// The parts of a name.
struct Name {
    host: String,
    namespace: String,
    name: String,
    tag: String,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        // a host may have a port
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match text[last..].split_once(':') {
            Some((name, tag)) => (&text[..last + name.len()], tag),
            None => (text, TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, name) = match parts[..] {
            [name] => (HOST, NAMESPACE, name),
            [namespace, name] => (HOST, namespace, name),
            [host, namespace, name] => (host, namespace, name),
            _ => return None,
        };
        let owned = str::to_owned;
        Some(Name { host: owned(host), namespace: owned(namespace), name: owned(name), tag: owned(tag) })
    }

    fn shown(&self) -> String {
        let Name { host, namespace, name, tag } = self;
        match (host == HOST, namespace == NAMESPACE) {
            (true, true) => format!("{name}:{tag}"),
            (true, false) => format!("{namespace}/{name}:{tag}"),
            (false, _) => format!("{host}/{namespace}/{name}:{tag}"),
        }
    }
}

/// Names and paths of what is in a folder, without what is hidden; nothing where it cannot be read.
fn inside(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named.filter(|(name, _)| !name.starts_with('.')).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// Writes a manifest whose layer with weights has this digest.
    fn manifest(root: &Path, place: &str, digest: &str) {
        let path = root.join("manifests").join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let layers = serde_json::json!([
            { "mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00", "size": 3 },
            { "mediaType": MODEL, "digest": digest, "size": 40 },
        ]);
        std::fs::write(path, serde_json::json!({ "schemaVersion": 2, "layers": layers }).to_string()).unwrap();
    }

    #[test]
    fn models_by_the_names_that_ollama_gives_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        manifest(root, "registry.ollama.ai/library/qwen3.5/35b", "sha256:aa");
        manifest(root, "registry.ollama.ai/library/qwen3.5/latest", "sha256:bb");
        manifest(root, "registry.ollama.ai/somebody/model/v1", "sha256:cc");
        manifest(root, "hf.co/org/Name-GGUF/Q4_K_M", "sha256:dd");
        manifest(root, "localhost:5000/a/b/latest", "sha256:../../ee");
        std::fs::write(root.join("manifests/registry.ollama.ai/library/qwen3.5/broken"), "{").unwrap();
        let store = OllamaStore::at(root);
        let names: Vec<String> = store.models().into_iter().map(|model| model.name).collect();
        let expected = [
            "hf.co/org/Name-GGUF:Q4_K_M",
            "localhost:5000/a/b:latest",
            "qwen3.5:35b",
            "qwen3.5:broken",
            "qwen3.5:latest",
            "somebody/model:v1",
        ];
        assert_eq!(names, expected);
        let blob = |name: &str| {
            let blob = store.find(name)?.blob?;
            Some(blob.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"))
        };
        let found = |hash: &str| Some(format!("blobs/sha256-{hash}"));
        assert_eq!(blob("qwen3.5:35b"), found("aa"));
        assert_eq!(blob("Qwen3.5"), found("bb"));
        assert_eq!(blob("registry.ollama.ai/library/qwen3.5:35b"), found("aa"));
        assert_eq!(blob("somebody/model:v1"), found("cc"));
        assert_eq!(blob("hf.co/org/name-gguf:q4_k_m"), found("dd"));
        for none in ["localhost:5000/a/b", "qwen3.5:broken", "qwen3.5:7b", "model", "a/b/c/d", ""] {
            assert_eq!(blob(none), None, "{none}");
        }
        assert_eq!(store.find("qwen3.5:35b").unwrap().bytes, 43);
        std::fs::create_dir(root.join("blobs")).unwrap();
        assert_eq!(OllamaStore::name_of(&root.join("blobs/sha256-aa")), Some("qwen3.5:35b".to_owned()));
        assert_eq!(OllamaStore::name_of(&root.join("blobs/sha256-99")), None);
        assert_eq!(OllamaStore::name_of(&root.join("sha256-aa")), None);
        assert_eq!(OllamaStore::at(root.join("none")).models(), []);
    }
}
