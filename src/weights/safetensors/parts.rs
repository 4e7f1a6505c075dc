//! The files of a snapshot that no index names: one whole file, or `model-00001-of-00002.safetensors` and its like.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::header::IS_COMPLETE;
use crate::file_error::FileError;
use crate::weights::part_of;

/// `model.safetensors`, or all parts of a model that is cut; `None` where there are neither.
///
/// # Errors
/// A part that is missing, and parts of several models.
pub(super) fn unnamed(dir: &Path) -> Result<Option<Vec<PathBuf>>, FileError> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(Some(vec![single]));
    }
    let entries = std::fs::read_dir(dir).map_err(FileError::io("read", dir))?;
    // (what parts are called, how many there are) -> the numbers that are there
    let mut models: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    for entry in entries.flatten() {
        if let Some((name, number, count)) = entry.file_name().to_str().and_then(part) {
            models.entry((name.to_owned(), count)).or_default().insert(number);
        }
    }
    let mut models = models.into_iter();
    let Some(((name, count), there)) = models.next() else { return Ok(None) };
    if let Some(((other, _), _)) = models.next() {
        let expected = "the parts of one model, or model.safetensors.index.json";
        return Err(FileError::new(dir, "", expected, format!("parts of `{name}` and of `{other}`")));
    }
    let path = |number: usize| dir.join(format!("{name}-{number:05}-of-{count:05}.safetensors"));
    match (1..=count).find(|number| !there.contains(number)) {
        Some(number) => {
            let expected = format!("beside the other parts ({} of {count} are there)", there.len());
            Err(FileError::missing(&path(number), "", expected).hint(IS_COMPLETE))
        }
        None => Ok(Some((1..=count).map(path).collect())),
    }
}

/// What the parts of a model are called, which one this is, and how many there are.
fn part(name: &str) -> Option<(&str, usize, usize)> {
    part_of(name, ".safetensors").filter(|(_, number, count)| (1..=*count).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        assert_eq!(part("model-00002-of-00003.safetensors"), Some(("model", 2, 3)));
        assert_eq!(part("a-of-b-00001-of-00001.safetensors"), Some(("a-of-b", 1, 1)));
        for other in [
            "model.safetensors",
            "model-2-of-3.safetensors",
            "model-00004-of-00003.safetensors",
            "x-00001-of-00002.gguf",
        ] {
            assert_eq!(part(other), None, "{other}");
        }
    }
}
