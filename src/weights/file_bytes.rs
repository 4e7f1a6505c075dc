//! The bytes of weight files: mapped, and where a file system maps no files, read as far as they are resident.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use flashflood_backends::{MapOutcome, map_file, read_parts_of_file};

use crate::file_error::FileError;

/// A tensor of experts that is shorter is read with the resident ones: scales, which somebody may look at.
const SMALL: u64 = 64 << 10;

/// The bytes of the file at `path`. Where it cannot be mapped, those are read that `wanted` asks for when it sees what
/// was read before, at first the first `first` bytes; the others, which are experts, are zeros that nobody looks at.
///
/// # Errors
/// What the system says.
pub(crate) fn file_bytes(
    path: &Path,
    first: u64,
    wanted: impl Fn(&Bytes) -> Vec<Range<u64>>,
) -> Result<Bytes, FileError> {
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::OutOfMemory => FileError::io("map", path)(error),
        _ => FileError::io("read", path)(error),
    };
    match map_file(path).map_err(refused)? {
        MapOutcome::Mapped(mapped) => Ok(Bytes::from_owner(mapped)),
        MapOutcome::Refused(error) => {
            tracing::info!("{}: read, as the file system maps no files ({error})", path.display());
            read_wanted(path, first, wanted)
        }
    }
}

fn read_wanted(path: &Path, first: u64, wanted: impl Fn(&Bytes) -> Vec<Range<u64>>) -> Result<Bytes, FileError> {
    let len = std::fs::metadata(path).map_err(FileError::io("read", path))?.len();
    let mut parts: Vec<_> = std::iter::once(0..first.min(len)).collect();
    loop {
        let read = read_parts_of_file(path, &parts).map_err(FileError::io("read", path))?;
        let bytes = Bytes::from_owner(read);
        let mut next = wanted(&bytes);
        // a file that is damaged is so when its header is read again, with a message
        next.retain(|part| part.start < part.end && part.end <= len);
        // a header that cannot be read asks for nothing more
        if next.is_empty() || next == parts {
            return Ok(bytes);
        }
        parts = next;
    }
}

/// Whether the tensor `name` of `bytes` bytes is one that is read explicitly, or not at all.
pub(crate) fn is_streamed(name: &str, bytes: u64) -> bool {
    let of_expert = |name: &str| {
        // ffn_gate.7.weight, of files with a tensor for each expert
        let mut parts = name.rsplit('.').skip(1);
        parts.next().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
            && parts.next().is_some_and(|part| part.starts_with("ffn_"))
    };
    let left_alone = ["v.", "mm.", "mtp.", "visual.", "model.visual.", "vision_tower."];
    let is_expert =
        name.contains(".experts.") || name.contains("switch_mlp.") || name.contains("_exps.") || of_expert(name);
    bytes >= SMALL && (is_expert || left_alone.iter().any(|start| name.starts_with(start)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn reads_what_was_asked_for_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let whole: Vec<u8> = (0..=255).collect();
        std::fs::write(&path, &whole).unwrap();
        // the first byte says where to go on
        let wanted = |bytes: &Bytes| match bytes[1] {
            0 => std::iter::once(0..16).collect(),
            _ => vec![0..16, 200..220, 250..999],
        };
        let found = read_wanted(&path, 1, wanted).unwrap();
        assert_eq!((found.len(), &found[..16], &found[200..220]), (256, &whole[..16], &whole[200..220]));
        assert!(found[16..200].iter().all(|byte| *byte == 0));
        assert_eq!(read_wanted(&path, 999, |_| Vec::new()).unwrap(), &whole[..]);
    }

    #[test]
    fn experts_are_not_read() {
        let large = 1 << 20;
        for name in [
            "model.layers.0.mlp.experts.7.gate_proj.weight",
            "model.layers.0.mlp.switch_mlp.up_proj.weight",
            "blk.0.ffn_gate_exps.weight",
            "blk.0.ffn_down.12.weight",
            "model.visual.blocks.0.attn.qkv.weight",
        ] {
            assert!(is_streamed(name, large), "{name}");
            assert!(!is_streamed(name, 100), "{name}");
        }
        for name in
            ["blk.0.ffn_down.weight", "blk.0.ffn_up_shexp.weight", "model.layers.0.mlp.shared_expert.up_proj.weight"]
        {
            assert!(!is_streamed(name, large), "{name}");
        }
    }
}
