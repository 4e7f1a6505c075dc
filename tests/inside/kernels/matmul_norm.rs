//! `matmul_norm`, by `matvec_norm` for one token, and what is made of the halves of its norm: products and experts that scale.

use crate::compute::ops::{CombineNorm, Matmul, MatmulNorm, RmsNorm, RowsOf, Unscaled};
use crate::compute::shaders::Form;
use crate::compute::{LogitRows, View};
use crate::weights::WeightFormat;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::cases;
use super::matmul::atol;
use super::random::{Random, formats};
use super::trial::Trial;

/// The same norm, with room for its halves: its output, that in 8 bits where `order` says for which weights, and the sums.
pub(super) struct Halves {
    pub(super) norm: RmsNorm,
    pub(super) unscaled: Unscaled,
}

pub(super) fn halves(trial: &mut Trial, x: View, order: Option<WeightFormat>, atol: f32) -> Halves {
    let (weight, out) = (trial.vector(x.width, -2.0, 2.0), trial.tensor(1, x.width));
    let packed = order.and_then(|format| trial.inner(1, x.width, format).packed());
    let norm = RmsNorm { x, weight, out, packed, eps: 1e-6 };
    let unscaled = trial.unscaled(&norm);
    trial.within(out, 2.0 * atol, 1e-5);
    // a rounded code may be the next one
    packed.iter().for_each(|packed| trial.within(packed.words, 2.0 * atol, 2e-5));
    trial.within(unscaled.squares, 64.0 * atol, 1e-4);
    Halves { norm, unscaled }
}

/// Products that read them, with weights in f32 and in 4 bits.
fn readers(trial: &mut Trial, Halves { norm, unscaled }: &Halves, atol: f32) {
    let plain = (norm.out.into(), WeightFormat::F32);
    let packed = norm.packed.map(|packed| (packed.into(), WeightFormat::affine(4, 64)));
    for (x, format) in std::iter::once(plain).chain(packed) {
        let rows = 1 + trial.random.below(40);
        let (matrix, out) = (trial.matrix(format, rows, norm.out.width), trial.columns(rows, 1));
        let unscaled = Some(*unscaled);
        trial.push(Matmul { x, matrix, out, accumulate: false, exact: false, rows: RowsOf::Tokens, unscaled });
        // a value between two codes may get either: of 3 at most in steps of 1/127, times a norm of 2 and weights of 2
        let steps = if format == WeightFormat::F32 { 0.0 } else { 0.12 };
        trial.within(out, 16.0 * atol + steps, 1e-4);
    }
}

fn check(suffix: &str, seed: u64, steps: &[usize], form: Form) -> Result<(), TestCaseError> {
    let mut random = Random::new(seed);
    let format = random.one_of(&formats(suffix));
    // rows are those of a residual stream, and so whole groups of 32, or of 64 for the weights behind it
    let (rows, multiple) = (64 * (1 + random.below(3)), format.column_multiple());
    let cols = multiple * (1 + random.below((1100 / multiple).max(1)));
    product((seed, format, form), (rows, cols), random.coin(), steps)
}

/// A product of so many rows and columns, whose norm is packed or not.
pub(crate) fn product(
    (seed, format, form): (u64, WeightFormat, Form),
    (rows, cols): (usize, usize),
    packs: bool,
    steps: &[usize],
) -> Result<(), TestCaseError> {
    let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
    trial.logits = LogitRows::All;
    let order = packs.then_some(WeightFormat::affine(4, 64));
    // parts of a matrix are whole groups too
    trial.binding = trial.random.one_of(&[u64::MAX, (64 * format.matrix_bytes(1, cols) as u64 + 512).max(1 << 14)]);
    let matrix = trial.matrix(format, rows, cols);
    let (x, residual) = (trial.columns(cols, 4), trial.tensor(1, rows));
    let x = if form == Form::Int8 { trial.quantised(x, format) } else { x.into() };
    let atol = atol(cols);
    let halves = halves(&mut trial, residual, order, atol);
    let product =
        Matmul { x, matrix, out: residual, accumulate: true, exact: false, rows: RowsOf::Tokens, unscaled: None };
    trial.within(residual, atol, 1e-6);
    trial.push(MatmulNorm { product, norm: halves.norm.clone(), unscaled: halves.unscaled });
    readers(&mut trial, &halves, atol.max(1e-5));
    trial.check(steps)
}

macro_rules! each_format {
    ($form:expr, $($name:ident $suffix:literal)*) => {$(
        proptest! {
            #![proptest_config(cases(1))]
            #[test]
            fn $name(seed in any::<u64>(), steps in prop::collection::vec(1usize..6, 1..3)) {
                check($suffix, seed, &steps, $form)?;
            }
        }
    )*};
}
each_format! {
    Form::F32,
    matvec_norm_f32 "f32"
    matvec_norm_f16 "f16"
    matvec_norm_bf16 "bf16"
    matvec_norm_q2 "q2"
    matvec_norm_q3 "q3"
    matvec_norm_q4 "q4"
    matvec_norm_q5 "q5"
    matvec_norm_q6 "q6"
    matvec_norm_q8 "q8"
    matvec_norm_q4_0 "q4_0"
    matvec_norm_q4_1 "q4_1"
    matvec_norm_q5_0 "q5_0"
    matvec_norm_q5_1 "q5_1"
    matvec_norm_q8_0 "q8_0"
    matvec_norm_q2_k "q2_k"
    matvec_norm_q3_k "q3_k"
    matvec_norm_q4_k "q4_k"
    matvec_norm_q5_k "q5_k"
    matvec_norm_q6_k "q6_k"
    matvec_norm_iq2_xxs "iq2_xxs"
    matvec_norm_iq2_xs "iq2_xs"
    matvec_norm_iq3_xxs "iq3_xxs"
    matvec_norm_iq1_s "iq1_s"
    matvec_norm_iq4_nl "iq4_nl"
    matvec_norm_iq3_s "iq3_s"
    matvec_norm_iq2_s "iq2_s"
    matvec_norm_iq4_xs "iq4_xs"
    matvec_norm_iq1_m "iq1_m"
    matvec_norm_tq1_0 "tq1_0"
    matvec_norm_tq2_0 "tq2_0"
    matvec_norm_mxfp4 "mxfp4"
    matvec_norm_nvfp4 "nvfp4"
    matvec_norm_fp4 "fp4"
    matvec_norm_fp4_16 "fp4_16"
    matvec_norm_fp8 "fp8"
}
each_format! {
    Form::Int8,
    matvec_norm_int8_q2 "q2"
    matvec_norm_int8_q3 "q3"
    matvec_norm_int8_q4 "q4"
    matvec_norm_int8_q5 "q5"
    matvec_norm_int8_q6 "q6"
    matvec_norm_int8_q8 "q8"
    matvec_norm_int8_q4_0 "q4_0"
    matvec_norm_int8_q4_1 "q4_1"
    matvec_norm_int8_q5_0 "q5_0"
    matvec_norm_int8_q5_1 "q5_1"
    matvec_norm_int8_q8_0 "q8_0"
    matvec_norm_int8_q2_k "q2_k"
    matvec_norm_int8_q3_k "q3_k"
    matvec_norm_int8_q4_k "q4_k"
    matvec_norm_int8_q5_k "q5_k"
    matvec_norm_int8_q6_k "q6_k"
    matvec_norm_int8_iq2_xxs "iq2_xxs"
    matvec_norm_int8_iq2_xs "iq2_xs"
    matvec_norm_int8_iq3_xxs "iq3_xxs"
    matvec_norm_int8_iq1_s "iq1_s"
    matvec_norm_int8_iq4_nl "iq4_nl"
    matvec_norm_int8_iq3_s "iq3_s"
    matvec_norm_int8_iq2_s "iq2_s"
    matvec_norm_int8_iq4_xs "iq4_xs"
    matvec_norm_int8_iq1_m "iq1_m"
    matvec_norm_int8_tq1_0 "tq1_0"
    matvec_norm_int8_tq2_0 "tq2_0"
    matvec_norm_int8_mxfp4 "mxfp4"
    matvec_norm_int8_nvfp4 "nvfp4"
    matvec_norm_int8_fp4 "fp4"
    matvec_norm_int8_fp4_16 "fp4_16"
    matvec_norm_int8_fp8 "fp8"
}

proptest! {
    #![proptest_config(cases(8))]

    /// `combine_unscaled`.
    #[test]
    fn combine_unscaled(
        seed in any::<u64>(),
        (groups, top_k) in (1usize..40, 1usize..33),
        (has_shared, has_gate) in any::<(bool, bool)>(),
        packs in any::<bool>(),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        // whole groups of the weights that read it
        let width = 64 * groups;
        let (x, routed, weights) = (trial.tensor(1, width), trial.tensor(top_k, width), trial.tensor(1, top_k));
        let gate = has_gate.then(|| trial.columns(1, 1));
        let shared = has_shared.then(|| (trial.tensor(1, width), gate));
        let halves = halves(&mut trial, x, packs.then_some(WeightFormat::affine(4, 64)), 4e-6);
        let RmsNorm { weight: norm, out, packed, eps, .. } = halves.norm;
        let unscaled = Some(halves.unscaled);
        trial.push(CombineNorm { x, routed, weights, shared, norm, out, packed, eps, unscaled, down: None });
        // up to 34 terms around 1
        trial.within(x, 4e-6, 1e-6);
        readers(&mut trial, &halves, 2e-5);
        trial.check(&steps)?;
    }
}
