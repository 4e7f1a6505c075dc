//! `router_top_k`: experts, their weights by every rule, and SwiGLU beside it. Slots are looked up in `oracle`.

use std::sync::Arc;

use crate::compute::cpu::CpuExecutor;
use crate::compute::ops::{Groups, RouterRule, RouterTopK, Scoring};
use crate::compute::{Recording, Step, VectorId};
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::Trial;

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
    let packs = trial.random.below(2) == 0;
    let shared = shared.map(|width| {
        let width = if packs { width.next_multiple_of(32) } else { width };
        let (before, after) = (trial.random.below(4), trial.random.below(4));
        let fill = |random: &mut Random, row: &mut [f32]| row.fill_with(|| random.uniform(-9.0, 9.0));
        let gate_up = trial.filled(1, before + 2 * width + after, fill).columns(before, 2 * width);
        let format = WeightFormat::affine(trial.random.one_of(&[2, 3, 4, 8]), 64);
        (gate_up, if packs { trial.inner(1, width, format) } else { trial.tensor(1, width).into() })
    });
    let rule = RouterRule::softmax(renormalise);
    trial.push(RouterTopK { layer: 0, logits, ids, weights, rule, shared });
    if let Some((_, hidden)) = shared {
        trial.within(hidden.view(), 1e-6, 1e-5);
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

/// A rule without its vector.
#[derive(Clone, Copy, Debug)]
struct Described {
    scoring: Scoring,
    corrected: bool,
    groups: Option<Groups>,
    renormalise: bool,
    scale: f32,
}

impl Described {
    fn with(self, correction: Option<VectorId>) -> RouterRule {
        let Described { scoring, groups, renormalise, scale, .. } = self;
        RouterRule { scoring, correction, groups, renormalise, scale }
    }

    /// About what scores are, and what corrects them: those of a softmax are small.
    fn size(self, experts: usize) -> f32 {
        match self.scoring {
            Scoring::Softmax => 2.0 / experts as f32,
            Scoring::Sigmoid => 0.5,
        }
    }

    /// Draws logits until rounding does not decide.
    fn fill(self, correction: &[f32], top_k: usize, random: &mut Random, row: &mut [f32]) {
        let most = if self.scoring == Scoring::Softmax { 2.0 } else { 4.0 };
        loop {
            row.fill_with(|| random.uniform(-most, most));
            if self.by_definition(correction, row, top_k).1 > f64::from(self.size(row.len())) * 4e-5 {
                return;
            }
        }
    }

    /// What a rule means, in f64 and without a sort: experts by rank with their weights, and how far the choice was from
    /// another one.
    fn by_definition(self, correction: &[f32], logits: &[f32], top_k: usize) -> (Vec<(usize, f64)>, f64) {
        let exponentials: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
        let all: f64 = exponentials.iter().sum();
        let scores: Vec<f64> = match self.scoring {
            Scoring::Softmax => exponentials.iter().map(|e| e / all).collect(),
            Scoring::Sigmoid => exponentials.iter().map(|e| e / (1.0 + e)).collect(),
        };
        let mut margin = f64::INFINITY;
        // takes the largest `count` of `values`
        let mut largest = |mut values: Vec<(usize, f64)>, count: usize| {
            let mut taken = Vec::new();
            for _ in 0..count {
                let (place, best) =
                    values.iter().copied().enumerate().fold((0, (0, f64::NEG_INFINITY)), |best, value| {
                        if value.1.1 > best.1.1 { value } else { best }
                    });
                values.swap_remove(place);
                let next = values.iter().map(|value| value.1).fold(f64::NEG_INFINITY, f64::max);
                margin = margin.min(best.1 - next);
                taken.push(best.0);
            }
            taken
        };
        let value = |e: usize| scores[e] + if self.corrected { f64::from(correction[e]) } else { 0.0 };
        let experts = logits.len();
        let mut looked_at: Vec<usize> = (0..experts).collect();
        if let Some(Groups { count, chosen }) = self.groups {
            let size = experts / count;
            let mut sum = |group: usize| -> f64 {
                let members = (group * size..(group + 1) * size).map(|e| (e, value(e))).collect();
                largest(members, 2).into_iter().map(value).sum()
            };
            let sums: Vec<(usize, f64)> = (0..count).map(&mut sum).enumerate().collect();
            let best = largest(sums, chosen);
            looked_at.retain(|e| best.contains(&(e / size)));
        }
        let chosen = largest(looked_at.into_iter().map(|e| (e, value(e))).collect(), top_k);
        let sum: f64 = chosen.iter().map(|&e| scores[e]).sum();
        let by = if self.renormalise { sum } else { 1.0 };
        (chosen.iter().map(|&e| (e, scores[e] / by * f64::from(self.scale))).collect(), margin)
    }
}

fn described(seed: u64, rule: Described, experts: usize, top_k: usize, tokens: usize) -> Trial {
    let mut trial = Trial::new(seed, tokens);
    let correction = trial.random.floats(experts, -rule.size(experts), rule.size(experts));
    let vector = rule.corrected.then(|| trial.this_vector(&correction));
    let logits = trial.filled(1, experts, move |random, row| rule.fill(&correction, top_k, random, row));
    let ids = trial.ids(top_k, |_, row| row.fill(f32::from_bits(u32::MAX)));
    let weights = trial.tensor(1, top_k);
    trial.push(RouterTopK { layer: 0, logits, ids, weights, rule: rule.with(vector), shared: None });
    trial.within(weights, 1e-7, 2e-5);
    trial
}

/// Rules with the experts and the top_k that they are for.
fn rules() -> impl Strategy<Value = (Described, usize, usize)> {
    // sizes of groups, groups, and how many are chosen
    let groups = prop_oneof![
        Just(None),
        (2usize..20, 1usize..33).prop_flat_map(|(size, count)| (Just(size), Just(count), 1..=count).prop_map(Some)),
    ];
    let scoring = prop::sample::select(vec![Scoring::Softmax, Scoring::Sigmoid]);
    (scoring, any::<bool>(), groups, 1usize..300, any::<bool>(), 0.5f32..3.0).prop_flat_map(
        |(scoring, corrected, groups, experts, renormalise, scale)| {
            let experts = groups.map_or(experts, |(size, count, _)| size * count);
            let eligible = groups.map_or(experts, |(size, _, chosen)| size * chosen);
            let groups = groups.map(|(_, count, chosen)| Groups { count, chosen });
            let rule = Described { scoring, corrected, groups, renormalise, scale };
            (Just(rule), Just(experts), 1..=eligible.min(16))
        },
    )
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn router_by_any_rule(
        seed in any::<u64>(),
        (rule, experts, top_k) in rules(),
        few_threads in any::<bool>(),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = described(seed, rule, experts, top_k, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        trial.check(&steps)?;
    }

    /// The twin does what the rule says.
    #[test]
    fn router_twin_by_definition(seed in any::<u64>(), (rule, experts, top_k) in rules()) {
        let mut random = Random::new(seed);
        let correction = random.floats(experts, -rule.size(experts), rule.size(experts));
        let mut recording = Recording::new(1);
        let vector = rule.corrected.then(|| recording.vector("correction", &correction));
        let logits = recording.tensor("logits", 1, experts);
        let (ids, weights) = (recording.ids("ids", top_k), recording.tensor("weights", 1, top_k));
        let op = RouterTopK { layer: 0, logits, ids, weights, rule: rule.with(vector), shared: None };
        recording.push("router", op).unwrap();
        let mut cpu = CpuExecutor::new(Arc::new(recording), 1, None);
        let mut row = vec![0.0; experts];
        rule.fill(&correction, top_k, &mut random, &mut row);
        cpu.write(logits.tensor, &row);
        cpu.run(Step::decode(0), &[], &[0.0; 4], None).unwrap();
        let (ids, weights) = (cpu.read(ids.tensor), cpu.read(weights.tensor));
        let (expected, _) = rule.by_definition(&correction, &row, top_k);
        for (k, (expert, weight)) in expected.into_iter().enumerate() {
            prop_assert_eq!(ids[k].to_bits() as usize, expert, "choice {}", k);
            prop_assert!((f64::from(weights[k]) - weight).abs() < 1e-5 * weight, "{} for {weight}", weights[k]);
        }
    }
}

/// Rules that cannot be.
#[test]
fn router_refuses_impossible_groups() {
    let mut recording = Recording::new(1);
    let (logits, ids, weights) = (recording.tensor("x", 1, 24), recording.ids("ids", 5), recording.tensor("w", 1, 5));
    let short = recording.vector("short", &[0.0; 23]);
    let plain = RouterRule::softmax(true);
    let groups = |count, chosen| RouterRule { groups: Some(Groups { count, chosen }), ..plain };
    let refused = [
        (RouterRule { correction: Some(short), ..plain }, "correction: expected 24, found 23"),
        (groups(0, 0), "groups: expected 1 or more of at most 32, found 0 of 0"),
        (groups(4, 5), "groups: expected 1 or more of at most 32, found 5 of 4"),
        (groups(7, 2), "experts beyond groups of one size: expected 0, found 3"),
        (groups(24, 8), "experts of a group: expected 2 or more, in 8 groups together 5 or more, found 1"),
        (groups(6, 1), "experts of a group: expected 2 or more, in 1 groups together 5 or more, found 4"),
    ];
    for (rule, message) in refused {
        let op = RouterTopK { layer: 0, logits, ids, weights, rule, shared: None };
        let error = recording.push("router", op).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
    }
    for rule in [plain, groups(6, 2), groups(2, 1), groups(1, 1)] {
        recording.push("router", RouterTopK { layer: 0, logits, ids, weights, rule, shared: None }).unwrap();
    }
}
