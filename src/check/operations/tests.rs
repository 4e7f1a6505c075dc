#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::compute::gpu::{Adapters, open};
use crate::compute::shaders::Form;
use crate::weights::Matrix;
use crate::weights::WeightFormat;
use flashflood_formats::Number;

use super::super::subject::{FormatShapes, formats};

/// Flips the lowest bit of a code in the middle, and of the next, as an activation in 8 bits may be 0; of a dense number the
/// lowest of its exponent.
fn damage(matrix: &mut Matrix) {
    let mut codes = matrix.blocks[0].streams[0].to_vec();
    let middle = match matrix.format {
        WeightFormat::Block(block) => codes.len() / 2 / block.bytes() * block.bytes(),
        _ => codes.len() / 8 * 4,
    };
    let (byte, bit) = match matrix.format {
        WeightFormat::Affine(_) => (0, 1),
        WeightFormat::F32 => (2, 0x80),
        WeightFormat::Bf16 => (0, 0x80),
        WeightFormat::F16 => (1, 0x04),
        // the lowest of an exponent; 4-bit numbers have none that is more than the others
        WeightFormat::Scaled(scaled) => (0, if scaled.number == Number::E4m3 { 0x08 } else { 0x04 }),
        // codes in the middle of the row's first block
        WeightFormat::Block(block) => (block.bytes() / 2, 0x10),
    };
    codes[middle + byte] ^= bit;
    if !matches!(matrix.format, WeightFormat::Dense(_)) {
        codes[middle + byte + 1] ^= bit;
    }
    matrix.blocks[0].streams[0] = codes.into();
}

/// A wrong weight or two among 32,768, in each format: the GPU has another than the twin.
#[test]
fn one_wrong_weight_is_seen() {
    let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
    let shapes = FormatShapes { hidden: 512, rows: 64, intermediate: 256 };
    let both = [Form::F32, Form::Int8];
    let (subject, other) = (formats(shapes, &both).unwrap(), formats(shapes, &both).unwrap());
    let mut recording = Arc::into_inner(other.recording).unwrap();
    recording.matrices.iter_mut().for_each(damage);
    let (times, recording) = (Times { runs: 1, by_host: false }, Arc::new(recording));
    let mut pair = Pair::with_recording_of_gpu(&subject, recording, &gpu, false, times).unwrap();
    let (mut rows, mut progress) = (KernelRows::default(), |_: &str, _: &str| true);
    pair.compare(&CheckOptions::default(), &mut Watch(&mut progress), &mut rows).unwrap();
    let rows = rows.into_vec();
    let is_product = |kernel: &str| kernel.starts_with("matvec") || kernel.starts_with("matmul");
    assert_eq!(
        rows.iter().filter(|row| is_product(row.kernel)).count(),
        268,
        "67 formats and forms, alone and with a norm, two phases"
    );
    for row in rows {
        // what comes after a wrong product starts from right inputs again; a norm here is of the same operation
        assert_eq!(row.agrees, !is_product(row.kernel) && row.kernel != "rms_norm", "{row:?}");
    }
}
