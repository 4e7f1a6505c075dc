//! Which value every flag of `run` has, and where it comes from.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use flashflood::text::GenerationConfig;
use serde::Serialize;

use super::super::config_file::ConfigFile;

/// A flag and its value.
#[derive(Serialize)]
pub(super) struct Setting {
    pub(super) flag: String,
    /// `None`: none, and the program decides as it runs.
    pub(super) value: Option<String>,
    pub(super) from: String,
}

/// The flags of `flashflood run`, if it were given those that `doctor` was.
pub(super) fn settings(
    program: &Command,
    config: &ConfigFile,
    given: &ArgMatches,
    generation: Option<&GenerationConfig>,
) -> Vec<Setting> {
    let run = program.clone().try_get_matches_from(["flashflood", "run"]);
    let run = run.as_ref().ok().and_then(|matches| matches.subcommand_matches("run"));
    let Some(command) = program.find_subcommand("run") else { return Vec::new() };
    let mut settings = Vec::new();
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long() else { continue };
        let id = arg.get_id().as_str();
        let raw = |matches: &ArgMatches| {
            let values = matches.try_get_raw(id).ok()??;
            Some(values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(", "))
        };
        let source = |matches: &ArgMatches| matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id));
        let (value, from) = if source(given) == Some(ValueSource::CommandLine) {
            (raw(given), "flag".to_owned())
        } else {
            let from = match run.and_then(source) {
                Some(ValueSource::EnvVariable) => {
                    format!("environment: {}", arg.get_env().unwrap_or_default().to_string_lossy())
                }
                Some(_) if config.sets("run", flag) => "configuration file".to_owned(),
                _ => "built-in".to_owned(),
            };
            (run.and_then(raw), from)
        };
        let of_model = generation.and_then(|generation| of_model(generation, flag));
        let (value, from) = match (value, of_model) {
            (None, Some(value)) => (Some(value), "the model's generation_config.json".to_owned()),
            (value, _) => (value, from),
        };
        settings.push(Setting { flag: flag.to_owned(), value, from });
    }
    settings.sort_by(|a, b| a.flag.cmp(&b.flag));
    settings
}

/// What the makers of the model say about a flag.
fn of_model(generation: &GenerationConfig, flag: &str) -> Option<String> {
    let of = &generation.sampler;
    let text = |value: Option<f32>| value.map(|value| value.to_string());
    match flag {
        "temp" if of.do_sample == Some(false) => Some("0".to_owned()),
        "temp" => text(of.temperature),
        "top-k" => of.top_k.map(|value| value.to_string()),
        "top-p" => text(of.top_p),
        "min-p" => text(of.min_p),
        "presence-penalty" => text(of.presence_penalty),
        "frequency-penalty" => text(of.frequency_penalty),
        "repeat-penalty" => text(of.repetition_penalty),
        _ => None,
    }
}
