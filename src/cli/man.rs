//! `flashflood man`: manual pages, from the same definitions as `--help`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Command};
use clap_mangen::Man;

/// Print a manual page, or write all of them to a folder
///
/// For example: flashflood man run | man -l -
#[derive(Args)]
pub(crate) struct ManArgs {
    /// Command to print the page of [default: the program's own page]
    #[arg(value_name = "COMMAND", conflicts_with = "folder")]
    page: Option<String>,
    /// Write all pages into this folder, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: ManArgs) -> anyhow::Result<()> {
    let mut program = super::arguments();
    // gives flags that all commands have to each of them
    program.build();
    if let Some(folder) = &args.folder {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        write(&program, folder)?;
        for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
            write(command, folder)?;
        }
        return Ok(());
    }
    let Some(page) = &args.page else { return print(program) };
    let names: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
    match program.find_subcommand(page) {
        Some(command) => print(command.clone()),
        None => bail!("no page of '{page}' (hint: pages are {})", names.join(", ")),
    }
}

/// `flashflood-run.1`; links between pages have these names.
fn page(command: &Command) -> anyhow::Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok((format!("{name}.1"), text))
}

fn print(command: Command) -> anyhow::Result<()> {
    std::io::stdout().write_all(&page(&command)?.1)?;
    Ok(())
}

fn write(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let (name, text) = page(command)?;
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}
