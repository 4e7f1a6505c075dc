//! Filling a gap in a text ("fill in the middle"): models that were trained for it have tokens that say what stands before
//! the gap and what behind it, and which other files there are.

use super::Tokenizer;

/// The spellings: before the gap, behind it, and where the answer begins.
const GAPS: [[&str; 3]; 5] = [
    // Qwen's coders
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder and those after it
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // Granite
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    // DeepSeek's coders
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // GLM
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
];

/// Before the name of a repository, and before the name of each of its files.
const REPOSITORIES: [[&str; 2]; 3] =
    [["<|repo_name|>", "<|file_sep|>"], ["<repo_name>", "<file_sep>"], ["<reponame>", "<filename>"]];

/// Others with which models end what they fill in.
const ENDS: [&str; 2] = ["<|fim_pad|>", "<fim_pad>"];

/// What a repository without a name, and the file with the gap, are called; llama.cpp calls them so.
const REPOSITORY: &str = "myproject\n";
const FILE: &str = "filename\n";

/// What stands between files where there is no token for it, as in llama.cpp.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

/// The tokens of a tokenizer that has them.
#[derive(Clone, Debug)]
pub(crate) struct Infill {
    gap: [u32; 3],
    repository: Option<[u32; 2]>,
    ends: Vec<u32>,
}

/// A piece of a prompt.
#[derive(Debug, PartialEq)]
pub(crate) enum InfillPiece<'a> {
    Token(u32),
    /// In which the spellings of special tokens are text.
    Text(&'a str),
}

impl Infill {
    /// `None` where the model was not trained for it.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let id = |token: &str| tokenizer.token_to_id(token);
        let gap = GAPS.iter().find_map(|[a, b, c]| Some([id(a)?, id(b)?, id(c)?]))?;
        let repository = REPOSITORIES.iter().find_map(|[a, b]| Some([id(a)?, id(b)?]));
        let others = ENDS.iter().filter_map(|end| id(end));
        let ends = gap.iter().chain(repository.iter().flatten()).copied().chain(others).collect();
        Some(Infill { gap, repository, ends })
    }

    /// Tokens that end what is filled in, beside those that end every text.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The prompt; `files` are others of the same repository, each its name and its text.
    pub(crate) fn prompt<'a>(
        &self,
        before: &'a str,
        after: &'a str,
        files: &'a [(String, String)],
    ) -> Vec<InfillPiece<'a>> {
        use InfillPiece::{Text, Token};
        let mut pieces = Vec::new();
        match self.repository.filter(|_| !files.is_empty()) {
            Some([repository, separator]) => {
                pieces.extend([Token(repository), Text(REPOSITORY)]);
                for (name, text) in files {
                    pieces.extend([Token(separator), Text(name), Text("\n"), Text(text)]);
                }
                pieces.extend([Token(separator), Text(FILE)]);
            }
            None => pieces.extend(files.iter().flat_map(|(_, text)| [Text(SNIPPET), Text(text)])),
        }
        let [prefix, suffix, middle] = self.gap.map(Token);
        pieces.extend([prefix, Text(before), suffix, Text(after), middle]);
        pieces
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::path::Path;

    use super::*;
    use crate::model::ModelSource;

    /// The small model's tokenizer with other names for tokens of its own.
    fn tokenizer(names: &[(&str, &str)]) -> Tokenizer {
        let file = ModelSource::embedded().unwrap().text_files.tokenizer.unwrap();
        let named = names.iter().fold(file, |file, (old, new)| file.replace(old, new));
        Tokenizer::from_json(Path::new("tokenizer"), &named).unwrap()
    }

    #[test]
    fn the_order_is_the_models_own() {
        assert!(Infill::of(&tokenizer(&[])).is_none());
        let names = [
            ("<tool_response>", "<|fim_prefix|>"),
            ("</tool_response>", "<|fim_suffix|>"),
            ("<think>", "<|fim_middle|>"),
        ];
        let found = Infill::of(&tokenizer(&names)).unwrap();
        use InfillPiece::{Text, Token};
        let files = [("a.rs".to_owned(), "fn a".to_owned())];
        let gap = [Token(5), Text("x"), Token(6), Text("z"), Token(7)];
        assert_eq!(found.prompt("x", "z", &[]), gap);
        assert_eq!(found.prompt("x", "z", &files)[..2], [Text(SNIPPET), Text("fn a")]);
        assert_eq!(found.ends(), [5, 6, 7]);
        let more = [("<tool_call>", "<|repo_name|>"), ("</tool_call>", "<|file_sep|>"), ("</think>", "<|fim_pad|>")];
        let found = Infill::of(&tokenizer(&[names.as_slice(), &more].concat())).unwrap();
        let pieces = found.prompt("x", "z", &files);
        let begin =
            [Token(3), Text(REPOSITORY), Token(4), Text("a.rs"), Text("\n"), Text("fn a"), Token(4), Text(FILE)];
        assert_eq!((&pieces[..8], &pieces[8..]), (&begin[..], &found.prompt("x", "z", &[])[..]));
        assert_eq!(found.ends(), [5, 6, 7, 3, 4, 8]);
    }
}
