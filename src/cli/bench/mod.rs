//! `flashflood bench`: what this machine does, each figure beside its ceiling.

mod caches;
mod ceiling;
mod compare;
mod decode;
mod depth;
mod experts;
mod prefill;
mod replay;
mod timeline;
mod trace;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use flashflood::engine::ExpertBudget;
use serde_json::Value;

use super::asking::SamplingArgs;
use super::model::ModelArgs;
use super::report;
use crate::cli::notes::note;
pub(super) use experts::{ReadSpeed, read_speeds};

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
    /// Measure decode and a prompt (512 tokens, or as --prompt says) behind contexts of so many tokens, such as 0,8192
    #[arg(short, long, value_name = "N,N", value_delimiter = ',',
        conflicts_with_all = ["cache_trace", "experts", "trace", "compare"])]
    pub(super) depth: Vec<u32>,
    /// Measure decode with memory for so many bytes of experts after each other, such as 2GB,8GB,all
    #[arg(long, value_name = "SIZE,SIZE", value_delimiter = ',',
        conflicts_with_all = ["cache_trace", "experts", "trace", "compare", "prompt", "depth", "expert_cache"])]
    pub(super) caches: Vec<ExpertBudget>,
    /// Tokens to decode in each run
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, env = "FLASHFLOOD_BENCH_TOKENS")]
    pub(super) tokens: usize,
    /// How tokens are chosen: at temperature 1 among 20, unless told otherwise
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    /// Runs
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub(super) repeat: usize,
    /// Write what host and device did for a few tokens: for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cache_trace", "experts", "prompt"])]
    pub(super) trace: Option<PathBuf>,
    /// Write a page to share: the machine, the model, tables, pictures, and the JSON in it
    #[arg(long, value_name = "FILE", conflicts_with = "cache_trace")]
    pub(super) report: Option<PathBuf>,
    /// Compare two files that --json has written
    #[arg(long, value_names = ["A", "B"], num_args = 2,
        conflicts_with_all = ["cache_trace", "experts", "prompt", "trace", "report", "json"])]
    compare: Option<Vec<PathBuf>>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl BenchArgs {
    /// Writes the page, if one is wanted, and prints JSON, if that is; whether it was.
    fn present(&self, what: &str, result: &Value, printed: &Value) -> anyhow::Result<bool> {
        if let Some(file) = &self.report {
            report::write(file, what, self.model.model.as_deref(), result)?;
            note!("{}: a page to share", file.display());
        }
        if self.json {
            writeln!(std::io::stdout(), "{printed:#}")?;
        }
        Ok(self.json)
    }
}

/// Runs the command.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    if let Some(files) = &args.compare {
        return compare::run(files);
    }
    match &args.cache_trace {
        Some(file) => trace::run(&args, file),
        None if args.experts => experts::run(&args),
        None if !args.caches.is_empty() => caches::run(&args),
        None if !args.depth.is_empty() => depth::run(&args),
        None if !args.prompt.is_empty() => prefill::run(&args),
        None => decode::run(&args),
    }
}
