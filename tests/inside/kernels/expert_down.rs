//! `expert_down_combine`: the last product of a token's experts and what combines them, where a layer is in one slab.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::compute::Phase;
use crate::compute::gpu::Landing;
use crate::compute::ops::{CombineNorm, ExpertDown, Experts, RmsNorm, RouterRule, RouterTopK};
use crate::weights::WeightFormat;

use super::cases;
use super::experts::layout;
use super::matmul_norm::{Halves, halves};
use super::msl;
use super::random::{Random, formats};
use super::trial::{self, Trial};

/// The shared expert of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    No,
    AsItIs,
    Gated,
}

/// A layer behind its router, all resident: what its token leaves on the residual stream, and half of the norm of that.
pub(super) fn layer(seed: u64, formats: [WeightFormat; 3], experts: usize, top_k: usize, shared: Shared) -> Trial {
    let mut layout = layout(&mut Random::new(seed), experts, &[formats]);
    layout.layers[0].top_k = top_k;
    let slot = layout.layers[0].slot;
    let (width, intermediate) = (slot.down.rows, slot.down.cols);
    let mut trial = Trial::new(seed, 4);
    let input = trial.filled(1, width, |random, row| row.fill_with(|| random.uniform(-0.25, 0.25)));
    let logits = trial.tensor(1, experts);
    let ids = trial.ids(top_k, |_, row| row.fill(f32::from_bits(u32::MAX)));
    let weights = trial.tensor(1, top_k);
    trial.within(weights, 1e-7, 1e-5);
    trial.push(RouterTopK { layer: 0, logits, ids, weights, rule: RouterRule::softmax(true), shared: None });
    let inner = trial.inner(top_k, intermediate, slot.down.format);
    trial.within(inner.view(), 1e-5, 1e-5);
    let hidden = inner.packed().expect("its weights are multiplied with 8 bits");
    let x = trial.quantised(input, slot.gate.format);
    let routed = trial.tensor(top_k, width);
    // where the kernel is taken nobody writes it
    trial.within(routed, f32::INFINITY, 0.0);
    let op = Experts { layer: 0, slot, x, apart: None, hidden: inner, out: routed, unscaled: None, combined: true };
    trial.push_experts(ids, op);
    let stream = trial.tensor(1, width);
    let shared = (shared != Shared::No).then(|| {
        let gate = (shared == Shared::Gated).then(|| trial.columns(1, 1));
        (trial.tensor(1, width), gate)
    });
    // a hidden value between two codes may get either: as in `experts`
    let atol = 0.12;
    trial.within(stream, atol, 1e-5);
    let order = trial.random.coin().then_some(WeightFormat::affine(4, 64));
    let Halves { norm: RmsNorm { weight, out, packed, eps, .. }, unscaled } = halves(&mut trial, stream, order, atol);
    let down = Some(ExpertDown { layer: 0, place: slot.down, hidden });
    let unscaled = Some(unscaled);
    trial.push(CombineNorm { x: stream, routed, weights, shared, norm: weight, out, packed, eps, unscaled, down });
    trial.experts = Some(trial::Experts { layout: Arc::new(layout), slots: experts, top_k });
    trial.resident = true;
    // slots that the host fills are in several slabs
    trial.landing = Some(Landing::Copied);
    trial
}

/// With the CPU, and to the bit with the two kernels that are one here, which slabs of their own for each expert get.
fn check(mut trial: Trial) -> Result<(), TestCaseError> {
    let slot = trial.experts.as_ref().unwrap().layout.slot_bytes().next_multiple_of(256) as u64;
    trial.check(&[1, 2])?;
    if msl::phase().is_some() {
        return Ok(());
    }
    let steps: [(Phase, &[usize]); 1] = [(Phase::Decode, &[1, 1, 1])];
    let [by_one] = trial.on_gpu(false, steps);
    trial.binding = slot;
    let [by_two] = trial.on_gpu(false, steps);
    trial.compare(&by_two, &by_one, true).map_err(|e| TestCaseError::fail(format!("one kernel and two: {e}")))
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn expert_down_combine(
        seed in any::<u64>(),
        (count, top_k) in (2usize..20).prop_flat_map(|count| (Just(count), 1..=count.min(12))),
        shared in prop::sample::select(vec![Shared::No, Shared::AsItIs, Shared::Gated]),
    ) {
        let mut random = Random::new(seed);
        let (gate_up, down) = (random.one_of(&formats("")), random.one_of(&with_integers()));
        check(layer(seed, [gate_up, gate_up, down], count, top_k, shared))?;
    }
}

/// Of every format.
#[test]
fn down_in_every_format() {
    let mut random = Random::new(7);
    let mut all = with_integers();
    all.dedup_by_key(|format| format.suffix());
    let gate_up = random.one_of(&formats("q4"));
    for down in all {
        let trial = layer(8, [gate_up, gate_up, down], 3, 3, Shared::Gated);
        if msl::phase().is_some() {
            trial.check(&[1]).unwrap();
            continue;
        }
        let steps: [(Phase, &[usize]); 1] = [(Phase::Decode, &[1])];
        let ([cpu], [gpu]) = (trial.on_cpu(steps), trial.on_gpu(false, steps));
        trial.compare(&cpu, &gpu, false).unwrap_or_else(|e| panic!("{}: {e}", down.suffix()));
    }
}

/// Formats whose weights are multiplied with 8 bits.
fn with_integers() -> Vec<WeightFormat> {
    formats("").into_iter().filter(|format| format.interleave().is_some()).collect()
}
