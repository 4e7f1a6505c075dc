//! Which models a repository of GGUF files holds, from the names of its files alone: on the hub and in the cache.

use std::path::Path;

use crate::weights::gguf::of_name;

/// A model among GGUF files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantisation {
    /// What follows the name of the repository and a colon to mean it: `Q4_K_M`, `UD-Q4_K_XL`.
    pub(crate) label: String,
    /// Its files, with `/`: of a model that is split all parts, in order.
    pub(crate) files: Vec<String>,
    /// The file's name, without ending and number of a part.
    stem: String,
}

/// The models among `names`, by label: no vision encoders, and no tables that quantisations are made with.
pub(crate) fn quantisations<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Quantisation> {
    let mut files: Vec<&str> = names.into_iter().filter(|name| is_model(name)).collect();
    files.sort_unstable();
    let mut found: Vec<Quantisation> = Vec::new();
    for name in files {
        let stem = stem(name);
        match found.iter_mut().find(|model| model.stem == stem && folder(&model.files[0]) == folder(name)) {
            // another part; a whole file of the same name is another model, and cannot be in the same folder
            Some(model) => model.files.push(name.to_owned()),
            None => {
                let in_folder = || folder(name).rsplit('/').next().and_then(type_in);
                let label = type_in(stem).or_else(in_folder).unwrap_or(stem).to_owned();
                found.push(Quantisation { label, files: vec![name.to_owned()], stem: stem.to_owned() });
            }
        }
    }
    // two models of one type are told apart by their whole names
    let is_taken = |model: &Quantisation| of_label(&found, &model.label) != Some(model);
    let whole: Vec<bool> = found.iter().map(is_taken).collect();
    for (model, _) in found.iter_mut().zip(whole).filter(|(_, whole)| *whole) {
        model.label.clone_from(&model.stem);
    }
    found.sort_by(|a, b| a.label.cmp(&b.label));
    found
}

/// The model that `wanted` means, in capitals or not: its file's name, or its folder's, ends with it. Of several the one
/// with the shortest name, so that `Q4_K_M` is not `UD-Q4_K_M` where there are both.
pub(crate) fn of_label<'a>(models: &'a [Quantisation], wanted: &str) -> Option<&'a Quantisation> {
    let wanted = wanted.to_ascii_lowercase();
    let ends = |text: &str| {
        let text = text.to_ascii_lowercase();
        let rest = text.strip_suffix(&wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
    };
    let is_meant = |model: &&Quantisation| {
        let in_folder = folder(&model.files[0]).rsplit('/').next().is_some_and(ends);
        ends(&model.stem) || in_folder && type_in(&model.stem).is_none()
    };
    if wanted.is_empty() {
        return None;
    }
    models.iter().filter(is_meant).min_by_key(|model| (model.stem.len(), model.files[0].len()))
}

/// The labels, for messages.
pub(crate) fn labels(models: &[Quantisation]) -> String {
    models.iter().map(|model| model.label.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether the file `name`, with `/`, is one of a model.
fn is_model(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    file.ends_with(".gguf") && !file.contains("mmproj") && !file.starts_with("imatrix")
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    match of_name(Path::new(file)) {
        Some((stem, ..)) => stem,
        // every name here ends with it
        None => &file[..file.len() - ".gguf".len()],
    }
}

/// The end of a name that says how its weights are stored, from the type on: `UD-Q4_K_XL`, `BF16`, `MXFP4_MOE`.
fn type_in(name: &str) -> Option<&str> {
    const STARTS: [&str; 9] = ["bf16", "f16", "f32", "fp16", "fp32", "fp8", "mxfp4", "nvfp4", "mxfp8"];
    let is_type = |piece: &str| {
        let piece = piece.to_ascii_lowercase();
        let bits = ["iq", "tq", "q"].iter().find_map(|start| piece.strip_prefix(start));
        STARTS.iter().any(|start| piece.starts_with(start))
            || bits.is_some_and(|bits| bits.starts_with(|first: char| first.is_ascii_digit()))
    };
    let starts = name.match_indices(['-', '.']).map(|(at, _)| at + 1).chain([0]);
    let piece = |at: usize| name[at..].split(['-', '.']).next().unwrap_or_default();
    let at = starts.filter(|at| is_type(piece(*at))).max()?;
    let before = &name[..at];
    let dynamic = before.len().checked_sub(3).filter(|_| before.to_ascii_lowercase().ends_with("ud-"));
    Some(&name[dynamic.unwrap_or(at)..])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const NAMES: [&str; 12] = [
        "README.md",
        "mmproj-F16.gguf",
        "imatrix.gguf",
        "M-35B-A3B-Q4_K_M.gguf",
        "M-35B-A3B-UD-Q4_K_M.gguf",
        "M-35B-A3B.Q8_0.gguf",
        "M-35B-A3B-MXFP4_MOE.gguf",
        "UD-Q4_K_XL/model-00002-of-00002.gguf",
        "UD-Q4_K_XL/model-00001-of-00002.gguf",
        "BF16/M-35B-A3B-BF16-00001-of-00001.gguf",
        "M-draft.gguf",
        "Q8_0/other-Q8_0.GGUF",
    ];

    #[test]
    fn models_by_the_types_in_their_names() {
        let found = quantisations(NAMES);
        let expected = "BF16, M-35B-A3B.Q8_0, M-draft, MXFP4_MOE, Q4_K_M, Q8_0, UD-Q4_K_M, UD-Q4_K_XL";
        assert_eq!(labels(&found), expected);
        let split = of_label(&found, "UD-Q4_K_XL").unwrap();
        assert_eq!(split.files, ["UD-Q4_K_XL/model-00001-of-00002.gguf", "UD-Q4_K_XL/model-00002-of-00002.gguf"]);
        // each label means the model that has it
        for model in &found {
            assert_eq!(of_label(&found, &model.label.to_lowercase()), Some(model), "{}", model.label);
        }
        assert_eq!(of_label(&found, "q4_k_xl"), Some(split), "the end of a folder's name");
        for none in ["", "Q5_K_M", "K_M_", "4_K_M", "gguf"] {
            assert_eq!(of_label(&found, none), None, "{none:?}");
        }
    }
}
