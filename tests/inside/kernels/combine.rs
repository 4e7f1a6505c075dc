//! `combine` and `combine_norm`.

use crate::compute::ops::{Combine, CombineNorm};
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::trial::Trial;

/// The shared expert of a layer.
#[derive(Clone, Copy, Debug)]
enum Shared {
    No,
    AsItIs,
    Gated,
}

fn shared() -> impl Strategy<Value = Shared> {
    prop::sample::select(vec![Shared::No, Shared::AsItIs, Shared::Gated])
}

/// Operands for `top_k` experts a token.
fn operands(trial: &mut Trial, width: usize, top_k: usize, shared: Shared) -> Combine {
    let (x, routed, weights) = (trial.tensor(1, width), trial.tensor(top_k, width), trial.tensor(1, top_k));
    let shared = match shared {
        Shared::No => None,
        Shared::AsItIs => Some((trial.tensor(1, width), None)),
        Shared::Gated => Some((trial.tensor(1, width), Some(trial.columns(1, 1)))),
    };
    Combine { x, routed, weights, shared }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn combine_norm(
        seed in any::<u64>(),
        (quarter, top_k) in (1usize..400, 1usize..33),
        (shared, few_threads) in (shared(), any::<bool>()),
        bits in prop::option::of(prop::sample::select(vec![2, 3, 4, 8])),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        let width = 4 * if bits.is_some() { quarter.next_multiple_of(8) } else { quarter };
        let Combine { x, routed, weights, shared } = operands(&mut trial, width, top_k, shared);
        let (norm, out) = (trial.vector(width, -2.0, 2.0), trial.tensor(1, width));
        let packed = bits.and_then(|bits| trial.inner(1, width, WeightFormat::affine(bits, 64)).packed());
        trial.push(CombineNorm { x, routed, weights, shared, norm, out, packed, eps: 1e-6, unscaled: None, down: None });
        // up to 34 terms around 1; a narrow row of small numbers is made large by the norm
        trial.within(x, 4e-6, 1e-6);
        trial.within(out, 2e-5, 1e-5);
        // a rounded code may be the next one
        packed.iter().for_each(|packed| trial.within(packed.words, 2e-5, 1e-5));
        trial.check(&steps)?;
    }

    #[test]
    fn combine(
        seed in any::<u64>(),
        (quarter, top_k) in (1usize..400, 1usize..33),
        shared in shared(),
        steps in prop::collection::vec(1usize..40, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let op = operands(&mut trial, 4 * quarter, top_k, shared);
        trial.within(op.x, 4e-6, 1e-6);
        trial.push(op);
        trial.check(&steps)?;
    }

    /// With the norm or without it the sum has the same bits: their difference is 0 on every device.
    #[test]
    fn combine_is_combine_norm_without_the_norm(
        seed in any::<u64>(),
        (quarter, top_k) in (1usize..400, 1usize..33),
        shared in shared(),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let width = 4 * quarter;
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let Combine { x, routed, weights, shared } = operands(&mut trial, width, top_k, shared);
        let [other, one, minus_one] = [(width, 0.0), (1, 1.0), (1, -1.0)]
            .map(|(width, value)| trial.filled(1, width, move |_, row| row.fill(value)));
        // the numbers of `x` once more
        trial.push(Combine { x: other, routed: x, weights: one, shared: None });
        let (norm, out) = (trial.vector(width, -2.0, 2.0), trial.tensor(1, width));
        trial.push(CombineNorm { x, routed, weights, shared, norm, out, packed: None, eps: 1e-6, unscaled: None, down: None });
        trial.push(Combine { x: other, routed, weights, shared });
        trial.push(Combine { x: other, routed: x, weights: minus_one, shared: None });
        trial.within(x, 4e-6, 1e-6);
        trial.within(out, 2e-5, 1e-5);
        trial.check(&steps)?;
    }
}
