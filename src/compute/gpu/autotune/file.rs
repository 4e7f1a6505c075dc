use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::compute::ops::Team;

/// Teams of devices, as JSON: `{"version": .., "devices": {DEVICE: {PRODUCT: {"threads": .., "sums": ..}}}}`.
///
/// It only saves time: one that is missing, damaged or of another version of the program is started anew, and one that
/// cannot be written is left alone with a warning.
pub(super) struct TeamFile {
    path: PathBuf,
    contents: Contents,
    changed: bool,
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Contents {
    version: String,
    devices: BTreeMap<String, BTreeMap<String, Team>>,
}

impl TeamFile {
    /// Reads the file at `path`, when `version` of the program has written it.
    pub(super) fn open(path: &Path, version: &str) -> Self {
        let anew = || Contents { version: version.to_owned(), ..Contents::default() };
        let read = std::fs::read(path).and_then(|bytes| Ok(serde_json::from_slice::<Contents>(&bytes)?));
        let contents = match read {
            Ok(contents) if contents.version == version => contents,
            Ok(contents) => {
                tracing::info!("{}: of version {}, not used", path.display(), contents.version);
                anew()
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => anew(),
            Err(e) => {
                tracing::warn!("{}: {e}; not used", path.display());
                anew()
            }
        };
        TeamFile { path: path.to_owned(), contents, changed: false }
    }

    /// What was measured for a product on a device.
    pub(super) fn team(&self, device: &str, product: &str) -> Option<Team> {
        self.contents.devices.get(device)?.get(product).copied()
    }

    /// Remembers what was measured.
    pub(super) fn set(&mut self, device: &str, product: String, team: Team) {
        self.contents.devices.entry(device.to_owned()).or_default().insert(product, team);
        self.changed = true;
    }

    /// Writes the file if something is new in it.
    pub(super) fn save(&self) {
        if !self.changed {
            return;
        }
        if let Err(e) = self.write() {
            tracing::warn!("{}: {e}; products will be measured again", self.path.display());
        }
    }

    fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // a name of its own, then renamed: another process reads the old file or the new one, never a part
        let temporary = folder.join(format!("teams.{}.tmp", std::process::id()));
        let mut json = serde_json::to_vec_pretty(&self.contents)?;
        json.push(b'\n');
        let written = std::fs::write(&temporary, json).and_then(|()| std::fs::rename(&temporary, &self.path));
        if written.is_err() {
            // what is left of it is of no use; the error that is returned says more than this one
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEAM: Team = Team { threads: 64, sums: 8 };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn round_trip() {
        let folder = folder();
        let path = folder.path().join("not there yet").join("teams.json");
        let mut file = TeamFile::open(&path, "1.0");
        assert_eq!(file.team("gpu", "product"), None);
        file.save();
        assert!(!path.exists(), "nothing new, nothing written");
        file.set("gpu", "product".to_owned(), TEAM);
        file.save();
        let mut file = TeamFile::open(&path, "1.0");
        assert_eq!(file.team("gpu", "product"), Some(TEAM));
        assert_eq!(file.team("another gpu", "product"), None);
        assert_eq!(file.team("gpu", "another product"), None);
        file.set("another gpu", "product".to_owned(), Team { threads: 32, sums: 1 });
        file.save();
        let file = TeamFile::open(&path, "1.0");
        assert_eq!(file.team("gpu", "product"), Some(TEAM));
        assert_eq!(file.team("another gpu", "product"), Some(Team { threads: 32, sums: 1 }));
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["teams.json"], "nothing temporary is left");
    }

    #[test]
    fn a_damaged_file_is_started_anew() {
        let folder = folder();
        let path = folder.path().join("teams.json");
        let mut file = TeamFile::open(&path, "1.0");
        file.set("gpu", "product".to_owned(), TEAM);
        file.save();
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"\xff\xfe", b"[1, 2]", b"{\"version\": \"1.0\"}"] {
            std::fs::write(&path, damaged).unwrap();
            let mut file = TeamFile::open(&path, "1.0");
            assert_eq!(file.team("gpu", "product"), None);
            file.set("gpu", "product".to_owned(), TEAM);
            file.save();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_file_of_another_version_is_started_anew() {
        let folder = folder();
        let path = folder.path().join("teams.json");
        let mut file = TeamFile::open(&path, "1.0");
        file.set("gpu", "product".to_owned(), TEAM);
        file.save();
        let mut file = TeamFile::open(&path, "1.1");
        assert_eq!(file.team("gpu", "product"), None);
        file.set("gpu", "another product".to_owned(), TEAM);
        file.save();
        let file = TeamFile::open(&path, "1.1");
        assert_eq!((file.team("gpu", "product"), file.team("gpu", "another product")), (None, Some(TEAM)));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_error() {
        let folder = folder();
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "a file, not a folder").unwrap();
        let mut file = TeamFile::open(&taken.join("teams.json"), "1.0");
        file.set("gpu", "product".to_owned(), TEAM);
        file.save();
        assert_eq!(file.team("gpu", "product"), Some(TEAM));
        assert_eq!(std::fs::read_to_string(&taken).unwrap(), "a file, not a folder");
    }
}
