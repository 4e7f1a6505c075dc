//! `swiglu`.

use crate::compute::ops::Swiglu;
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::Trial;

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn swiglu(
        seed in any::<u64>(),
        width in 1usize..1500,
        bits in prop::option::of(prop::sample::select(vec![2, 3, 4, 8])),
        steps in prop::collection::vec(1usize..40, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let width = if bits.is_some() { width.next_multiple_of(32) } else { width };
        let (before, after) = (trial.random.below(4), trial.random.below(4));
        let fill = |random: &mut Random, row: &mut [f32]| row.fill_with(|| random.uniform(-9.0, 9.0));
        let gate_up = trial.filled(1, before + 2 * width + after, fill).columns(before, 2 * width);
        let out = match bits {
            Some(bits) => trial.inner(1, width, WeightFormat::affine(bits, 64)),
            None => trial.tensor(1, width).into(),
        };
        trial.push(Swiglu { gate_up, out });
        trial.within(out.view(), 1e-6, 1e-5);
        trial.check(&steps)?;
    }
}
