use super::*;
use crate::{WeightFormat, random_bytes};

/// The blocks that `dequantised.py` takes.
fn blocks(block: Block) -> Vec<u8> {
    let Kind { ggml, bytes, halves, .. } = *block.kind();
    let random = random_bytes(u64::from(ggml), 97 * bytes);
    let alone: Vec<u8> = (0..=255).flat_map(|byte| vec![byte; bytes]).collect();
    let with_scales = |all: &[u8], change: &dyn Fn(u16) -> u16| {
        let mut all = all.to_vec();
        for one in all.chunks_exact_mut(bytes) {
            for at in halves {
                let scale = change(u16::from_le_bytes([one[*at], one[at + 1]]));
                one[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if block == Block::IQ1_M {
                one[55] &= 0xbf;
            }
        }
        all
    };
    let finite = |half: u16| if half & 0x7c00 == 0x7c00 { half & 0xbfff } else { half };
    [
        with_scales(&random, &finite),
        with_scales(&random, &|_| 0x7bff),
        with_scales(&random, &|_| 0),
        with_scales(&alone, &finite),
    ]
    .concat()
}

#[test]
fn every_value_is_that_of_the_package_gguf() {
    let known: Vec<Vec<&str>> = include_str!("dequantised.csv").lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(known.len(), KINDS.len());
    for (known, block) in known.iter().zip(Block::all()) {
        let bytes = blocks(block);
        let columns = bytes.len() / block.bytes() * block.columns();
        let rows = WeightRows { format: WeightFormat::Block(block), cols: columns, streams: [&bytes, &[], &[]] };
        let mut values = vec![0.0; columns];
        rows.unpack(0, &mut values);
        let hash = values.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, value| {
            (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3)
        });
        let Kind { ggml, suffix, columns, bytes, .. } = *block.kind();
        let found = format!("{suffix},{ggml},{columns},{bytes},{hash:016x}");
        assert_eq!(found, known.join(","));
        assert!(rows.first_not_finite().is_none(), "{block}");
    }
}

#[test]
fn scales_that_are_no_numbers_are_found() {
    for kind in KINDS.iter().filter(|kind| !kind.halves.is_empty()) {
        let mut bytes = vec![0; 6 * kind.bytes];
        bytes[4 * kind.bytes + kind.halves[0] + 1] = 0x7e;
        let rows =
            WeightRows { format: WeightFormat::Block(kind.block), cols: 3 * kind.columns, streams: [&bytes, &[], &[]] };
        let found = rows.first_not_finite().map(|found| (found.row, found.column, found.value.is_nan()));
        assert_eq!(found, Some((1, kind.columns, true)), "{}", kind.block);
    }
}

#[test]
fn random_weights_have_the_deviation_that_is_asked_for() {
    for block in Block::all() {
        let format = WeightFormat::Block(block);
        let (rows, cols) = (16, 1024);
        let [bytes, ..] = format.random(rows, cols, 1.0, 7);
        let all = WeightRows { format, cols, streams: [&bytes, &[], &[]] };
        let mut weights = vec![0.0; cols];
        let (mut sum, mut squares) = (0.0, 0.0);
        for r in 0..rows {
            all.unpack(r, &mut weights);
            sum += weights.iter().sum::<f32>();
            squares += weights.iter().map(|w| w * w).sum::<f32>();
        }
        let n = (rows * cols) as f32;
        let (mean, deviation) = (sum / n * 32.0, (squares / n).sqrt() * 32.0);
        // scales that are powers of two are off by a third at most
        assert!(mean.abs() < 0.2 && (0.6..1.5).contains(&deviation), "{block}: mean {mean}, deviation {deviation}");
    }
}

#[test]
fn names_go_to_files_and_back() {
    for block in Block::all() {
        assert_eq!(Block::try_from(block.kind().suffix.to_owned()), Ok(block));
        assert_eq!(WeightFormat::from_ggml(block.kind().ggml), Some(WeightFormat::Block(block)));
    }
    assert!(Block::try_from("q9_k".to_owned()).is_err() && WeightFormat::from_ggml(4).is_none());
}
