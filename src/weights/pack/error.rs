use std::io;
use std::path::{Path, PathBuf};

use super::Checksum;
use crate::file_error::FileError;
use flashflood_formats::NotFinite;

/// What can go wrong with making, opening or checking a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the pack or of its source.
    #[error(transparent)]
    File(#[from] FileError),
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
    /// A calibration helps only weights that are not quantised yet.
    #[error(
        "--calibration: expected experts in BF16, F16, F32, FP8 or 8 bits, found {found}\nhint: make the pack from the release that was quantised"
    )]
    QuantisedSource {
        /// Format of the source's experts.
        found: String,
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
    /// For `map_err`: writing `path` failed with `needed` bytes of the pack left.
    pub(super) fn write(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> PackError + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                PackError::DiskFull { path: path.to_owned(), needed }
            }
            _ => FileError::io("write", path)(source).into(),
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
        assert!(matches!(&other, PackError::File(e) if e.to_string().contains("cannot write")), "{other}");
    }
}
