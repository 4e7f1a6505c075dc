//! Lines that the user gives: from a line editor with a history in a terminal, plain ones elsewhere.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use crate::cli::notes::note;
use anyhow::Context;
use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;

use super::complete::Completion;

/// Begins and ends a text of several lines.
const FENCE: &str = "\"\"\"";

/// What the user gave.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: what was typed is dropped.
    Interrupted,
    End,
}

/// Where lines come from.
pub(super) struct Lines {
    /// `None` where nobody types.
    editor: Option<Editor<Completion, DefaultHistory>>,
    history: PathBuf,
    /// Ctrl-C on an empty line; the second in a row ends.
    interrupted: bool,
}

impl Lines {
    /// `folder` has the history and the conversations that were kept.
    pub(super) fn new(folder: &Path) -> Self {
        let history = folder.join("history.txt");
        let mut editor = std::io::stdin().is_terminal().then(Editor::new).and_then(Result::ok);
        if let Some(editor) = &mut editor {
            editor.set_helper(Some(Completion::new(folder.to_owned())));
            // the first time there is none
            let _ = editor.load_history(&history);
        }
        Lines { editor, history, interrupted: false }
    }

    /// The next text: a line, or the lines between two fences.
    pub(super) fn next(&mut self) -> anyhow::Result<Line> {
        let first = match self.line("> ")? {
            Line::Text(first) => first,
            other => return Ok(other),
        };
        let text = match first.trim_start().strip_prefix(FENCE) {
            Some(rest) => {
                let mut text = rest.to_owned();
                while !text.trim_end().ends_with(FENCE) {
                    match self.line(". ")? {
                        Line::Text(line) => text = text + "\n" + &line,
                        Line::End => {
                            anyhow::bail!("a text that begins with {FENCE} has no end (hint: {FENCE} ends it)")
                        }
                        other => return Ok(other),
                    }
                }
                let text = text.trim_end();
                text[..text.len() - FENCE.len()].trim_matches('\n').to_owned()
            }
            None => first,
        };
        if let Some(editor) = &mut self.editor
            && !text.trim().is_empty()
        {
            // a history that cannot be written is none
            let _ = editor.add_history_entry(&text);
            let _ = editor.append_history(&self.history);
        }
        Ok(Line::Text(text))
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<Line> {
        let Some(editor) = &mut self.editor else {
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line).context("standard input")?;
            return Ok(if read == 0 { Line::End } else { Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()) });
        };
        match editor.readline(prompt) {
            Ok(line) => {
                self.interrupted = false;
                Ok(Line::Text(line))
            }
            Err(ReadlineError::Interrupted) if self.interrupted => Ok(Line::End),
            Err(ReadlineError::Interrupted) => {
                self.interrupted = true;
                note!("(Ctrl-C again, Ctrl-D or /quit ends)");
                Ok(Line::Interrupted)
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("the terminal"),
        }
    }
}
