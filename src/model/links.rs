//! Links of a snapshot that lead nowhere: the Hugging Face cache has them where a download was interrupted, or where
//! somebody has deleted blobs.

use std::path::{Path, PathBuf};

use crate::file_error::FileError;

/// Endings of files that are read; a README may be missing.
const READ: [&str; 4] = ["json", "jinja", "safetensors", "gguf"];

/// The first file of the snapshot `folder` that is a link to nothing.
pub fn dangling_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_read = |path: &PathBuf| path.extension().is_some_and(|end| READ.iter().any(|read| end == *read));
    let mut found: Vec<PathBuf> = entries.filter(|path| is_read(path) && is_dangling(path)).collect();
    found.sort();
    found.into_iter().next()
}

/// Whether `path` is a link to nothing.
pub(super) fn is_dangling(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

/// What is wrong with such a link.
pub(super) fn dangling(path: &Path) -> FileError {
    let target = std::fs::read_link(path).unwrap_or_default();
    let found = format!("a link to {}, which is not there", target.display());
    let again = match repository(path) {
        Some(name) => format!("flashflood pull {name} fetches what is missing"),
        None => "download it again".to_owned(),
    };
    FileError::new(path, "", "a file of this snapshot", found).hint(format!("the snapshot is incomplete: {again}"))
}

/// The repository whose cache holds `path`, with the quantisation where it is a GGUF file.
fn repository(path: &Path) -> Option<String> {
    let folder = path.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))?;
    let name = folder.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.replacen("--", "/", 1);
    let files = [path.file_name()?.to_str()?];
    let model = super::quantisations::quantisations(files);
    Some(model.first().map_or(name.clone(), |model| format!("{name}:{}", model.label)))
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::ModelSource;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_fetches_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("models--org--mini/snapshots/abc");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        symlink("../../blobs/0", folder.join("README.md")).unwrap();
        assert_eq!(dangling_in(&folder), None, "nobody reads it");
        for name in ["tokenizer.json", "generation_config.json", "model-00001-of-00002.safetensors"] {
            symlink("../../blobs/1", folder.join(name)).unwrap();
            let text = ModelSource::open(&folder).unwrap_err().to_string();
            assert!(text.contains(&format!("{name}: expected a file of this snapshot")), "{text}");
            assert!(text.contains("../../blobs/1, which is not there\nhint: the snapshot is incomplete: "), "{text}");
            assert!(text.ends_with("flashflood pull org/mini fetches what is missing"), "{text}");
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        let file = folder.join("mini-Q4_K_M.gguf");
        symlink("../../blobs/2", &file).unwrap();
        let text = ModelSource::open(&file).unwrap_err().to_string();
        assert!(text.contains("flashflood pull org/mini:Q4_K_M fetches"), "{text}");
        // outside of a cache
        let lone = root.path().join("lone.gguf");
        symlink("nowhere", &lone).unwrap();
        assert!(ModelSource::open(&lone).unwrap_err().to_string().contains("download it again"));
    }
}
