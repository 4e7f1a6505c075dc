//! `flashflood pack`: makes a pack of a snapshot, or checks one.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use flashflood::bytes_for_people;
use flashflood::weights::calibration::Calibration;
use flashflood::weights::pack::{self, PackOptions, Progress};
use flashflood::weights::{Listed, Listing, WeightFormat};
use indicatif::{ProgressBar, ProgressStyle};

use super::model::{folder_of, open_source};
use super::verify::verify_pack;
use crate::cli::notes::note;

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
    /// Bits per weight of the experts: 4, 3 or 2 (5, 6 and 8 work too; 0 keeps what the snapshot has); or a step of the
    /// ladder: q4, q3, q223 (2 bits, 3 of the down projections) or q2. With --calibration, 2 means q223
    #[arg(long, value_name = "N", default_value = "4", hide_possible_values = true, value_parser = step())]
    bits: Step,
    /// Bits per weight of the experts' down projections, which suffer most from few bits [default: as --bits]
    #[arg(long, value_name = "N", hide_possible_values = true, value_parser = bits())]
    down_bits: Option<u8>,
    /// Bits per weight of everything that is not an expert (0 keeps what the snapshot has)
    #[arg(long, value_name = "N", default_value = "8", hide_possible_values = true, value_parser = bits())]
    resident_bits: u8,
    /// Quantise experts by what they see of a text: a folder that `flashflood calibrate` made of this snapshot. Without it 2
    /// and 3 bits lose many answers
    #[arg(long, value_name = "FOLDER")]
    calibration: Option<PathBuf>,
    /// Read the pack again and check every byte
    #[arg(long)]
    verify: bool,
}

/// What `--bits` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    bits: u8,
    /// Of the down projections, where the name says it.
    down: Option<u8>,
}

/// A number, or the name of a step of the ladder.
fn step() -> impl TypedValueParser<Value = Step> {
    const NUMBERS: [&str; 7] = ["0", "2", "3", "4", "5", "6", "8"];
    PossibleValuesParser::new(NUMBERS.into_iter().chain(pack::STEPS.map(|named| named.0))).map(|text| match pack::STEPS
        .into_iter()
        .find(|named| named.0 == text)
    {
        Some((_, bits, down)) => Step { bits, down: Some(down) },
        None => Step { bits: text.parse().expect("all other possible values are numbers"), down: None },
    })
}

impl Step {
    /// Bits of gate and up, and of down where they are others. 2 bits by a calibration are 3 of the down projections: that takes
    /// the small model from 0.0011 nats from BF16 to 0.0004.
    fn resolved(self, down_bits: Option<u8>, is_calibrated: bool) -> (u8, Option<u8>) {
        let by_default = (is_calibrated && self.bits == 2).then_some(3);
        (self.bits, down_bits.or(self.down).or(by_default))
    }
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
        return verify_pack(&snapshot);
    };
    let source = open_source(&args.snapshot, &[])?;
    let (bits, down_bits) = args.bits.resolved(args.down_bits, args.calibration.is_some());
    let options = PackOptions { bits, down_bits, resident_bits: args.resident_bits, ..PackOptions::default() };
    let bar = bar("packing")?;
    let calibration = args.calibration.as_deref().map(Calibration::open).transpose()?;
    let observer = |progress: Progress<'_>| show(&bar, progress);
    let done = match &calibration {
        Some(calibration) => source.write_calibrated_pack(calibration, Some(&snapshot), out, &options, &observer)?,
        None => source.write_pack(Some(&snapshot), out, &options, &observer)?,
    };
    bar.finish_and_clear();
    if (bits > 0 || args.resident_bits > 0) && has_blocks(&source.weights) {
        note!("note: weights in blocks of GGUF files stay as they are, whatever --bits and --resident-bits say");
    }
    // first: nobody may be reading what is said, and that ends the command
    if args.verify {
        verify_pack(out)?;
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
            bar.suspend(|| note!("going on after {layers} finished layers"));
        }
        Progress::Advanced { bytes } => bar.inc(bytes),
        Progress::Warning(text) => bar.suspend(|| note!("warning: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_by_a_calibration_are_three_of_down() {
        let number = |bits| Step { bits, down: None };
        assert_eq!(number(2).resolved(None, true), (2, Some(3)));
        assert_eq!(number(2).resolved(None, false), (2, None));
        assert_eq!(number(2).resolved(Some(2), true), (2, Some(2)));
        assert_eq!(number(3).resolved(None, true), (3, None));
        let named = Step { bits: 2, down: Some(2) };
        assert_eq!(named.resolved(None, true), (2, Some(2)));
        assert_eq!(named.resolved(Some(4), true), (2, Some(4)));
    }
}
