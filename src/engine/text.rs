//! The text side of a model's files.

use std::path::Path;

use super::EngineError;
use crate::model::{ModelSource, TextFiles};
use crate::text::{ChatTemplate, TextError, Tokenizer};

impl ModelSource {
    /// The model's tokenizer.
    ///
    /// # Errors
    /// A model that has none, or one that is not read.
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        tokenizer(&self.root, &self.text_files)
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// A model that has none, or one with mistakes.
    pub fn chat_template(&self) -> Result<ChatTemplate, EngineError> {
        chat_template(&self.root, &self.text_files)
    }
}

pub(super) fn tokenizer(root: &Path, files: &TextFiles) -> Result<Tokenizer, EngineError> {
    let path = files.path(root, "tokenizer.json");
    if let Some(reason) = &files.refused_tokenizer {
        return Err(TextError::Tokenizer { path, reason: reason.clone() }.into());
    }
    let json = need(root, &files.tokenizer, "tokenizer.json", "text, only token ids")?;
    let config_path = files.path(root, "tokenizer_config.json");
    let config = files.tokenizer_config.as_deref().map(|text| (config_path, text));
    let config = config.as_ref().map(|(path, text)| (path.as_path(), *text));
    Ok(Tokenizer::from_json_with_config(&path, json, config)?)
}

pub(super) fn chat_template(root: &Path, files: &TextFiles) -> Result<ChatTemplate, EngineError> {
    let source = need(root, &files.chat_template, "chat_template.jinja", "chat (--raw continues a text without it)")?;
    let mut template = ChatTemplate::new(&files.path(root, "chat_template.jinja"), source)?;
    template.add_special_tokens(files.tokenizer_config.as_deref(), files.special_tokens_map.as_deref());
    if let Some((name, source)) = files.named_templates.iter().find(|(name, _)| name == "tool_use") {
        template.set_tool_use(&files.path(root, name), source)?;
    }
    Ok(template)
}

fn need<'a>(
    root: &Path,
    text: &'a Option<String>,
    file: &'static str,
    need: &'static str,
) -> Result<&'a str, EngineError> {
    text.as_deref().ok_or_else(|| EngineError::NoTextFile { root: root.to_owned(), file, need })
}
