//! The quantiser: how close it comes to the weights, and that every width round-trips.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use crate::weights::{Affine, WeightFormat};
use flashflood_formats::WeightRows;
use flashflood_formats::{NotFinite, quantise_row};
use half::bf16;
use proptest::prelude::*;

/// Standard normal weights from a fixed seed.
fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

/// One row in f32.
fn unpacked(format: WeightFormat, cols: usize, streams: [&[u8]; 3]) -> Vec<f32> {
    let mut out = vec![f32::NAN; cols];
    WeightRows { format, cols, streams }.unpack(0, &mut out);
    out
}

/// Quantised and back.
fn there_and_back(bits: u8, group: u16, weights: &[f32]) -> Vec<f32> {
    let format = WeightFormat::affine(bits, group);
    let [mut codes, mut scales, mut biases] = format.stream_bytes(weights.len()).map(|bytes| vec![0; bytes]);
    quantise_row(bits, group, weights, &mut codes, &mut scales, &mut biases).unwrap();
    unpacked(format, weights.len(), [&codes, &scales, &biases])
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Signal to quantisation noise in dB.
fn sqnr(weights: &[f32], quantised: &[f32]) -> f64 {
    let signal: f64 = weights.iter().map(|w| f64::from(*w).powi(2)).sum();
    10.0 * (signal / squared_error(weights, quantised)).log10()
}

/// What min-max with bf16 scale and bias makes of a group.
fn min_max(bits: u8, group: &[f32]) -> Vec<f32> {
    let levels = f32::from((1u16 << bits) - 1);
    let (low, high) = group.iter().fold((f32::MAX, f32::MIN), |(l, h), w| (l.min(*w), h.max(*w)));
    let scale = bf16::from_f32((high - low) / levels).to_f32();
    let bias = bf16::from_f32(low).to_f32();
    group.iter().map(|w| scale * ((w - bias) / scale).round_ties_even().clamp(0.0, levels) + bias).collect()
}

#[test]
#[ignore = "prints figures: cargo test --release --lib quantise:: -- --ignored --nocapture"]
fn figures() {
    let weights = gaussian(1 << 20, 7);
    for bits in Affine::BITS {
        let started = Instant::now();
        let back: Vec<f32> = weights.chunks(4096).flat_map(|row| there_and_back(bits, 64, row)).collect();
        let speed = weights.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
        let base: Vec<f32> = weights.chunks(64).flat_map(|group| min_max(bits, group)).collect();
        println!(
            "{bits} bits: {:.2} dB (min-max {:.2}), {speed:.0} M weights/s there and back",
            sqnr(&weights, &back),
            sqnr(&weights, &base)
        );
    }
}

#[test]
fn least_squares_reaches_its_figures_on_normal_weights() {
    let weights = gaussian(1 << 17, 1);
    // the best that affine codes with a scale and bias per 64 can do, and the most that may be missing
    for (bits, best) in [(2, 9.95), (3, 15.73), (4, 21.85)] {
        let found = sqnr(&weights, &there_and_back(bits, 64, &weights));
        assert!(found > best - 0.1, "{bits} bits: {found:.2} dB, expected {best} - 0.1");
    }
    // 6.02 dB per further bit, less what 64 weights cannot use of it
    for (bits, expected) in [(5, 27.8), (6, 33.8), (8, 45.6)] {
        let found = sqnr(&weights, &there_and_back(bits, 64, &weights));
        assert!(found > expected, "{bits} bits: {found:.2} dB, expected {expected}");
    }
}

#[test]
fn codes_of_every_width_lie_lowest_bit_first() {
    // on a grid, with both ends in every group, each weight is its own code
    for bits in Affine::BITS {
        let levels = (1u32 << bits) - 1;
        let wanted: Vec<u32> =
            (0..128).map(|i| if i % 32 < 2 { (i % 2) * levels } else { i * 7 % (levels + 1) }).collect();
        let weights: Vec<f32> = wanted.iter().map(|code| *code as f32 * 0.5 - 2.0).collect();
        let format = WeightFormat::affine(bits, 32);
        let mut codes = vec![0; format.stream_bytes(128)[0]];
        let (mut scales, mut biases) = (vec![0; 8], vec![0; 8]);
        quantise_row(bits, 32, &weights, &mut codes, &mut scales, &mut biases).unwrap();
        for (c, wanted) in wanted.iter().enumerate() {
            let found = (0..usize::from(bits)).fold(0, |code, bit| {
                let at = c * usize::from(bits) + bit;
                code | u32::from(codes[at / 8] >> (at % 8) & 1) << bit
            });
            assert_eq!(found, *wanted, "code {c} of {bits} bits");
        }
        assert_eq!(unpacked(format, 128, [&codes, &scales, &biases]), weights, "{bits} bits");
    }
}

#[test]
fn zeros_and_constants_stay_what_they_are() {
    for bits in Affine::BITS {
        assert_eq!(there_and_back(bits, 64, &[0.0; 64]), [0.0; 64], "{bits} bits");
        for value in [1.0f32, -0.75, 0.123_456_79, -3.141_592_7e5, 1e-20, 3e38] {
            for found in there_and_back(bits, 64, &[value; 64]) {
                assert!((found - value).abs() <= value.abs() * 2e-5, "{bits} bits: {value} became {found}");
            }
        }
    }
    // a mean far above the spread: the rounding of the bias must not eat the group
    let weights: Vec<f32> = gaussian(64, 3).iter().map(|w| 100.0 + 0.01 * w).collect();
    for bits in Affine::BITS {
        for (found, weight) in there_and_back(bits, 64, &weights).iter().zip(&weights) {
            assert!((found - weight).abs() < 0.05, "{bits} bits: {weight} became {found}");
        }
    }
}

#[test]
fn scales_of_every_type_are_read() {
    use crate::weights::ScaleType;
    let codes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(2);
    for (scales, scale, bias) in [
        (ScaleType::Bf16, bf16::from_f32(-0.5).to_le_bytes().to_vec(), bf16::from_f32(3.0).to_le_bytes().to_vec()),
        (
            ScaleType::F16,
            half::f16::from_f32(-0.5).to_le_bytes().to_vec(),
            half::f16::from_f32(3.0).to_le_bytes().to_vec(),
        ),
        (ScaleType::F32, (-0.5f32).to_le_bytes().to_vec(), 3.0f32.to_le_bytes().to_vec()),
    ] {
        let format = WeightFormat::Affine(Affine { bits: 4, group: 32, scales });
        let out = unpacked(format, 32, [&codes, &scale, &bias]);
        let expected: Vec<f32> = (0..32).map(|c| 3.0 - 0.5 * (c % 16) as f32).collect();
        assert_eq!(out, expected[..], "{scales:?}");
    }
    let values = [1.5f32, -2.0, 0.0, 65504.0];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let out = unpacked(WeightFormat::F32, 4, [&bytes, &[], &[]]);
    assert_eq!(out, values);
    let bytes: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let out = unpacked(WeightFormat::F16, 4, [&bytes, &[], &[]]);
    assert_eq!(out, values);
    let bytes: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    let out = unpacked(WeightFormat::Bf16, 4, [&bytes, &[], &[]]);
    assert_eq!(out[..3], values[..3]);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weights = gaussian(256, 5);
        weights[201] = bad;
        let format = WeightFormat::affine(4, 64);
        let mut codes = vec![0; format.stream_bytes(256)[0]];
        let (mut scales, mut biases) = (vec![0; 8], vec![0; 8]);
        let error = quantise_row(4, 64, &weights, &mut codes, &mut scales, &mut biases).unwrap_err();
        assert!(matches!(error, NotFinite { column: 201, .. }), "{error}");
        assert!(error.to_string().starts_with("weight at column 201 is"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn never_worse_than_min_max(
        bits in prop::sample::select(Affine::BITS.to_vec()),
        group in prop::sample::select(Affine::GROUPS.to_vec()),
        seed: u64,
        magnitude in -30i32..30,
        mean in -4.0f32..4.0,
        // one large weight in a group, as checkpoints have them
        outlier in 1.0f32..50.0,
    ) {
        let mut weights = gaussian(256, seed);
        weights.iter_mut().for_each(|w| *w = (*w + mean) * 2f32.powi(magnitude));
        weights[7] *= outlier;
        let found = there_and_back(bits, group, &weights);
        for (weights, found) in weights.chunks(group.into()).zip(found.chunks(group.into())) {
            let (error, base) = (squared_error(weights, found), squared_error(weights, &min_max(bits, weights)));
            // f32 sums decide between candidates, f64 here
            prop_assert!(error <= base * 1.0001, "{bits} bits, group {group}: {error} against {base}");
        }
    }

    #[test]
    fn any_finite_weights_give_finite_ones(
        bits in prop::sample::select(Affine::BITS.to_vec()),
        weights in prop::collection::vec(prop::num::f32::ANY.prop_filter("finite", |w| w.is_finite()), 128),
        same in prop::option::of(0usize..128),
    ) {
        let weights = match same {
            Some(at) => vec![weights[at]; 128],
            None => weights,
        };
        for group in Affine::GROUPS {
            let found = there_and_back(bits, group, &weights);
            prop_assert!(found.iter().all(|w| !w.is_nan()), "{found:?}");
        }
    }
}
