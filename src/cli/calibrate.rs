//! `flashflood calibrate`: what the experts of a model see of a text, for `flashflood pack --calibration`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::FalseyValueParser;
use flashflood::calibrate::{
    CalibrateError, CalibrateOptions, CalibrateProgress, CalibrationText, TextKinds, calibrate,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::model::open_source;
use super::{Interrupted, interrupted};

/// Collect what the experts of a model see of a text, so that `pack --calibration` loses little with 2 or 3 bits.
///
/// Every layer is read once, whatever the model's size. An interrupted run goes on behind the last finished layer when the
/// same command is given again.
#[derive(Debug, clap::Args)]
pub(crate) struct CalibrateArgs {
    /// Model in BF16, F16 or FP8: a snapshot folder, or the name of a repository in the Hugging Face cache
    model: PathBuf,
    /// Text of what the model will be used for, beside the built-in one: a file, or a folder of files; each line of a .jsonl
    /// file is a document, with "text" or with "messages" (may be repeated)
    #[arg(long, value_name = "FILE|DIR")]
    text: Vec<PathBuf>,
    /// Leave the built-in text out: conversations, stories, code, sums, JSON and calls of tools in many languages
    #[arg(long, requires = "text", env = "FLASHFLOOD_ONLY_TEXT", value_parser = FalseyValueParser::new())]
    only_text: bool,
    /// Tokens of text: each expert should see ten times as many as its down projection has inputs
    #[arg(long, value_name = "N", default_value_t = 600_000, env = "FLASHFLOOD_CALIBRATE_TOKENS",
        value_parser = clap::value_parser!(u32).range(64..))]
    tokens: u32,
    /// Collect of each expert what its gate and up see, also where the model is wider than 512: a little better, for files
    /// about as large as the model
    #[arg(long, env = "FLASHFLOOD_PER_EXPERT", value_parser = FalseyValueParser::new())]
    per_expert: bool,
    /// Folder to make
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Whatever opening the model and its text, and the pass over it, say.
pub(crate) fn run(args: CalibrateArgs) -> anyhow::Result<()> {
    let source = open_source(&args.model, &[])?;
    let text = CalibrationText::read(&args.text)?;
    let kinds = if args.only_text { TextKinds::Own } else { TextKinds::Both };
    let template = source.chat_template().ok();
    let sequences = text.sequences(kinds, &source.tokenizer()?, template.as_ref(), args.tokens as usize)?;
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let bar = bar()?;
    let mut observer = |progress: CalibrateProgress| {
        match progress {
            CalibrateProgress::Resumed { layers } => {
                bar.suspend(|| eprintln!("going on after {layers} finished layers"));
                bar.reset_eta();
            }
            CalibrateProgress::Done(share) => bar.set_position((share * PARTS as f64) as u64),
        }
        !interrupted()
    };
    let options = CalibrateOptions { per_expert: args.per_expert };
    match calibrate(&source, &sequences, &args.out, options, &mut observer) {
        Err(CalibrateError::Interrupted) => return Err(Interrupted.into()),
        outcome => outcome?,
    }
    bar.finish_and_clear();
    let layers = source.experts().layers.len();
    writeln!(std::io::stdout(), "{}: {layers} layers, {tokens} tokens of text", args.out.display())?;
    Ok(())
}

/// What the bar counts: ten thousandths.
const PARTS: u64 = 10_000;

fn bar() -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(PARTS).with_message("calibrating");
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%, {eta} left");
    bar.set_style(style.context("the progress bar's template")?);
    Ok(bar)
}
