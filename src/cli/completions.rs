//! `flashflood completions`: what a shell needs to complete commands and flags.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

/// Print a completion script for a shell
///
/// For example: flashflood completions bash > ~/.local/share/bash-completion/completions/flashflood
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    // generated whole before it is written: whoever reads it may stop early
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::arguments(), "flashflood", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
