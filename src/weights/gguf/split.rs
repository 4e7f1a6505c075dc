//! Models that are split over several files, `NAME-00001-of-00003.gguf` and so on. The first has the metadata; each has
//! tensors of its own.

use std::path::{Path, PathBuf};

use super::header::{Header, IS_COMPLETE};
use super::value::Metadata;
use crate::file_error::FileError;
use crate::weights::part_of;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// A name of a part: what is in front of its number, its number from 1, and how many there are.
pub(crate) fn of_name(path: &Path) -> Option<(&str, usize, usize)> {
    part_of(path.file_name()?.to_str()?, ".gguf")
}

/// The files of the model of which `path`, with these keys, is one; at most one where the model is not split.
///
/// # Errors
/// A name that is not that of a part, and parts that are not there.
pub(super) fn parts(path: &Path, metadata: &Metadata) -> Result<Vec<PathBuf>, FileError> {
    let count = metadata.size(COUNT)?.unwrap_or(0);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let Some((start, _, _)) = of_name(path).filter(|(_, _, of)| *of == count) else {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let expected =
            format!("a name that ends in -00001-of-{count:05}.gguf, as the model is split into {count} files");
        return Err(FileError::new(path, "", expected, name)
            .hint("give the parts back the names that they were published with"));
    };
    let name = |number: usize| path.with_file_name(format!("{start}-{number:05}-of-{count:05}.gguf"));
    let parts: Vec<PathBuf> = (1..=count).map(name).collect();
    let mut absent = parts.iter().filter(|part| !part.exists());
    if let Some(first) = absent.next() {
        let missing = 1 + absent.count();
        let expected = format!("beside {} ({missing} of {count} files are missing)", path.display());
        return Err(FileError::missing(first, "", expected).hint(IS_COMPLETE));
    }
    Ok(parts)
}

/// Checks that the headers are of parts of one model, in order.
pub(super) fn check<'a>(headers: impl ExactSizeIterator<Item = &'a Header> + Clone) -> Result<(), FileError> {
    let count = headers.len();
    for (n, header) in headers.clone().enumerate() {
        for (key, expected) in [(COUNT, count), (NUMBER, n)] {
            let found = header.metadata.size(key)?;
            if found != Some(expected) {
                return Err(header.metadata.found(key, &format!("{expected}, as its name says"), shown(found)));
            }
        }
    }
    let found: usize = headers.clone().map(|header| header.tensors.len()).sum();
    let Some(Header { metadata, .. }) = headers.clone().next() else { return Ok(()) };
    match metadata.size(TENSORS)? {
        Some(expected) if expected == found => Ok(()),
        expected => {
            Err(metadata.found(TENSORS, &format!("{found}, the tensors of all {count} files"), shown(expected)))
        }
    }
}

fn shown(size: Option<usize>) -> String {
    size.map_or_else(|| "nothing".to_owned(), |size| size.to_string())
}
