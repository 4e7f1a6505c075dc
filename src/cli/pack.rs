//! `flashflood pack`: makes a pack of a snapshot, or checks one.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use flashflood::bytes_for_people;
use flashflood::weights::pack::{self, PackOptions, Progress};
use flashflood::weights::{Listed, Listing, WeightFormat};
use indicatif::{ProgressBar, ProgressStyle};

use super::model::{folder_of, open_source};

/// Make a pack: the snapshot's weights in the layout that streams fastest, quantised.
///
/// An interrupted run goes on where it stopped when the same command is given again.
#[derive(Debug, clap::Args)]
pub(crate) struct PackArgs {
    /// Snapshot: a folder, or the name of a repository in the Hugging Face cache; or a GGUF file; or a pack, to check it
    /// with --verify
    snapshot: PathBuf,
    /// Folder to make
    #[arg(required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// Bits per weight of the experts: 4, 3 or 2 (5, 6 and 8 work too; 0 keeps what the snapshot has)
    #[arg(long, value_name = "N", default_value = "4", hide_possible_values = true, value_parser = bits())]
    bits: u8,
    /// Bits per weight of the experts' down projections, which suffer most from few bits [default: as --bits]
    #[arg(long, value_name = "N", hide_possible_values = true, value_parser = bits())]
    down_bits: Option<u8>,
    /// Bits per weight of everything that is not an expert (0 keeps what the snapshot has)
    #[arg(long, value_name = "N", default_value = "8", hide_possible_values = true, value_parser = bits())]
    resident_bits: u8,
    /// Read the pack again and check every byte
    #[arg(long)]
    verify: bool,
}

pub(super) fn bits() -> impl TypedValueParser<Value = u8> {
    PossibleValuesParser::new(["0", "2", "3", "4", "5", "6", "8"])
        .map(|text| text.parse().expect("all possible values are numbers"))
}

/// Runs the command.
///
/// # Errors
/// Whatever opening the snapshot, making the pack or checking it says.
pub(crate) fn run(args: PackArgs) -> anyhow::Result<()> {
    let snapshot = folder_of(&args.snapshot)?;
    let Some(out) = &args.out else {
        return verify(&snapshot);
    };
    let source = open_source(&args.snapshot, &[])?;
    let options = PackOptions {
        bits: args.bits,
        down_bits: args.down_bits,
        resident_bits: args.resident_bits,
        ..PackOptions::default()
    };
    let bar = bar("packing")?;
    let done = source.write_pack(Some(&snapshot), out, &options, &|progress| show(&bar, progress))?;
    bar.finish_and_clear();
    if (args.bits > 0 || args.resident_bits > 0) && has_blocks(&source.weights) {
        eprintln!("note: weights in blocks of GGUF files stay as they are, whatever --bits and --resident-bits say");
    }
    // first: nobody may be reading what is said, and that ends the command
    if args.verify {
        verify(out)?;
    }
    writeln!(
        std::io::stdout(),
        "{}: {} layers, experts {}, resident weights {}",
        out.display(),
        source.shape.layers.len(),
        bytes_for_people(done.expert_bytes),
        bytes_for_people(done.resident_bytes),
    )?;
    Ok(())
}

/// Whether some weights are stored as in GGUF files: they are not quantised again.
fn has_blocks(weights: &Listing) -> bool {
    let is_block = |format: &WeightFormat| matches!(format, WeightFormat::Block(_));
    let matrices = weights.resident.iter().filter_map(|listed| match listed {
        Listed::Matrix { matrix, .. } => Some(matrix.format),
        Listed::Vector { .. } => None,
    });
    let experts = weights.experts.layers.iter().flat_map(|layer| layer.slot.matrices().map(|(_, place)| place.format));
    matrices.chain(experts).any(|format| is_block(&format))
}

fn verify(folder: &Path) -> anyhow::Result<()> {
    let bar = bar("checking")?;
    let report = pack::verify(folder, &|progress| show(&bar, progress))?;
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{}: {} expert records and the resident weights are intact",
        folder.display(),
        report.records
    )?;
    Ok(())
}

/// A bar on stderr; indicatif hides it where that is no terminal.
pub(super) fn bar(doing: &'static str) -> anyhow::Result<ProgressBar> {
    let style = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(0).with_message(doing);
    bar.set_style(ProgressStyle::with_template(style).context("the progress bar's template")?);
    Ok(bar)
}

pub(super) fn show(bar: &ProgressBar, progress: Progress<'_>) {
    match progress {
        Progress::Total { bytes } => bar.set_length(bytes),
        Progress::Resumed { layers, bytes } => {
            bar.inc(bytes);
            bar.reset_eta();
            bar.suspend(|| eprintln!("going on after {layers} finished layers"));
        }
        Progress::Advanced { bytes } => bar.inc(bytes),
        Progress::Warning(text) => bar.suspend(|| eprintln!("warning: {text}")),
    }
}
