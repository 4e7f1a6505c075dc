//! `flashflood synth`: a pack, or a GGUF file, of a real model's shape with random weights.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clap::builder::PossibleValuesParser;
use flashflood::bytes_for_people;
use flashflood::model::Published;
use flashflood::weights::pack::PackOptions;

use super::output::write_whole;
use super::pack::{bar, bits, show};

/// Make a pack or a GGUF file with the shape of a published model and random weights, to measure a machine with
#[derive(Args)]
pub(crate) struct SynthArgs {
    /// The model whose shape it has
    #[arg(long, value_enum)]
    shape: Published,
    /// Only the first N layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Bits per weight of the experts: 4, 3 or 2 (5, 6 and 8 work too)
    #[arg(long, value_name = "N", default_value = "4", hide_possible_values = true, value_parser = bits(),
        env = "FLASHFLOOD_SYNTH_BITS")]
    bits: u8,
    /// Bits per weight of everything that is not an expert
    #[arg(long, value_name = "N", default_value = "4", hide_possible_values = true, value_parser = bits())]
    resident_bits: u8,
    /// FP8 instead, as official releases have it
    #[arg(long, conflicts_with_all = ["bits", "resident_bits", "gguf"])]
    fp8: bool,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 1, env = "FLASHFLOOD_SYNTH_SEED")]
    seed: u64,
    /// Make a GGUF file instead, whose matrices have this type, such as Q4_K
    #[arg(long, value_name = "TYPE", ignore_case = true, hide_possible_values = true, value_parser = gguf_types(),
        conflicts_with_all = ["bits", "resident_bits"])]
    gguf: Option<String>,
    /// Folder, or GGUF file, to make
    out: PathBuf,
}

fn gguf_types() -> PossibleValuesParser {
    PossibleValuesParser::new(Published::gguf_types())
}

/// Runs the command.
pub(crate) fn run(args: SynthArgs) -> anyhow::Result<()> {
    if let Some(kind) = &args.gguf {
        return write_gguf(&args, kind);
    }
    if args.bits == 0 || args.resident_bits == 0 {
        bail!("--bits 0 keeps what a snapshot has, and there is none (hint: --bits 4)");
    }
    let source = match args.fp8 {
        true => args.shape.synthesise_fp8(args.layers, args.seed)?,
        false => args.shape.synthesise(args.layers, args.bits, args.resident_bits, args.seed)?,
    };
    let options = PackOptions { bits: 0, down_bits: None, resident_bits: 0, group: 64 };
    let bar = bar("writing")?;
    let done = source.write_pack(None, &args.out, &options, &|progress| show(&bar, progress))?;
    if let Some(tokenizer) = &source.text_files.tokenizer {
        std::fs::write(args.out.join("tokenizer.json"), tokenizer)?;
    }
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{}: {} of {}, {} layers, experts {}, resident weights {}",
        args.out.display(),
        args.shape.name(),
        if args.layers.is_some() { "the first layers" } else { "all" },
        source.shape.layers.len(),
        bytes_for_people(done.expert_bytes),
        bytes_for_people(done.resident_bytes),
    )?;
    Ok(())
}

fn write_gguf(args: &SynthArgs, kind: &str) -> anyhow::Result<()> {
    if args.out.is_dir() {
        bail!("{}: expected the name of a file to make, found a folder", args.out.display());
    }
    let file = args.shape.gguf(args.layers, kind, args.seed)?;
    let bar = bar("writing")?;
    bar.set_length(file.bytes());
    write_whole(&args.out, |place| Ok(file.write(&mut File::create(place)?, &|bytes| bar.inc(bytes))?))?;
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{}: {} of {}, {}, {}",
        args.out.display(),
        if args.layers.is_some() { "the first layers" } else { "all" },
        args.shape.name(),
        kind.to_ascii_uppercase(),
        bytes_for_people(file.bytes()),
    )?;
    Ok(())
}
