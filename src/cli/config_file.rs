//! The configuration file and the environment, for every flag of every command by one rule.
//!
//! A flag `--some-flag` is `FLASHFLOOD_SOME_FLAG` in the environment and `some-flag` in the file: at the top for all
//! commands that have it, under `[run]` for `flashflood run` alone. What the file says becomes the flag's default, so the
//! order of precedence is the argument parser's own: flag, environment, file, and then the built-in value (or the
//! model's, for flags without one).

use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{ArgPredicate, FalseyValueParser};
use clap::{Arg, ArgAction, Command, Id};
use etcetera::BaseStrategy;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The environment variable that names the file; empty for none.
pub(super) const VARIABLE: &str = "FLASHFLOOD_CONFIG";

/// What is wrong with the file, and where.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{}: {message}{}", .path.display(), Line(*.line), Hint(.hint))]
pub(super) struct ConfigFileError {
    path: PathBuf,
    /// From 1.
    line: Option<usize>,
    message: String,
    hint: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

struct Hint<'a>(&'a str);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.0) }
    }
}

/// Settings of the file, checked against the flags of every command.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    /// Where it is, when there is one.
    pub(super) path: Option<PathBuf>,
    settings: Vec<Setting>,
}

#[derive(Debug)]
struct Setting {
    /// `None`: of all commands.
    command: Option<String>,
    flag: String,
    /// Several of a flag that may be repeated.
    values: Vec<String>,
}

impl Setting {
    fn apply(&self, command: Command) -> Command {
        let Some(arg) = find([&command].into_iter(), &self.flag) else { return command };
        let (id, is_switch) = (arg.get_id().clone(), is_switch(arg));
        let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
        let rivals = command.get_arguments().filter(|rival| excludes(rival, arg) || excludes(arg, rival));
        let rivals: Vec<(Id, ArgPredicate)> = rivals
            .filter_map(|rival| match is_switch_set(rival) {
                Some(set) => Some((rival.get_id().clone(), set)),
                // one that always has a value says nothing
                None if !rival.get_default_values().is_empty() => None,
                None => Some((rival.get_id().clone(), ArgPredicate::IsPresent)),
            })
            .collect();
        command.mut_arg(id, |arg| {
            // a default is enough where a flag is required
            let arg = arg.default_values(self.values.clone()).required(false);
            // what is given in place of this flag comes before what the file says
            let instead = is_switch.then_some("false");
            rivals.into_iter().fold(arg, |arg, (rival, set)| arg.default_value_if(rival, set, instead))
        })
    }
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// When a switch is on; `None` of what is no switch.
fn is_switch_set(arg: &Arg) -> Option<ArgPredicate> {
    is_switch(arg).then(|| ArgPredicate::Equals("true".into()))
}

/// Where the file is looked for: `FLASHFLOOD_CONFIG`, or `flashflood/config.toml` in the user's configuration folder.
pub(super) fn path() -> Option<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path != Path::new("")),
        None => Some(etcetera::choose_base_strategy().ok()?.config_dir().join("flashflood").join("config.toml")),
    }
}

/// Gives every flag its environment variable. Flags that are named otherwise than by the rule say so where they are
/// defined, and in the help.
pub(super) fn with_environment(command: Command) -> Command {
    let named = |arg: Arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        // a variable of a switch holds 0, 1, no, yes, ...
        let arg = if is_switch(&arg) { arg.value_parser(FalseyValueParser::new()) } else { arg };
        let variable = variable(&long);
        match arg.get_env() {
            Some(own) if own.to_str() != Some(&variable) => arg.hide_env_values(true),
            Some(_) => arg.hide_env(true),
            None => arg.env(variable).hide_env(true),
        }
    };
    command.mut_args(named).mut_subcommands(|command| command.mut_args(named))
}

/// The environment variable of a flag.
pub(super) fn variable(long: &str) -> String {
    format!("FLASHFLOOD_{}", long.to_uppercase().replace('-', "_"))
}

impl ConfigFile {
    /// Reads the file at `path`, which need not exist unless the environment names it, against the flags of `command`.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML; a key that is no flag, and a value that the flag does not take.
    pub(super) fn read(path: Option<PathBuf>, command: &Command) -> Result<ConfigFile, ConfigFileError> {
        let Some(path) = path else { return Ok(ConfigFile::default()) };
        let is_named = std::env::var_os(VARIABLE).is_some();
        match std::fs::read_to_string(&path) {
            Ok(text) => ConfigFile::parse(path, &text, command),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => Ok(ConfigFile::default()),
            Err(error) => {
                let hint = if is_named { format!("{VARIABLE} names this file") } else { String::new() };
                Err(ConfigFileError { message: format!("cannot be read: {error}"), path, line: None, hint })
            }
        }
    }

    fn parse(path: PathBuf, text: &str, command: &Command) -> Result<ConfigFile, ConfigFileError> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let fail = |at: Option<usize>, message: String, hint: String| {
            Err(ConfigFileError { path: path.clone(), line: at.map(line_of), message, hint })
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => return fail(error.span().map(|span| span.start), error.message().to_owned(), String::new()),
        };
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            let (name, at) = (key.get_ref().to_string(), key.span().start);
            let DeValue::Table(section) = value.get_ref() else {
                let Some(arg) = find(command.get_subcommands().chain([command]), &name) else {
                    return fail(Some(at), format!("unknown key '{name}'"), no_such_flag(&name, command));
                };
                match setting(None, arg, value) {
                    Ok(setting) => settings.push(setting),
                    Err((at, message)) => return fail(Some(at), message, takes(arg)),
                }
                continue;
            };
            let Some(sub) = command.get_subcommands().find(|sub| sub.get_name() == name) else {
                let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
                return fail(
                    Some(at),
                    format!("unknown section [{name}]"),
                    format!("sections are commands: {}", names.join(", ")),
                );
            };
            for (key, value) in section {
                let (flag, at) = (key.get_ref().to_string(), key.span().start);
                let Some(arg) = find([sub, command].into_iter(), &flag) else {
                    return fail(Some(at), format!("unknown key '{flag}' in [{name}]"), no_such_flag(&flag, command));
                };
                match setting(Some(&name), arg, value) {
                    Ok(setting) => settings.push(setting),
                    Err((at, message)) => return fail(Some(at), message, takes(arg)),
                }
            }
        }
        // a command's own after those of all: the last one holds
        settings.sort_by_key(|setting| setting.command.is_some());
        Ok(ConfigFile { path: Some(path), settings })
    }

    /// Makes what the file says the default of the flags of `command` and its subcommands.
    pub(super) fn apply(&self, mut command: Command) -> Command {
        for setting in &self.settings {
            let wanted = |name: &str| setting.command.as_deref().is_none_or(|wanted| wanted == name);
            command = setting.apply(command);
            command = command.mut_subcommands(|sub| if wanted(sub.get_name()) { setting.apply(sub) } else { sub });
        }
        command
    }

    /// Whether the file has a value for a flag of a command.
    pub(super) fn sets(&self, command: &str, flag: &str) -> bool {
        let of = |setting: &&Setting| setting.command.as_deref().is_none_or(|name| name == command);
        self.settings.iter().filter(of).any(|setting| setting.flag == flag)
    }
}

/// The flag of that name in the first command that has it.
fn find<'a>(mut commands: impl Iterator<Item = &'a Command>, long: &str) -> Option<&'a Arg> {
    commands.find_map(|command| command.get_arguments().find(|arg| arg.get_long() == Some(long)))
}

/// The value in the form it has on the command line; or where it is wrong, and how.
fn setting(command: Option<&str>, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Setting, (usize, String)> {
    let flag = arg.get_long().unwrap_or_default();
    let at = value.span().start;
    let list = match value.get_ref() {
        DeValue::Array(list) if matches!(arg.get_action(), ArgAction::Append) => list.iter().collect(),
        _ => vec![value],
    };
    let mut values = Vec::new();
    for value in list {
        let found = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Array(_) => return Err((at, format!("'{flag}' takes one value, found a list"))),
            DeValue::Datetime(_) => return Err((at, format!("'{flag}': expected no date"))),
            DeValue::Table(_) => return Err((at, format!("'{flag}': expected a value, found a table"))),
        };
        if is_switch(arg) != matches!(value.get_ref(), DeValue::Boolean(_)) {
            let expected = if is_switch(arg) { "true or false" } else { "a value" };
            return Err((at, format!("'{flag}': expected {expected}, found {found}")));
        }
        let alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone()).num_args(1);
        let parsed =
            Command::new("value").no_binary_name(true).arg(alone).try_get_matches_from([format!("--value={found}")]);
        if let Err(error) = parsed {
            let text = error.to_string();
            // "error: invalid value 'x' for '--value <value>': why"
            let why = text.lines().next().and_then(|line| line.split_once("'--value <value>'"));
            let why = why.map_or("", |(_, why)| why);
            return Err((value.span().start, format!("'{flag}': invalid value '{found}'{why}")));
        }
        values.push(found);
    }
    Ok(Setting { command: command.map(str::to_owned), flag: flag.to_owned(), values })
}

/// What a flag takes, as a hint.
fn takes(arg: &Arg) -> String {
    let possible: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match (arg.get_action(), &possible[..]) {
        (ArgAction::SetTrue, _) => "true or false, without quotes".to_owned(),
        (_, []) => {
            arg.get_help().map(|help| format!("--{}: {help}", arg.get_long().unwrap_or_default())).unwrap_or_default()
        }
        (_, possible) => format!("one of {}", possible.join(", ")),
    }
}

/// The nearest name, or where names are found.
fn no_such_flag(name: &str, command: &Command) -> String {
    let name = name.trim_start_matches('-').replace('_', "-");
    let all = command.get_subcommands().chain([command]).flat_map(Command::get_arguments).filter_map(Arg::get_long);
    let nearest = all.map(|flag| (distance(&name, flag), flag)).min();
    match nearest {
        Some((distance, flag)) if distance <= 1 + name.len() / 4 => format!("did you mean '{flag}'?"),
        _ => "keys are flags of `flashflood help COMMAND` without the dashes in front".to_owned(),
    }
}

/// How many letters to insert, delete or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_flag_has_help_and_one_variable_of_its_own() {
        let program = crate::cli::arguments();
        program.clone().debug_assert();
        let mut variables: BTreeMap<String, (String, String)> = BTreeMap::new();
        for command in program.get_subcommands().chain([&program]) {
            let name = command.get_name();
            assert!(command.get_about().is_some_and(|about| !about.to_string().is_empty()), "{name} has no help");
            let mut of_command = Vec::new();
            for arg in command.get_arguments() {
                let id = arg.get_id();
                assert!(arg.get_help().is_some_and(|help| !help.to_string().is_empty()), "{name}: {id} has no help");
                let Some(long) = arg.get_long() else { continue };
                let words = long
                    .split('-')
                    .all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) && !word.is_empty());
                assert!(words, "{name}: --{long}");
                let variable = arg.get_env().and_then(|variable| variable.to_str()).unwrap_or_default().to_owned();
                assert!(variable.starts_with("FLASHFLOOD_"), "{name}: --{long} has no variable");
                assert!(variable != VARIABLE && !of_command.contains(&variable), "{name}: {variable} twice");
                // a variable that two commands read is one flag that takes the same in both
                let takes = format!("{:?} {:?}", arg.get_value_parser().type_id(), arg.get_action());
                let found = (long.to_owned(), takes);
                let known = variables.entry(variable.clone()).or_insert_with(|| found.clone());
                assert_eq!(*known, found, "{variable} in {name} and in another command");
                of_command.push(variable);
            }
        }
        assert!(variables.len() > 40, "{variables:#?}");
    }

    #[test]
    fn the_hint_is_the_nearest_flag() {
        for (a, b, expected) in
            [("", "", 0), ("ctx", "ctx", 0), ("ctx", "cxt", 2), ("max-token", "max-tokens", 1), ("", "abc", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        let program = crate::cli::arguments();
        assert_eq!(no_such_flag("expert_cache", &program), "did you mean 'expert-cache'?");
        assert_eq!(no_such_flag("--max-toknes", &program), "did you mean 'max-tokens'?");
        assert!(no_such_flag("weather", &program).starts_with("keys are flags"));
    }
}
