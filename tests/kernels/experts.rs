//! `expert_gate_up` and `expert_down` over slots, `expert_matmul_gate_up` and `expert_matmul_down` for many tokens, and
//! `combine_norm`.

use std::sync::Arc;

use flashflood::compute::ops::{CombineNorm, Experts};
use flashflood::compute::shaders::Form;
use flashflood::experts::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout};
use flashflood::formats::WeightFormat;
use proptest::prelude::*;

use crate::cases;
use crate::random::{Random, formats};
use crate::trial::{self, Trial};

/// The bytes of one expert. Gaps between sections hold ones: NaN as a scale.
fn record(random: &mut Random, slot: &SlotLayout) -> Vec<u8> {
    let mut bytes = vec![0xff; slot.bytes];
    for matrix in [&slot.gate_up, &slot.down] {
        let [codes, scales, biases] = random.weights(matrix.format, matrix.rows, matrix.cols);
        for (at, section) in [(matrix.codes, codes), (matrix.scales, scales), (matrix.biases, biases)] {
            bytes[at..at + section.len()].copy_from_slice(&section);
        }
    }
    bytes
}

/// Layers of `experts` experts with the formats of (gate and up, down) given for each.
pub(crate) fn layout(random: &mut Random, experts: usize, formats: &[(WeightFormat, WeightFormat)]) -> ExpertLayout {
    // all layers share the residual stream, so its width suits every format
    let hidden = 128 * (1 + random.below(3));
    let (mut files, mut layers) = (Vec::new(), Vec::new());
    for &(gate_up, down) in formats {
        let multiple = down.column_multiple();
        let intermediate = multiple * (1 + random.below(256 / multiple));
        let slot = SlotLayout::new(hidden, intermediate, gate_up, down);
        let bytes: Vec<u8> = (0..experts).flat_map(|_| record(random, &slot)).collect();
        let place = Place::Strided { file: files.len() as u32, base: 0, stride: slot.bytes as u64 };
        files.push(ExpertFile::Memory { name: "experts of a trial", bytes: bytes.into() });
        layers.push(LayerExperts { slot, parts: vec![Part { place, len: slot.bytes, at: 0 }], checksums: None });
    }
    ExpertLayout { files, experts, layers }
}

/// All layers of a layout, each with its own random routing of the same activations.
pub(crate) fn routed(
    seed: u64,
    layout: ExpertLayout,
    top_k: usize,
    slots: usize,
    max_tokens: usize,
    form: Form,
) -> Trial {
    let mut trial = Trial::new(seed, max_tokens);
    let (experts, hidden) = (layout.experts, layout.layers[0].slot.gate_up.cols);
    let x = trial.filled(1, hidden, |random, row| row.fill_with(|| random.uniform(-0.25, 0.25)));
    for (layer, of_layer) in layout.layers.iter().enumerate() {
        let slot = of_layer.slot;
        let ids = trial.ids(top_k, move |random, row| {
            let chosen = random.distinct(top_k, experts);
            row.iter_mut().zip(chosen).for_each(|(id, expert)| *id = f32::from_bits(expert as u32));
        });
        let out = trial.tensor(top_k, hidden);
        let (of_tokens, inner) = match form {
            Form::F32 => (x.into(), trial.tensor(top_k, slot.down.cols).into()),
            Form::Int8 => {
                (trial.quantised(x, slot.gate_up.format), trial.inner(top_k, slot.down.cols, slot.down.format))
            }
        };
        trial.push_experts(ids, Experts { layer, slot, x: of_tokens, hidden: inner, out });
        // the two projections are a few units wide, and the second takes the first one's errors along
        trial.within(inner.view(), 1e-5, 1e-5);
        // a hidden value between two codes may get either: of 5 at most in steps of 1/127, times weights of 1.5
        let steps = if inner.form() == Form::Int8 { 0.06 } else { 0.0 };
        trial.within(out, 1e-4 + steps, 1e-5);
    }
    trial.experts = Some(trial::Experts { layout: Arc::new(layout), slots, top_k });
    trial
}

proptest! {
    #![proptest_config(cases(4))]

    /// From barely enough slots for one token, shared by all layers, to one for every expert; and few or many in a slab.
    #[test]
    fn experts(
        seed in any::<u64>(),
        (count, top_k) in (1usize..14).prop_flat_map(|count| (Just(count), 1..=count.min(5))),
        layers in 1usize..4,
        extra in 0.0..1.0,
        form in prop::sample::select(vec![Form::F32, Form::Int8]),
        slab in prop_oneof![1u64..4, Just(1 << 20)],
        steps in prop::collection::vec(1usize..10, 1..4),
    ) {
        let mut random = Random::new(seed);
        let all = formats("");
        let chosen: Vec<_> = (0..layers).map(|_| (random.one_of(&all), random.one_of(&all))).collect();
        let layout = layout(&mut random, count, &chosen);
        let slot = layout.slot_bytes().next_multiple_of(256) as u64;
        let slots = top_k + ((layers * count - top_k) as f64 * extra) as usize;
        let mut trial = routed(seed, layout, top_k, slots, *steps.iter().max().unwrap(), form);
        trial.binding = slab * slot;
        trial.check(&steps)?;
    }
}

proptest! {
    #![proptest_config(cases(2))]

    /// Experts that many tokens chose and experts that few did: tiles of every size, full ones and others, in one slab
    /// or several, with prompts that are cut between them.
    #[test]
    fn expert_tiles(
        seed in any::<u64>(),
        (count, top_k) in (2usize..6).prop_flat_map(|count| (Just(count), 1..=count.min(3))),
        (many, few) in (40usize..150, 1usize..20),
        form in prop::sample::select(vec![Form::F32, Form::Int8]),
        (slab, slots) in (1u64..4, 0.0..1.0),
    ) {
        let mut random = Random::new(seed);
        let all = formats("");
        let of = (random.one_of(&all), random.one_of(&all));
        let layout = layout(&mut random, count, &[of]);
        let slot = layout.slot_bytes().next_multiple_of(256) as u64;
        let slots = top_k + ((count - top_k) as f64 * slots) as usize;
        let mut trial = routed(seed, layout, top_k, slots, many, form);
        trial.binding = slab * slot;
        trial.check_cut(&[many], &[many - few, few])?;
    }
}

/// How many threads experts are spread over changes nothing, to the bit; nor does measuring it.
#[test]
fn teams_of_experts() {
    let mut random = Random::new(5);
    for form in [Form::F32, Form::Int8] {
        let format = random.one_of(&formats("q4"));
        let layout = layout(&mut random, 5, &[(format, format); 2]);
        routed(6, layout, 2, 10, 4, form).same_with_any_team(3);
    }
}

/// Each format once for gate and up and once for down.
#[test]
fn experts_in_every_format() {
    let mut random = Random::new(3);
    let names = ["f32", "f16", "bf16", "q2", "q3", "q4", "q5", "q6", "q8"];
    let mut one = |name: &str| random.one_of(&formats(name));
    let chosen: Vec<_> = (0..names.len()).map(|i| (one(names[i]), one(names[(i + 4) % names.len()]))).collect();
    let layout = layout(&mut random, 5, &chosen);
    for form in [Form::F32, Form::Int8] {
        routed(4, layout.clone(), 2, 3 * names.len(), 4, form).check(&[4, 1]).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn combine_norm(
        seed in any::<u64>(),
        (quarter, top_k) in (1usize..400, 1usize..33),
        (with_shared, few_threads) in (any::<bool>(), any::<bool>()),
        bits in prop::option::of(prop::sample::select(vec![2, 3, 4, 8])),
        steps in prop::collection::vec(1usize..6, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        let width = 4 * if bits.is_some() { quarter.next_multiple_of(8) } else { quarter };
        let (x, routed, weights) = (trial.tensor(1, width), trial.tensor(top_k, width), trial.tensor(1, top_k));
        let shared = with_shared.then(|| (trial.tensor(1, width), trial.columns(1, 1)));
        let (norm, out) = (trial.vector(width, -2.0, 2.0), trial.tensor(1, width));
        let packed = bits.and_then(|bits| trial.inner(1, width, WeightFormat::affine(bits, 64)).packed());
        trial.push(CombineNorm { x, routed, weights, shared, norm, out, packed, eps: 1e-6 });
        // up to 34 terms around 1; a narrow row of small numbers is made large by the norm
        trial.within(x, 4e-6, 1e-6);
        trial.within(out, 2e-5, 1e-5);
        // a rounded code may be the next one
        packed.iter().for_each(|packed| trial.within(packed.words, 2e-5, 1e-5));
        trial.check(&steps)?;
    }
}
