//! GGUF files among the models: in the Hugging Face cache, in LM Studio's folders, in ollama's store.

use std::path::Path;

use flashflood::hub::{OllamaModel, OllamaStore, Repository, lm_studio_folders};
use flashflood::model::{GgufFound, GgufHead};

use super::{Listed, State, look_at};

/// The GGUF models of a repository in the Hugging Face cache, one line for each quantisation.
pub(super) fn of_repository(repository: &Repository, models: &mut Vec<Listed>) {
    // a file that came before the branch moved lies in another snapshot than later ones
    let is_main = |refs: &[String]| refs.iter().any(|name| name == "main");
    let mut snapshots: Vec<_> = repository.snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| !is_main(&snapshot.refs));
    let first = models.len();
    for snapshot in &snapshots {
        let needs_no_revision = is_main(&snapshot.refs) || snapshots.len() == 1;
        for head in GgufHead::all_in(&snapshot.folder) {
            let name = match needs_no_revision {
                true => format!("{}:{}", repository.name, head.label),
                false => format!("{}@{}:{}", repository.name, snapshot.commit, head.label),
            };
            let is_known = |model: &Listed| model.name == format!("{}:{}", repository.name, head.label);
            if !models[first..].iter().any(is_known) {
                models.push(listed(name, head));
            }
        }
    }
}

/// Those of LM Studio: GGUF files, and snapshots.
pub(super) fn of_lm_studio(models: &mut Vec<Listed>) {
    for folder in lm_studio_folders() {
        let found = GgufHead::all_in(&folder);
        if found.is_empty() && folder.join("config.json").exists() {
            let (state, format) = look_at(&folder);
            let bytes = super::bytes_in(&folder).unwrap_or(0);
            let name = folder.display().to_string();
            models.push(Listed { name, kind: "snapshot", state, bytes, format, folder });
            continue;
        }
        models.extend(found.into_iter().map(|head| listed(head.path.display().to_string(), head)));
    }
}

/// Those of ollama.
pub(super) fn of_ollama(store: &OllamaStore, models: &mut Vec<Listed>) {
    for OllamaModel { name, blob, bytes } in store.models() {
        let name = format!("ollama:{name}");
        models.push(match blob {
            Some(blob) => listed(name, GgufHead::of_file(&blob)),
            // in a form of its own, or a manifest that cannot be read
            None => {
                let (state, format) = (State::NotSupported, "no GGUF file".to_owned());
                Listed { name, kind: "gguf", state, bytes, format, folder: store.root().to_owned() }
            }
        });
    }
}

fn listed(name: String, head: GgufHead) -> Listed {
    let of = |architecture: String, weights: &str| format!("{architecture} {weights}").trim_end().to_owned();
    let (state, format) = match head.found {
        GgufFound::Runs { architecture, weights } => (State::Complete, of(architecture, weights)),
        GgufFound::Other { architecture, weights } => (State::NotSupported, of(architecture, weights)),
        GgufFound::Partial => (State::Partial, String::new()),
        GgufFound::Broken(why) => (State::Broken, without_path(&why, &head.path)),
    };
    Listed { name, kind: "gguf", state, bytes: head.bytes, format, folder: head.path }
}

/// The line has the name of the model already.
fn without_path(why: &str, path: &Path) -> String {
    why.strip_prefix(&format!("{}: ", path.display())).unwrap_or(why).to_owned()
}
