//! `router_top_k`: experts, their weights, and SwiGLU beside it. Slots are looked up in `tests/oracle`.

use flashflood::compute::ops::RouterTopK;
use proptest::prelude::*;

use crate::cases;
use crate::random::Random;
use crate::trial::Trial;

#[derive(Clone, Copy, Debug)]
enum Logits {
    /// No two alike.
    Any,
    /// Few values, so that many experts tie, at the last place as well.
    Ties,
    /// All the same.
    Equal,
    /// The ends of the range and both zeros, but one that is ordinary.
    Extreme,
    /// Damaged.
    NotNumbers,
}

const LOGITS: [Logits; 5] = [Logits::Any, Logits::Ties, Logits::Equal, Logits::Extreme, Logits::NotNumbers];

impl Logits {
    fn fill(self, random: &mut Random, row: &mut [f32]) {
        row.fill_with(|| match self {
            Logits::Any => random.uniform(-8.0, 8.0),
            Logits::Ties => random.below(4) as f32 - 2.0,
            Logits::Equal => 0.25,
            Logits::Extreme => random.one_of(&[f32::NEG_INFINITY, f32::MIN, -0.0, 0.0]),
            Logits::NotNumbers => random.one_of(&[f32::NAN, f32::NEG_INFINITY, f32::NAN, 0.0, 1.0]),
        });
        if let Logits::Extreme = self {
            row[random.below(row.len())] = 1.0;
        }
    }
}

fn router(seed: u64, logits: Logits, (experts, top_k): (usize, usize), shared: Option<usize>, tokens: usize) -> Trial {
    let mut trial = Trial::new(seed, tokens);
    let renormalise = trial.random.below(2) == 0;
    let (before, after) = (trial.random.below(3), trial.random.below(3));
    let whole = trial.filled(1, before + experts + after, move |random, row| {
        logits.fill(random, &mut row[before..before + experts]);
    });
    let not_numbers = matches!(logits, Logits::NotNumbers);
    let logits = whole.columns(before, experts);
    let ids = trial.ids(top_k, |_, row| row.fill(f32::from_bits(u32::MAX)));
    let weights = trial.tensor(1, top_k);
    let shared = shared.map(|width| {
        let (before, after) = (trial.random.below(4), trial.random.below(4));
        let fill = |random: &mut Random, row: &mut [f32]| row.fill_with(|| random.uniform(-9.0, 9.0));
        let gate_up = trial.filled(1, before + 2 * width + after, fill).columns(before, 2 * width);
        (gate_up, trial.tensor(1, width))
    });
    trial.push(RouterTopK { layer: 0, logits, ids, weights, renormalise, shared });
    if let Some((_, hidden)) = shared {
        trial.within(hidden, 1e-6, 1e-5);
    }
    // arithmetic with NaN and infinities is the driver's affair; which experts are chosen is not
    trial.within(weights, if not_numbers { f32::INFINITY } else { 1e-7 }, 1e-5);
    trial
}

fn experts() -> impl Strategy<Value = (usize, usize)> {
    let experts = prop_oneof![1usize..20, 100usize..300, Just(512), Just(1024)];
    experts.prop_flat_map(|experts| (Just(experts), 1..=experts.min(32)))
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn router_top_k(
        seed in any::<u64>(),
        logits in prop::sample::select(LOGITS.to_vec()),
        experts in experts(),
        shared in prop::option::of(1usize..700),
        few_threads in any::<bool>(),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = router(seed, logits, experts, shared, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        trial.check(&steps)?;
    }
}
