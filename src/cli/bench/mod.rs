//! `flashflood bench`: what this machine does, each figure beside its ceiling.

mod ceiling;
mod decode;
mod experts;
mod prefill;
mod replay;
mod timeline;
mod trace;

use std::path::PathBuf;

use clap::Args;

use super::model::ModelArgs;
pub(super) use experts::read_speeds;

/// Measure decode, prompts, expert reads or cache policies
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    /// Measure expert-sized reads: size x depth, through the page cache and past it
    #[arg(long, conflicts_with = "cache_trace")]
    experts: bool,
    /// Replay a trace of expert requests against cache policies and sizes
    #[arg(long, value_name = "FILE")]
    cache_trace: Option<PathBuf>,
    /// Measure prompts of so many tokens instead of decode, such as 512,2048
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', conflicts_with_all = ["cache_trace", "experts"],
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) prompt: Vec<u32>,
    /// Tokens to decode in each run
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, env = "FLASHFLOOD_BENCH_TOKENS")]
    pub(super) tokens: usize,
    /// Runs
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub(super) repeat: usize,
    /// Write what host and device did for a few tokens: for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cache_trace", "experts", "prompt"])]
    pub(super) trace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    match &args.cache_trace {
        Some(file) => trace::run(&args, file),
        None if args.experts => experts::run(&args),
        None if !args.prompt.is_empty() => prefill::run(&args),
        None => decode::run(&args),
    }
}
