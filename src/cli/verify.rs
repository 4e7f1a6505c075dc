//! `flashflood verify`: whether a model's files are the ones that were made or published.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use flashflood::bytes_for_people;
use flashflood::hub::{Verified, verify_downloaded};
use flashflood::model::verify_numbers;
use flashflood::weights::pack;

use super::model::{folder_of, open_source};
use super::pack::{bar, show};
use crate::cli::notes::note;

/// Read a model's files again and check every byte: a pack against its checksums, downloaded files against the hashes that
/// the hub and ollama know them by
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Model: a pack, a snapshot folder, a GGUF file, the name of a repository in the Hugging Face cache, or
    /// ollama:NAME:TAG
    model: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The first file that is not as it was, and a model whose files nobody knows the hashes of.
pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let path = folder_of(&args.model)?;
    if pack::is_pack(&path) {
        return verify_pack(&path);
    }
    // what is no model is better said first
    let source = open_source(&args.model, &[])?;
    let bar = bar("checking")?;
    let report = verify_downloaded(&path, &|told| match told {
        Verified::Total(bytes) => bar.set_length(bytes),
        Verified::Advanced(bytes) => bar.inc(bytes),
    })?;
    let bytes = bar.length().unwrap_or(0);
    bar.finish_and_clear();
    // NaN, infinity and zeros that no model has, whoever published them
    verify_numbers(&source)?;
    for file in &report.unknown {
        note!("warning: {}: nobody knows its hash: not checked", file.display());
    }
    if report.intact == 0 {
        bail!(
            "{}: none of its files has a hash to check it against (hint: flashflood pull keeps them; a pack has checksums of \
             its own)",
            path.display()
        );
    }
    let (files, size) = (report.intact, bytes_for_people(bytes));
    writeln!(std::io::stdout(), "{}: {files} files, {size}, are as they were published", path.display())?;
    Ok(())
}

/// Checks a pack.
pub(super) fn verify_pack(folder: &Path) -> anyhow::Result<()> {
    let bar = bar("checking")?;
    let report = pack::verify(folder, &|progress| show(&bar, progress))?;
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{}: {} expert records and the resident weights are intact",
        folder.display(),
        report.records
    )?;
    Ok(())
}
