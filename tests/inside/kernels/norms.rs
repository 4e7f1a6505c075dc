//! `rms_norm`.

use crate::compute::View;
use crate::compute::ops::RmsNorm;
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::Trial;

/// Rows from so small that epsilon decides to so large that it does not matter.
fn any_size(random: &mut Random, row: &mut [f32]) {
    let size = 10f32.powf(random.uniform(-4.0, 2.0));
    row.fill_with(|| random.uniform(-size, size));
}

/// Whole vectors of 4: the kernel takes them at a time, and every width of a model is a multiple of 32.
fn any_columns(trial: &mut Trial, width: usize) -> View {
    let (before, after) = (4 * trial.random.below(4), trial.random.below(4));
    trial.filled(1, before + width + after, any_size).columns(before, width)
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn rms_norm(
        seed in any::<u64>(),
        quarter in 1usize..400,
        bits in prop::option::of(prop::sample::select(vec![2, 3, 4, 8])),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let width = 4 * if bits.is_some() { quarter.next_multiple_of(8) } else { quarter };
        let x = any_columns(&mut trial, width);
        let (weight, out) = (trial.vector(width, -2.0, 2.0), trial.columns(width, 4));
        let packed = bits.and_then(|bits| trial.inner(1, width, WeightFormat::affine(bits, 64)).packed());
        trial.push(RmsNorm { x, weight, out, packed, eps: 1e-6 });
        // a sum of squares has no cancellation
        trial.within(out, 1e-7, 3e-6);
        // a rounded code may be the next one
        packed.iter().for_each(|packed| trial.within(packed.words, 1e-6, 1e-5));
        trial.check(&steps)?;
    }
}
