//! `matmul`, by `matvec` for one token and `matmul` for many, in every weight format, with f32 and with what `quantise` packs.

use crate::compute::LogitRows;
use crate::compute::ops::{Matmul, RowsOf, Tile};
use crate::compute::shaders::Form;
use crate::weights::WeightFormat;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::cases;
use super::random::{Random, formats};
use super::trial::Trial;

/// Sums of `cols` products of numbers around 1 in two orders: partial sums grow as the root of `cols`, and so does the
/// number of roundings that do not cancel.
///
/// `matmul` adds from the first column to the last. Against sums of 32 lanes, as the CPU has them, that is 0.050
/// `EPSILON * cols` in the root mean square, and 0.39 at most in 420,000 random sums; 0.25 was passed by 3 in 100,000.
pub(crate) fn atol(cols: usize) -> f32 {
    0.5 * f32::EPSILON * cols as f32 + 2e-6
}

/// Products of three shapes in each of `formats`, with activations in f32 or in 8 bits.
fn products(formats: &[WeightFormat], seed: u64, steps: &[usize], binding: u64, form: Form) -> Trial {
    let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
    trial.binding = binding;
    trial.logits = trial.random.one_of(&[LogitRows::All, LogitRows::All, LogitRows::Last, LogitRows::None]);
    for &format in formats {
        // a team of 8, 16 or 32 threads takes a row: a block of 32 columns each at most, or several. Pipelines
        // differ in it, and making them takes most of the time here, so it is the same for all three.
        let (least, most) = trial.random.one_of(&[(0, 256), (256, 512), (512, 1024), (1024, 2400)]);
        let multiple = format.column_multiple();
        for nth in 0..3 {
            let cols = multiple * (least / multiple + 1 + trial.random.below((most - least) / multiple));
            // more than the few whose columns are in parts, where they are short
            let many = if nth == 0 && cols <= 512 { 320 } else { 0 };
            let rows = 1 + many + trial.random.below(if cols > 1024 { 20 } else { 70 });
            let matrix = trial.matrix(format, rows, cols);
            let (x, out) = (trial.columns(cols, 4), trial.columns(rows, 1));
            let accumulate = trial.random.coin();
            let of = trial.random.one_of(&[RowsOf::Tokens, RowsOf::Logits]);
            let x = if form == Form::Int8 { trial.quantised(x, format) } else { x.into() };
            trial.push(Matmul { x, matrix, out, accumulate, exact: false, rows: of, unscaled: None });
            trial.within(out, atol(cols), 1e-6);
        }
    }
    trial
}

/// All group sizes and scale types of a format, each with shapes of its own.
fn check(suffix: &str, seed: u64, steps: &[usize], binding: u64, form: Form) -> Result<(), TestCaseError> {
    let all = formats(suffix);
    if all.len() > 1 {
        let mut trial = products(&all, seed, steps, binding, form);
        // checks are in code that does not depend on the group, nor on the type of scales
        trial.with_checks = false;
        trial.check(steps)?;
    }
    let one = Random::new(seed).one_of(&all);
    products(&[one], seed, steps, binding, form).check(steps)
}

macro_rules! each_format {
    ($form:expr, $($name:ident $suffix:literal)*) => {$(
        proptest! {
            #![proptest_config(cases(1))]
            #[test]
            fn $name(
                seed in any::<u64>(),
                steps in prop::collection::vec(1usize..10, 1..4),
                binding in prop::sample::select(vec![1 << 12, 1 << 14, 1 << 16, u64::MAX]),
            ) {
                check($suffix, seed, &steps, binding, $form)?;
            }
        }
    )*};
}
each_format! {
    Form::F32,
    matmul_f32 "f32"
    matmul_f16 "f16"
    matmul_bf16 "bf16"
    matmul_q2 "q2"
    matmul_q3 "q3"
    matmul_q4 "q4"
    matmul_q5 "q5"
    matmul_q6 "q6"
    matmul_q8 "q8"
    matmul_q4_0 "q4_0"
    matmul_q4_1 "q4_1"
    matmul_q5_0 "q5_0"
    matmul_q5_1 "q5_1"
    matmul_q8_0 "q8_0"
    matmul_q2_k "q2_k"
    matmul_q3_k "q3_k"
    matmul_q4_k "q4_k"
    matmul_q5_k "q5_k"
    matmul_q6_k "q6_k"
    matmul_iq2_xxs "iq2_xxs"
    matmul_iq2_xs "iq2_xs"
    matmul_iq3_xxs "iq3_xxs"
    matmul_iq1_s "iq1_s"
    matmul_iq4_nl "iq4_nl"
    matmul_iq3_s "iq3_s"
    matmul_iq2_s "iq2_s"
    matmul_iq4_xs "iq4_xs"
    matmul_iq1_m "iq1_m"
    matmul_tq1_0 "tq1_0"
    matmul_tq2_0 "tq2_0"
    matmul_mxfp4 "mxfp4"
    matmul_nvfp4 "nvfp4"
    matmul_fp4 "fp4"
    matmul_fp4_16 "fp4_16"
    matmul_fp8 "fp8"
}
each_format! {
    Form::Int8,
    matmul_int8_q2 "q2"
    matmul_int8_q3 "q3"
    matmul_int8_q4 "q4"
    matmul_int8_q5 "q5"
    matmul_int8_q6 "q6"
    matmul_int8_q8 "q8"
    matmul_int8_q4_0 "q4_0"
    matmul_int8_q4_1 "q4_1"
    matmul_int8_q5_0 "q5_0"
    matmul_int8_q5_1 "q5_1"
    matmul_int8_q8_0 "q8_0"
    matmul_int8_q2_k "q2_k"
    matmul_int8_q3_k "q3_k"
    matmul_int8_q4_k "q4_k"
    matmul_int8_q5_k "q5_k"
    matmul_int8_q6_k "q6_k"
    matmul_int8_iq2_xxs "iq2_xxs"
    matmul_int8_iq2_xs "iq2_xs"
    matmul_int8_iq3_xxs "iq3_xxs"
    matmul_int8_iq1_s "iq1_s"
    matmul_int8_iq4_nl "iq4_nl"
    matmul_int8_iq3_s "iq3_s"
    matmul_int8_iq2_s "iq2_s"
    matmul_int8_iq4_xs "iq4_xs"
    matmul_int8_iq1_m "iq1_m"
    matmul_int8_tq1_0 "tq1_0"
    matmul_int8_tq2_0 "tq2_0"
    matmul_int8_mxfp4 "mxfp4"
    matmul_int8_nvfp4 "nvfp4"
    matmul_int8_fp4 "fp4"
    matmul_int8_fp4_16 "fp4_16"
    matmul_int8_fp8 "fp8"
}

proptest! {
    #![proptest_config(cases(2))]

    /// Tiles of every size, full ones and others, and prompts that are cut between them.
    #[test]
    fn matmul_tiles(
        seed in any::<u64>(),
        (many, few) in (17usize..150, 1usize..17),
        dense in prop::sample::select(vec!["f32", "f16", "bf16"]),
        affine in prop::sample::select(vec!["q2", "q3", "q4", "q5", "q6", "q8"]),
    ) {
        tiles(seed, many, few, [dense, affine])?;
    }
}

/// A prompt of `many` tokens at once, and with the last `few` in a step of their own.
fn tiles(seed: u64, many: usize, few: usize, suffixes: [&str; 2]) -> Result<(), TestCaseError> {
    let mut random = Random::new(seed);
    let [dense, affine] = suffixes.map(|suffix| random.one_of(&formats(suffix)));
    for (form, formats) in [(Form::F32, &[dense, affine][..]), (Form::Int8, &[affine][..])] {
        let mut trial = products(formats, seed, &[many], u64::MAX, form);
        trial.logits = LogitRows::All;
        trial.check_cut(&[many], &[many - few, few])?;
    }
    Ok(())
}

/// As many rows and tokens as the larger tiles are for, with edges; of the fewest rows the columns are in parts.
#[test]
fn matmul_of_many_rows() {
    let mut random = Random::new(21);
    for (rows, tokens, tile) in [(301, 249, 1), (1_100, 149, 1), (5_501, 149, 2)] {
        for (form, suffix) in [(Form::F32, "q4"), (Form::F32, "bf16"), (Form::Int8, "q4")] {
            let tiles = Tile::of_matrix(form, rows);
            assert_eq!(Tile::choose(tiles, rows, tokens), tile, "{rows} rows");
            assert_eq!(tiles[tile].column_parts > 1, rows < 320 && form == Form::F32);
            let mut trial = Trial::new(5, tokens);
            let format = random.one_of(&formats(suffix));
            let cols = 96usize.next_multiple_of(format.column_multiple());
            let matrix = trial.matrix(format, rows, cols);
            let (x, out) = (trial.columns(cols, 4), trial.columns(rows, 1));
            let x = if form == Form::Int8 { trial.quantised(x, format) } else { x.into() };
            let (accumulate, rows) = (false, RowsOf::Tokens);
            trial.push(Matmul { x, matrix, out, accumulate, exact: false, rows, unscaled: None });
            trial.within(out, atol(cols), 1e-6);
            (trial.with_checks, trial.logits) = (false, LogitRows::Last);
            trial.check(&[tokens]).unwrap();
        }
    }
}

/// A large sum of 1,952 products: 29 units in the last place from the CPU's, which adds in another order.
#[test]
fn matmul_of_a_large_sum() {
    tiles(14_109_888_343_788_140_803, 140, 15, ["bf16", "q4"]).unwrap();
}

/// More workgroups than one dimension of a grid holds: the vocabulary of a large model.
#[test]
fn matmul_folds_its_grid() {
    // matvec has 32 rows in a workgroup, matmul 16 of few tokens
    let (rows, cols) = (4 * 8 * 32_768 + 37, 32);
    let mut trial = Trial::new(1, 2);
    let matrix = trial.matrix(WeightFormat::affine(2, 32), rows, cols);
    let (x, out) = (trial.tensor(1, cols), trial.tensor(1, rows));
    trial.push(Matmul {
        x: x.into(),
        matrix,
        out,
        accumulate: false,
        exact: false,
        rows: RowsOf::Tokens,
        unscaled: None,
    });
    trial.within(out, atol(cols), 1e-6);
    trial.with_checks = false;
    trial.check(&[2]).unwrap();
}

/// How many threads a product is spread over changes nothing, to the bit; nor does measuring it.
#[test]
fn teams() {
    let mut random = Random::new(11);
    for (form, suffixes) in [(Form::F32, &["q4", "bf16"][..]), (Form::Int8, &["q4", "q3"][..])] {
        let formats: Vec<_> = suffixes.iter().map(|suffix| random.one_of(&formats(suffix))).collect();
        let steps = [1, 3, 1];
        let mut trial = products(&formats, 12, &steps, 1 << 14, form);
        trial.logits = LogitRows::All;
        trial.same_with_any_team(3);
    }
}
