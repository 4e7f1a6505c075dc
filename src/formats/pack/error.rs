use std::io;
use std::path::{Path, PathBuf};

use super::Checksum;
use crate::formats::quantise::NotFinite;

/// What can go wrong with making, opening or checking a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The shapes and constants in the manifest.
    #[error(transparent)]
    Config(Box<crate::model::ConfigError>),
    /// The system refuses.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// "open", "read", …
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A read of experts fails or ends early.
    #[error("{path}: cannot read {bytes} bytes at offset {offset} (layer {layer}, expert {expert}): {source}", path = path.display())]
    Read {
        /// The source file.
        path: PathBuf,
        /// Whose weights.
        layer: usize,
        /// Whose weights.
        expert: usize,
        /// First byte.
        offset: u64,
        /// Wanted.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// No space is left for the pack.
    #[error(
        "{path}: the disk is full: {needed} bytes of the pack are still to be written\n\
         hint: make room and run the same command again; finished layers are kept", path = path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// Bytes from here to the end of the pack.
        needed: u64,
    },
    /// A file of the pack is not JSON, or not what its keys must hold.
    #[error("{path}: not a manifest that can be read: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A pack of another version, or no pack at all.
    #[error("{path}: expected {expected}, found {found}\nhint: {hint}", path = path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Format and version that this program reads.
        expected: String,
        /// Format and version in the file.
        found: String,
        /// What helps.
        hint: &'static str,
    },
    /// A value of the manifest does not hold.
    #[error("{path}: {key}: expected {expected}, found {found}", path = path.display())]
    Value {
        /// The manifest.
        path: PathBuf,
        /// Key, with the layer.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The resident file is no safetensors file.
    #[error("{path}: not a safetensors file: {source}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A resident tensor is missing or of another shape or type.
    #[error("{path}: tensor {tensor}: expected {expected}, found {found}", path = path.display())]
    Tensor {
        /// The resident file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Type and shape.
        expected: String,
        /// Type and shape, or "none".
        found: String,
    },
    /// A file is shorter or longer than the manifest says.
    #[error("{path}: expected {expected} bytes, found {found}\nhint: the file is damaged; make the pack again", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// From the manifest.
        expected: u64,
        /// On disk.
        found: u64,
    },
    /// Bytes are not the ones that were written.
    #[error(
        "{path}: {what} at offset {offset}: expected checksum {expected}, found {found}\n\
         hint: the file is damaged; remove it and make the pack again with the same options", path = path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// "layer 3, expert 17", or "resident weights".
        what: String,
        /// First byte of the record.
        offset: u64,
        /// From the manifest.
        expected: Checksum,
        /// Of what is on disk.
        found: Checksum,
    },
    /// An expert's weight cannot be quantised.
    #[error(
        "layer {layer}, expert {expert}, {matrix}, row {row}: {source}\nhint: the snapshot is damaged, or was quantised with NaN or infinite scales"
    )]
    ExpertWeight {
        /// Layer.
        layer: usize,
        /// Expert.
        expert: usize,
        /// gate, up or down.
        matrix: &'static str,
        /// Output row of that matrix.
        row: usize,
        /// Column and value.
        source: NotFinite,
    },
    /// A resident weight cannot be quantised.
    #[error(
        "{tensor}, row {row}: {source}\nhint: the snapshot is damaged, or was quantised with NaN or infinite scales"
    )]
    ResidentWeight {
        /// Name in the checkpoint.
        tensor: String,
        /// Row.
        row: usize,
        /// Column and value.
        source: NotFinite,
    },
    /// An option that there is no format for.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Allowed values.
        expected: &'static str,
        /// Given value.
        found: u16,
    },
    /// The folder holds a pack of something else.
    #[error("{path}: holds a pack made from another model or with other options\n  there: {found}\n  asked: {expected}\nhint: remove it, or choose another folder, or use the same options", path = path.display())]
    OtherPack {
        /// The folder.
        path: PathBuf,
        /// Options and fingerprint asked for.
        expected: String,
        /// Options and fingerprint in the folder.
        found: String,
    },
    /// The folder holds something that is not a pack.
    #[error("{path}: is not empty and holds no pack\nhint: give a folder that does not exist yet", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
}

impl PackError {
    /// For `map_err`: the system refused `action` on `path`.
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PackError + 'a {
        move |source| PackError::Io { path: path.to_owned(), action, source }
    }

    /// For `map_err`: writing `path` failed with `needed` bytes of the pack left.
    pub(super) fn write(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> PackError + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                PackError::DiskFull { path: path.to_owned(), needed }
            }
            _ => PackError::Io { path: path.to_owned(), action: "write", source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_is_needed_and_what_helps() {
        let path = Path::new("pack/experts/layer-007.bin.part");
        let text = PackError::write(path, 1234)(io::ErrorKind::StorageFull.into()).to_string();
        assert!(text.starts_with("pack/experts/layer-007.bin.part: the disk is full: 1234 bytes"), "{text}");
        assert!(text.contains("hint: make room and run the same command again"), "{text}");
        let other = PackError::write(path, 1234)(io::ErrorKind::PermissionDenied.into());
        assert!(matches!(other, PackError::Io { action: "write", .. }));
    }
}
