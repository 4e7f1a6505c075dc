//! `flashflood serve`: the model over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use flashflood::server::{ReasoningField, ServeOptions, serve};

use super::asking::{SessionArgs, size};
use super::interrupted;
use super::model::ModelArgs;
use crate::cli::notes::note;

/// Answer over HTTP, in the protocols of OpenAI and Anthropic, with a page for browsers
#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on; other machines reach others than 127.0.0.1, which takes a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "FLASHFLOOD_HOST")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080, env = "FLASHFLOOD_PORT")]
    port: u16,
    /// Key that callers must send
    #[arg(long, value_name = "KEY", env = "FLASHFLOOD_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Listen on any address without a key
    #[arg(long, env = "FLASHFLOOD_INSECURE", value_parser = FalseyValueParser::new())]
    insecure: bool,
    /// Web pages that may call, such as https://example.org; * is all (may be repeated)
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Requests that wait while one is computed; more are refused
    #[arg(long, value_name = "N", default_value_t = 8, env = "FLASHFLOOD_QUEUE")]
    queue: usize,
    /// Seconds that running requests get to end after Ctrl-C or SIGTERM
    #[arg(long, value_name = "N", default_value_t = 30, env = "FLASHFLOOD_DRAIN_SECONDS")]
    drain_seconds: u64,
    /// Connections at a time; when there are more, those that ask for nothing make room
    #[arg(long, value_name = "N", default_value_t = 512, env = "FLASHFLOOD_CONNECTIONS")]
    connections: usize,
    /// Seconds that a request may take to come; a long body gets more
    #[arg(long, value_name = "N", default_value_t = 15, env = "FLASHFLOOD_REQUEST_SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    request_seconds: u64,
    /// Where thoughts stand in a chat's message
    #[arg(long, value_enum, value_name = "FIELD", default_value_t, env = "FLASHFLOOD_REASONING_FIELD")]
    reasoning_field: ReasoningField,
    #[command(flatten)]
    saved: SessionArgs,
    /// How the log is written: lines for people, or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, env = "FLASHFLOOD_LOG_FORMAT")]
    pub(super) log_format: LogFormat,
    /// Memory for the state of conversations that others took the place of, such as a title that is asked for between two
    /// turns; 0 keeps none [default: a sixteenth of what is free]
    #[arg(long, value_name = "SIZE", env = "FLASHFLOOD_SESSION_MEMORY", value_parser = size)]
    session_memory: Option<u64>,
    /// What the model is called [default: the name of its folder]
    #[arg(long, value_name = "NAME", env = "FLASHFLOOD_MODEL_NAME")]
    model_name: Option<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Runs the command.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.api_key.as_deref() != Some(""), "the API key is empty (hint: leave --api-key out for none)");
    let model = args.model;
    let name = model.name();
    let options = ServeOptions {
        address: SocketAddr::new(args.host, args.port),
        api_key: args.api_key,
        insecure: args.insecure,
        cors_origins: args.cors_origin,
        queue: args.queue,
        drain: Duration::from_secs(args.drain_seconds),
        connections: args.connections,
        patience: Duration::from_secs(args.request_seconds),
        model: args.model_name.unwrap_or(name),
        reasoning: args.reasoning_field,
        sessions: args.saved.open()?,
        session_memory: args.session_memory,
    };
    let open = move || model.open();
    let listening = |address| note!("listening on http://{address} (a page for browsers; /v1 for programs)");
    Ok(serve(options, open, interrupted, listening)?)
}
