//! The files of a model that the text layer reads, as text.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::python_json::without_python_numbers;
use crate::file_error::FileError;
use crate::weights::pack::ADDITIONAL_TEMPLATES;

/// The contents of the files that come with the weights; `None` where a model has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// `chat_template.jinja`, or the default `chat_template` of `tokenizer_config.json` or `chat_template.json`.
    pub chat_template: Option<String>,
    /// Chat templates besides the default one, such as `tool_use`: by name, from `tokenizer_config.json` and the folder
    /// `additional_chat_templates`.
    pub named_templates: Vec<(String, String)>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<String>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<String>,
    /// `generation_config.json`.
    pub generation_config: Option<String>,
    /// Why there is no tokenizer although the model has one: it is of a kind that is not read.
    pub refused_tokenizer: Option<String>,
    /// All of it is part of the file of the weights (GGUF), and no files of their own.
    pub inside: bool,
}

impl TextFiles {
    /// Reads what there is in the folder `dir`.
    ///
    /// # Errors
    /// A file that is there but cannot be read or is not UTF-8, and a `tokenizer_config.json` or `chat_template.json`
    /// that is not JSON or whose `chat_template` is neither a string nor a list of named templates.
    pub(crate) fn read(dir: &Path) -> Result<TextFiles, FileError> {
        let config_path = dir.join("tokenizer_config.json");
        let tokenizer_config = read_json(&config_path)?;
        let mut templates = Templates::default();
        // what comes later is preferred
        let processor_path = dir.join("chat_template.json");
        for (path, text) in [(&processor_path, &read_json(&processor_path)?), (&config_path, &tokenizer_config)] {
            if let Some(text) = text {
                templates.take(templates_in(text).map_err(FileError::syntax(
                    path,
                    "expected an object whose `chat_template`, if any, is a string or a list of {name, template}",
                ))?);
            }
        }
        if let Some(template) = read_text(&dir.join("chat_template.jinja"))? {
            templates.put(DEFAULT, template);
        }
        for path in additional_templates(dir)? {
            if let (Some(name), Some(template)) = (path.file_stem().and_then(|name| name.to_str()), read_text(&path)?) {
                templates.put(name, template);
            }
        }
        let default = templates.0.iter().position(|(name, _)| name == DEFAULT);
        Ok(TextFiles {
            tokenizer: read_text(&dir.join("tokenizer.json"))?,
            chat_template: default.map(|index| templates.0.remove(index).1),
            named_templates: templates.0,
            tokenizer_config,
            special_tokens_map: read_json(&dir.join("special_tokens_map.json"))?,
            generation_config: read_json(&dir.join("generation_config.json"))?,
            refused_tokenizer: None,
            inside: false,
        })
    }

    /// Where the file `name` lies of a model at `root`, for messages.
    pub(crate) fn path(&self, root: &Path, name: &str) -> PathBuf {
        if self.inside { root.to_owned() } else { root.join(name) }
    }

    /// The files that these texts make, for a folder that has none of them: relative path and contents.
    pub(super) fn as_files(&self) -> Vec<(PathBuf, &str)> {
        let texts = [
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.tokenizer_config),
            ("special_tokens_map.json", &self.special_tokens_map),
            ("chat_template.jinja", &self.chat_template),
            ("generation_config.json", &self.generation_config),
        ];
        let files = texts.into_iter().filter_map(|(name, text)| Some((PathBuf::from(name), text.as_deref()?)));
        let named = self
            .named_templates
            .iter()
            .map(|(name, text)| (Path::new(ADDITIONAL_TEMPLATES).join(format!("{name}.jinja")), text.as_str()));
        files.chain(named).collect()
    }
}

impl TextFiles {
    /// The same; without a `generation_config.json` a text ends where `eos_token_id` of the `config.json` says, as with
    /// transformers.
    pub(crate) fn with_ends_of(mut self, config: &str) -> Self {
        if self.generation_config.is_none() {
            let config: Value = serde_json::from_str(config).unwrap_or_default();
            let ends = [&config, &config["text_config"]].into_iter().map(|keys| &keys["eos_token_id"]);
            let ends = ends
                .into_iter()
                .find(|ends| ends.is_u64() || ends.as_array().is_some_and(|ends| ends.iter().all(Value::is_u64)));
            self.generation_config = ends.map(|ends| json!({ "eos_token_id": ends }).to_string());
        }
        self
    }
}

/// The name of the template for all that has none of its own.
const DEFAULT: &str = "default";

/// Templates by name.
#[derive(Default)]
struct Templates(Vec<(String, String)>);

impl Templates {
    fn put(&mut self, name: &str, template: String) {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), template));
    }

    fn take(&mut self, others: Vec<Named>) {
        for Named { name, template } in others {
            self.put(&name, template);
        }
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// The chat templates in a `tokenizer_config.json` or `chat_template.json`.
fn templates_in(text: &str) -> Result<Vec<Named>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        chat_template: Option<Template>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Template {
        One(String),
        Named(Vec<Named>),
    }
    Ok(match serde_json::from_str::<Config>(text)?.chat_template {
        Some(Template::One(template)) => vec![Named { name: DEFAULT.into(), template }],
        Some(Template::Named(list)) => list,
        None => Vec::new(),
    })
}

/// The files of the folder of named templates, by name.
fn additional_templates(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let folder = dir.join(ADDITIONAL_TEMPLATES);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(FileError::io("read", &folder)(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(FileError::io("read", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "jinja") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The text of the `config.json` in a folder; `None` when there is none.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub fn read_config(folder: &Path) -> Result<Option<String>, FileError> {
    read_json(&folder.join("config.json"))
}

/// A JSON file, as Python writes some; `None` when there is none.
pub(super) fn read_json(path: &Path) -> Result<Option<String>, FileError> {
    Ok(read_text(path)?.map(without_python_numbers))
}

/// A text file; `None` when there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) if FileError::is_git_lfs(text.as_bytes()) => Err(FileError::git_lfs(path)),
        // Windows' editors put a byte order mark in front
        Ok(text) => Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::io("read", path)(source)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn a_text_ends_where_config_says_without_a_generation_config() {
        let ends = |config: &str| TextFiles::default().with_ends_of(config).generation_config;
        assert_eq!(ends(r#"{"eos_token_id": 7}"#).unwrap(), r#"{"eos_token_id":7}"#);
        assert_eq!(ends(r#"{"text_config": {"eos_token_id": [7, 2]}}"#).unwrap(), r#"{"eos_token_id":[7,2]}"#);
        assert_eq!(ends(r#"{"eos_token_id": null, "text_config": {}}"#), None);
        assert_eq!(ends(r#"{"eos_token_id": [-1]}"#), None);
        let own = TextFiles { generation_config: Some("{}".to_owned()), ..TextFiles::default() };
        assert_eq!(own.with_ends_of(r#"{"eos_token_id": 7}"#).generation_config.unwrap(), "{}");
    }

    #[test]
    fn pointers_of_git_lfs_are_named_and_marks_of_editors_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n").unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        assert!(error.contains("found a git-lfs pointer") && error.contains("git lfs pull"), "{error}");
        std::fs::write(&path, "\u{feff}{}").unwrap();
        assert_eq!(read_text(&path).unwrap().unwrap(), "{}");
    }
}
