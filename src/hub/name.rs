//! How a model of the hub is called: `ORG/NAME`, `ORG/NAME@REVISION`, `ORG/NAME:QUANTISATION`.

use super::is_repository_name;

/// A model of the hub, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// `org/name`.
    pub repository: String,
    /// A branch, a tag or a commit, where one is named.
    pub revision: Option<String>,
    /// Which of the GGUF files of the repository, as in `Q4_K_M`.
    pub quantisation: Option<String>,
}

impl ModelName {
    /// The parts of `text`; `None` where it cannot be the name of a model.
    pub fn parse(text: &str) -> Option<ModelName> {
        let (rest, quantisation) = text.split_once(':').map_or((text, None), |(name, quant)| (name, Some(quant)));
        let (repository, revision) = rest.split_once('@').map_or((rest, None), |(name, at)| (name, Some(at)));
        let is_empty = |part: Option<&str>| part.is_some_and(str::is_empty);
        if !is_repository_name(repository) || is_empty(revision) || is_empty(quantisation) {
            return None;
        }
        let owned = |part: Option<&str>| part.map(str::to_owned);
        Some(ModelName {
            repository: repository.to_owned(),
            revision: owned(revision),
            quantisation: owned(quantisation),
        })
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_names() {
        let parts = |text: &str| {
            let name = ModelName::parse(text)?;
            Some((name.repository, name.revision, name.quantisation))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("org/name"), Some(("org/name".to_owned(), None, None)));
        assert_eq!(parts("org/name@v1"), Some(("org/name".to_owned(), some("v1"), None)));
        assert_eq!(parts("org/name:Q4_K_M"), Some(("org/name".to_owned(), None, some("Q4_K_M"))));
        assert_eq!(parts("org/name@v1:Q8_0"), Some(("org/name".to_owned(), some("v1"), some("Q8_0"))));
        for wrong in ["name", "org/name@", "org/name:", "../name:Q8_0", "C:/models", "org/name/more"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}
