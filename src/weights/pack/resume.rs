//! `progress.json`: what an unfinished pack already holds, so that a run that was interrupted goes on where it stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use flashflood_backends::positioned::sync_folder;
use serde::{Deserialize, Serialize};

use super::manifest::{Checksum, FileSum, Manifest, SourceDescription};
use super::{MANIFEST, PackError, RESIDENT, is_pack, layer_file, read};
use crate::file_error::FileError;

/// Name of the record of what is finished.
const FINISHED: &str = "progress.json";

/// What is finished of a pack.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    version: u64,
    source: SourceDescription,
    pub(super) resident: Option<FileSum>,
    /// By layer: the checksum of each record.
    pub(super) layers: BTreeMap<usize, Vec<Checksum>>,
}

impl Finished {
    /// What `folder` already holds of the pack of `source`; makes the folder where there is none. Each layer with experts
    /// must have so many records, and a file of so many bytes.
    ///
    /// # Errors
    /// A folder that holds something else.
    pub(super) fn find(
        folder: &Path,
        source: &SourceDescription,
        layers: &BTreeMap<usize, (usize, u64)>,
    ) -> Result<Self, PackError> {
        let path = folder.join(FINISHED);
        let mut finished = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(FileError::syntax(&path, "not a record of a pack"))?,
            Err(e) if e.kind() == ErrorKind::NotFound => Self::of_folder(folder, source)?,
            Err(source) => return Err(FileError::io("read", &path)(source).into()),
        };
        if finished.version != super::manifest::VERSION || finished.source != *source {
            return Err(PackError::OtherPack {
                path: folder.to_owned(),
                expected: source.to_string(),
                found: finished.source.to_string(),
            });
        }
        let length = |path: PathBuf| fs::metadata(path).map(|m| m.len()).ok();
        // a file that was removed or damaged since is made again
        finished.resident = finished.resident.filter(|sum| length(folder.join(RESIDENT)) == Some(sum.bytes));
        finished.layers.retain(|layer, sums| {
            let wanted = layers.get(layer);
            wanted.is_some_and(|(experts, bytes)| {
                sums.len() == *experts && length(folder.join(layer_file(*layer))) == Some(*bytes)
            })
        });
        fs::create_dir_all(folder).map_err(FileError::io("create", folder))?;
        Ok(finished)
    }

    /// What a folder without a record holds: a finished pack, or nothing.
    fn of_folder(folder: &Path, source: &SourceDescription) -> Result<Self, PackError> {
        let version = super::manifest::VERSION;
        if is_pack(folder) {
            let Manifest { source, resident, layers, .. } = read::read_manifest(folder)?;
            let layers = layers.into_iter().map(|records| (records.layer, records.xxh3)).collect();
            return Ok(Finished { version, source, resident: Some(resident), layers });
        }
        // a run that ended while it wrote its first record leaves that behind
        let record = part(Path::new(FINISHED));
        let others =
            fs::read_dir(folder).map(|entries| entries.flatten().any(|entry| entry.file_name() != *record.as_os_str()));
        match others {
            Ok(true) => Err(PackError::NotEmpty { path: folder.to_owned() }),
            Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("open", folder)(e).into()),
            _ => Ok(Finished { version, source: source.clone(), resident: None, layers: BTreeMap::new() }),
        }
    }

    /// Keeps the record in `folder`. `needed` is what the whole pack still needs, for the message of a full disk.
    pub(super) fn save(&self, folder: &Path, needed: u64) -> Result<(), PackError> {
        let path = folder.join(FINISHED);
        let text = serde_json::to_string(self).map_err(FileError::syntax(&path, "not a record of a pack"))?;
        replace(&path, text.as_bytes(), needed)?;
        let manifest = folder.join(MANIFEST);
        match fs::remove_file(&manifest) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("remove", &manifest)(e).into()),
            _ => Ok(()),
        }
    }

    /// Writes the manifest, which makes the folder a pack, and removes the record.
    pub(super) fn complete(folder: &Path, manifest: &Manifest) -> Result<(), PackError> {
        let path = folder.join(MANIFEST);
        let text = manifest.sealed().map_err(FileError::syntax(&path, "not a manifest"))?;
        replace(&path, text.as_bytes(), text.len() as u64)?;
        let path = folder.join(FINISHED);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("remove", &path)(e).into()),
            _ => Ok(()),
        }
    }
}

/// The name under which a file is made.
pub(super) fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Gives a file that is complete and synced its name, durably.
pub(super) fn publish(path: &Path) -> Result<(), PackError> {
    fs::rename(part(path), path).map_err(FileError::io("rename to", path))?;
    match path.parent() {
        Some(folder) => Ok(sync_folder(folder).map_err(FileError::io("sync", folder))?),
        None => Ok(()),
    }
}

/// Writes a whole file at once: either the old one or the new one is there.
pub(super) fn replace(path: &Path, bytes: &[u8], needed: u64) -> Result<(), PackError> {
    let unfinished = part(path);
    let written = fs::File::create(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| {
        // room for whatever else the full disk needs
        let _ = fs::remove_file(&unfinished);
        PackError::write(path, needed)(e)
    })?;
    publish(path)
}
