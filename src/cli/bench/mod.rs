//! `flashflood bench`: what this machine does, each figure beside its ceiling.

mod decode;
mod experts;
mod trace;

use std::path::PathBuf;

use clap::Args;

use super::model::ModelArgs;

/// Measure decode, expert reads or cache policies
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
    /// Tokens to decode in each run
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub(super) tokens: usize,
    /// Runs
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub(super) repeat: usize,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    match &args.cache_trace {
        Some(file) => trace::run(&args, file),
        None if args.experts => experts::run(&args),
        None => decode::run(&args),
    }
}
