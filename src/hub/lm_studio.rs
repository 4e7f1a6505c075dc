//! Models that LM Studio has downloaded: `PUBLISHER/REPOSITORY/` with GGUF files, or with a snapshot.

use std::path::PathBuf;

/// The folders of repositories in LM Studio's folders, sorted; none where there is no such folder.
pub fn lm_studio_folders() -> Vec<PathBuf> {
    let Ok(home) = etcetera::home_dir() else { return Vec::new() };
    // the second is that of versions before 0.3.6
    let roots = [".lmstudio/models", ".cache/lm-studio/models"].map(|root| home.join(root));
    let inside = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        folders.sort();
        folders
    };
    roots.into_iter().flat_map(inside).flat_map(inside).collect()
}
