//! `flashflood rm`: a model of the Hugging Face cache, or a pack, off the disk.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::FalseyValueParser;
use flashflood::bytes_for_people;
use flashflood::hub::{Cache, HubError, ModelName};
use flashflood::weights::pack;

use super::list::packs_folder;
use crate::cli::notes::note;

/// Remove a model from the Hugging Face cache, or a pack
///
/// Asks before it removes. Models of LM Studio and ollama are theirs to remove.
#[derive(Args)]
pub(crate) struct RmArgs {
    /// A repository in the Hugging Face cache (ORG/NAME), or the folder of a pack
    model: PathBuf,
    /// Do not ask
    #[arg(short, long, env = "FLASHFLOOD_YES", value_parser = FalseyValueParser::new())]
    yes: bool,
}

/// Runs the command.
pub(crate) fn run(args: RmArgs) -> anyhow::Result<()> {
    let found = Found::of(&args.model)?;
    let (what, bytes) = (found.name, bytes_for_people(found.bytes));
    if !args.yes {
        if !io::stdin().is_terminal() {
            bail!("{what} takes {bytes}, and nobody is there to be asked (hint: --yes removes it)");
        }
        eprint!("remove {what}, {bytes} in {}? [y/N] ", found.folder.display());
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            note!("kept");
            return Ok(());
        }
    }
    std::fs::remove_dir_all(&found.folder).with_context(|| found.folder.display().to_string())?;
    writeln!(io::stdout(), "removed {what}: {bytes}")?;
    Ok(())
}

/// What is to be removed.
struct Found {
    name: String,
    folder: PathBuf,
    bytes: u64,
}

impl Found {
    fn of(model: &Path) -> anyhow::Result<Found> {
        let text = model.to_string_lossy();
        if let Some(name) = text.strip_prefix("ollama:") {
            bail!("{text}: models of ollama are its own to remove (hint: ollama rm {name})");
        }
        if model.exists() {
            return Found::pack(model);
        }
        let Some(name) = ModelName::parse(&text) else {
            bail!("{text}: no such folder, and no name of a repository such as ORG/NAME (hint: flashflood list)");
        };
        if name.quantisation.is_some() || name.revision.is_some() {
            bail!("{text}: expected a whole repository (hint: flashflood rm {})", name.repository);
        }
        let cache = Cache::of_user().ok_or(HubError::NoCache)?;
        let found = cache.repositories()?.into_iter().find(|known| known.name == name.repository);
        let Some(found) = found else {
            let known = cache.root().display();
            bail!("{text}: there is no such model in {known} (hint: flashflood list says what there is)");
        };
        Ok(Found { name: found.name, folder: found.folder, bytes: found.bytes })
    }

    /// A folder that has a pack and nothing else: whoever keeps other files there keeps them.
    fn pack(folder: &Path) -> anyhow::Result<Found> {
        let shown = folder.display();
        let hint = || match packs_folder() {
            Some(packs) => format!("packs are looked for in {}; remove other folders yourself", packs.display()),
            None => "remove other folders yourself".to_owned(),
        };
        let is_link = folder.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        let is_begun = || folder.join("progress.json").exists() && folder.join("experts").is_dir();
        if is_link || !folder.is_dir() || !(pack::is_pack(folder) || is_begun()) {
            bail!("{shown}: expected the folder of a pack, found {} (hint: {})", kind_of(folder, is_link), hint());
        }
        let (mut folders, mut bytes) = (vec![folder.to_owned()], 0);
        while let Some(inside) = folders.pop() {
            for entry in std::fs::read_dir(&inside).with_context(|| inside.display().to_string())? {
                let path = entry?.path();
                let meta = path.symlink_metadata().with_context(|| path.display().to_string())?;
                let relative = path.strip_prefix(folder).unwrap_or(&path);
                if meta.is_dir() && inside == folder {
                    folders.push(path);
                } else if pack::may_have(relative) {
                    bytes += meta.len();
                } else {
                    bail!("{}: a file that is not the pack's (hint: {})", path.display(), hint());
                }
            }
        }
        Ok(Found { name: shown.to_string(), folder: folder.to_owned(), bytes })
    }
}

fn kind_of(path: &Path, is_link: bool) -> &'static str {
    match (is_link, path.is_dir()) {
        (true, _) => "a link",
        (false, true) => "another folder",
        (false, false) => "a file",
    }
}
