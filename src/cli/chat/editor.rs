//! A text in the user's own editor.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use flashflood_backends::new_files;

/// What `text` becomes in `$VISUAL` or `$EDITOR`. It is a file of its owner's alone in `folder` meanwhile.
pub(super) fn edited(text: &str, folder: &Path) -> anyhow::Result<String> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let Some(editor) = set("VISUAL").or_else(|| set("EDITOR")) else {
        bail!("neither VISUAL nor EDITOR names an editor (hint: export EDITOR=nano)");
    };
    let (path, mut file) =
        new_files::new_private_file_in(folder, "question", "md").with_context(|| folder.display().to_string())?;
    let written = file.write_all(text.as_bytes());
    drop(file);
    let changed = written.context("the question").and_then(|()| {
        run(&editor, &path)?;
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    });
    // whatever came of it, nobody needs the file
    let _ = std::fs::remove_file(&path);
    changed.map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Programs with arguments are usual: `code --wait`.
fn run(editor: &str, file: &Path) -> anyhow::Result<()> {
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).arg(file).status().with_context(|| editor.to_owned())?;
    if !status.success() {
        bail!("{editor} ended with {status}: the question stays as it was");
    }
    Ok(())
}
