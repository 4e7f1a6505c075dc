//! Rows of `benches/results/*.csv`: what every bench prints to stdout.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What all rows of a run begin with.
pub(crate) struct Rows {
    date: String,
    commit: String,
    command: String,
}

/// One measurement.
pub(crate) struct Row<'a> {
    /// Name of the model.
    pub(crate) model: &'a str,
    /// Weight format of the experts.
    pub(crate) format: &'a str,
    /// Tokens before the measured one, or the kind of the documents.
    pub(crate) context: &'a str,
    /// `cold` or `warm`, or nothing where that makes no difference.
    pub(crate) cache: &'a str,
    /// The figure.
    pub(crate) value: f64,
    /// What it counts.
    pub(crate) unit: &'a str,
}

impl Rows {
    /// For the bench `name`, as it was called. Folders in its arguments are named by their last part: the rest is of
    /// use on one machine only.
    pub(crate) fn new(name: &str) -> Rows {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        let command = arguments.fold(format!("cargo bench --bench {name} --"), |command, argument| {
            command + " " + Path::new(&argument).file_name().and_then(|last| last.to_str()).unwrap_or(&argument)
        });
        let git = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
        let commit = git.ok().filter(|git| git.status.success());
        let commit = commit.map_or("unknown".to_owned(), |git| String::from_utf8_lossy(&git.stdout).trim().to_owned());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Rows { date: date(seconds / 86_400), commit, command }
    }

    /// Prints a row.
    pub(crate) fn print(&self, row: &Row<'_>) {
        let Rows { date, commit, command } = self;
        let Row { model, format, context, cache, value, unit } = row;
        println!("{date},{commit},{command},{model},{format},{context},{cache},{value:.4},{unit}");
    }
}

/// `2026-01-31`, from days since 1970 (UTC).
fn date(days: u64) -> String {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}
