//! `expert_gate_up` and `expert_down` over slots, `expert_matmul_gate_up` and `expert_matmul_down` for many tokens.

use std::sync::Arc;

use crate::compute::Phase;
use crate::compute::ops::{Experts, GateUpApart, RouterRule, RouterTopK, Unscaled};
use crate::compute::shaders::Form;
use crate::weights::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout, WeightFormat};
use proptest::prelude::*;

use super::cases;
use super::random::{Random, formats};
use super::trial::{self, Trial};

/// The bytes of one expert. Gaps between sections hold ones: NaN as a scale.
fn record(random: &mut Random, slot: &SlotLayout) -> Vec<u8> {
    let mut bytes = vec![0xff; slot.bytes];
    for (_, matrix) in slot.matrices() {
        let sections = random.weights(matrix.format, matrix.rows, matrix.cols);
        for (at, section) in matrix.streams.into_iter().zip(sections) {
            bytes[at..at + section.len()].copy_from_slice(&section);
        }
    }
    bytes
}

/// Layers of `experts` experts with the formats of gate, up and down given for each.
pub(crate) fn layout(random: &mut Random, experts: usize, formats: &[[WeightFormat; 3]]) -> ExpertLayout {
    // all layers share the residual stream, so its width suits every format
    let widest = formats.iter().flat_map(|[gate, up, _]| [gate, up]).map(|format| format.column_multiple()).max();
    let widest = widest.unwrap().max(128);
    let hidden = widest * (1 + random.below(384 / widest));
    let (mut files, mut layers) = (Vec::new(), Vec::new());
    for &formats in formats {
        let multiple = formats[2].column_multiple();
        let intermediate = multiple * (1 + random.below(256 / multiple));
        let slot = SlotLayout::new(hidden, intermediate, formats);
        let bytes: Vec<u8> = (0..experts).flat_map(|_| record(random, &slot)).collect();
        let place = Place::Strided { file: files.len() as u32, base: 0, stride: slot.bytes as u64 };
        files.push(ExpertFile::Memory { name: "experts of a trial", bytes: bytes.into() });
        let parts = vec![Part { place, len: slot.bytes, at: 0 }];
        layers.push(LayerExperts { experts, top_k: 1, slot, parts, rewritten: Vec::new(), checksums: None });
    }
    ExpertLayout { files, layers }
}

/// All layers of a layout, each with its own random routing of the same activations.
pub(crate) fn routed(
    seed: u64,
    mut layout: ExpertLayout,
    top_k: usize,
    slots: usize,
    max_tokens: usize,
    form: Form,
) -> Trial {
    let mut trial = Trial::new(seed, max_tokens);
    layout.layers.iter_mut().for_each(|layer| layer.top_k = top_k);
    let (experts, hidden) = (layout.layers[0].experts, layout.layers[0].slot.gate.cols);
    let x = trial.filled(1, hidden, |random, row| row.fill_with(|| random.uniform(-0.25, 0.25)));
    for (layer, of_layer) in layout.layers.iter().enumerate() {
        let slot = of_layer.slot;
        let ids = trial.ids(top_k, move |random, row| {
            let chosen = random.distinct(top_k, experts);
            row.iter_mut().zip(chosen).for_each(|(id, expert)| *id = f32::from_bits(expert as u32));
        });
        let out = trial.tensor(top_k, hidden);
        let packed = |trial: &mut Trial, format| match form {
            Form::F32 => x.into(),
            Form::Int8 => trial.quantised(x, format),
        };
        let of_tokens = packed(&mut trial, slot.gate.format);
        let apart = slot.gate_up().is_none().then(|| {
            let products = trial.tensor(top_k, 2 * slot.down.cols);
            trial.within(products, 1e-5, 1e-5);
            GateUpApart { x: packed(&mut trial, slot.up.format), products }
        });
        let inner = match form {
            Form::F32 => trial.tensor(top_k, slot.down.cols).into(),
            Form::Int8 => trial.inner(top_k, slot.down.cols, slot.down.format),
        };
        let unscaled = (apart.is_none() && trial.random.coin()).then(|| {
            let sums = |random: &mut Random, row: &mut [f32]| row.fill_with(|| random.uniform(24.0, 72.0));
            Unscaled::of(trial.filled(1, hidden / 32, sums), 1e-6)
        });
        trial.push_experts(
            ids,
            Experts { layer, slot, x: of_tokens, apart, hidden: inner, out, unscaled, combined: false },
        );
        // the two projections are a few units wide, and the second takes the first one's errors along
        trial.within(inner.view(), 1e-5, 1e-5);
        // a hidden value between two codes may get either: of 5 at most in steps of 1/127, times weights of 3
        let steps = if inner.form() == Form::Int8 { 0.12 } else { 0.0 };
        trial.within(out, 1e-4 + steps, 1e-5);
    }
    trial.experts = Some(trial::Experts { layout: Arc::new(layout), slots, top_k });
    trial
}

/// Formats of a layer: in one of three gate and up are alike.
fn of_layer(random: &mut Random, all: &[WeightFormat]) -> [WeightFormat; 3] {
    let [gate, up, down] = [random.one_of(all), random.one_of(all), random.one_of(all)];
    [gate, if random.below(3) == 0 { gate } else { up }, down]
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
        let chosen: Vec<_> = (0..layers).map(|_| of_layer(&mut random, &all)).collect();
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
        let of = of_layer(&mut random, &all);
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
        let layout = layout(&mut random, 5, &[[format; 3]; 2]);
        routed(6, layout, 2, 10, 4, form).same_with_any_team(3);
    }
}

/// Gate and up of different formats: with activations of one order, of two, or of two forms; of few tokens and of many; and
/// of every kind of tile.
#[test]
fn gate_and_up_apart() {
    let mut random = Random::new(11);
    let layers = [["q4", "q8", "q4"], ["q4_k", "q5_k", "q6_k"], ["bf16", "q4", "q8_0"], ["iq4_nl", "f16", "f32"]];
    let layers = layers.map(|names| names.map(|name| random.one_of(&formats(name))));
    let orders = layers.map(|[gate, up, _]| [gate, up].map(WeightFormat::interleave));
    assert!(orders.iter().any(|[gate, up]| gate == up && gate.is_some()), "one order: {orders:?}");
    assert!(orders.iter().any(|[gate, up]| gate != up && gate.is_some() && up.is_some()), "two orders: {orders:?}");
    let layout = layout(&mut random, 4, &layers);
    assert!(layout.layers.iter().all(|layer| layer.slot.gate_up().is_none()));
    let slot = layout.slot_bytes().next_multiple_of(256) as u64;
    for form in [Form::F32, Form::Int8] {
        let mut trial = routed(12, layout.clone(), 2, 5, 4, form);
        trial.binding = 2 * slot;
        trial.check(&[4, 1]).unwrap();
        let mut trial = routed(13, layout.clone(), 1, 3, 81, form);
        trial.binding = 2 * slot;
        trial.check_cut(&[81], &[70, 11]).unwrap();
    }
    routed(14, layout, 2, 16, 4, Form::F32).same_with_any_team(3);
}

/// Layers with other numbers of experts, of a token, and of the router before them, and one whose gate and up differ:
/// streamed through few slots, and looked up by the router's kernel where every expert is resident.
#[test]
fn layers_that_differ() {
    let mut random = Random::new(9);
    let format = random.one_of(&formats("q4"));
    let apart = [format, random.one_of(&formats("q8")), format];
    let mut of_layers = layout(&mut random, 9, &[[format; 3], apart, [format; 3]]);
    for (layer, (experts, top_k)) in of_layers.layers.iter_mut().zip([(9, 3), (2, 1), (6, 4)]) {
        (layer.experts, layer.top_k) = (experts, top_k);
    }
    let slot = of_layers.slot_bytes().next_multiple_of(256) as u64;
    let in_slabs = [(4, false, 99), (10, false, 99), (17, false, 99), (17, true, 99), (17, true, 3)];
    for (slots, resident, slots_of_a_slab) in in_slabs {
        let mut trial = with_routers(3, of_layers.clone(), slots, 4);
        (trial.binding, trial.resident) = (slots_of_a_slab * slot, resident);
        let steps = [(Phase::Prefill, &[4, 2][..]), (Phase::Decode, &[1; 6])];
        same_on_gpu(&trial, steps).unwrap_or_else(|e| panic!("{slots} slots, {resident}, {slots_of_a_slab}: {e}"));
    }
}

/// Layers behind routers.
pub(crate) fn with_routers(seed: u64, layout: ExpertLayout, slots: usize, tokens: usize) -> Trial {
    let mut trial = Trial::new(seed, tokens);
    let hidden = layout.layers[0].slot.gate.cols;
    let x = trial.filled(1, hidden, |random, row| row.fill_with(|| random.uniform(-0.25, 0.25)));
    for (layer, of_layer) in layout.layers.iter().enumerate() {
        let logits = trial.tensor(1, of_layer.experts);
        let ids = trial.ids(of_layer.top_k, |_, row| row.fill(f32::from_bits(u32::MAX)));
        let weights = trial.tensor(1, of_layer.top_k);
        trial.within(weights, 1e-7, 1e-5);
        let rule = RouterRule::softmax(true);
        trial.push(RouterTopK { layer, logits, ids, weights, rule, shared: None });
        let (inner, out) =
            (trial.tensor(of_layer.top_k, of_layer.slot.down.cols), trial.tensor(of_layer.top_k, hidden));
        trial.within(inner, 1e-5, 1e-5);
        trial.within(out, 1e-4, 1e-5);
        let apart = of_layer.slot.gate_up().is_none().then(|| {
            let products = trial.tensor(of_layer.top_k, 2 * of_layer.slot.down.cols);
            trial.within(products, 1e-5, 1e-5);
            GateUpApart { x: x.into(), products }
        });
        let (slot, x, hidden) = (of_layer.slot, x.into(), inner.into());
        trial.push_experts(ids, Experts { layer, slot, x, apart, hidden, out, unscaled: None, combined: false });
    }
    let top_k = layout.layers.iter().map(|layer| layer.top_k).max().unwrap();
    trial.experts = Some(trial::Experts { layout: Arc::new(layout), slots, top_k });
    trial
}

fn same_on_gpu(trial: &Trial, steps: [(Phase, &[usize]); 2]) -> Result<(), String> {
    let (expected, found) = (trial.on_cpu(steps), trial.on_gpu(false, steps));
    expected.iter().zip(&found).try_for_each(|(expected, found)| trial.compare(expected, found, false))
}

proptest! {
    #![proptest_config(cases(3))]

    /// Prompts with all experts in memory, which are grouped by expert without the host: experts that many tokens chose and
    /// experts that none did, in one slab or several.
    #[test]
    fn looked_up_prompts(
        seed in any::<u64>(),
        (count, top_k) in (1usize..12).prop_flat_map(|count| (Just(count), 1..=count.min(6))),
        tokens in prop_oneof![1usize..40, 60usize..150],
        few in 1usize..20,
        slab in prop_oneof![1u64..4, Just(1 << 20)],
    ) {
        let mut random = Random::new(seed);
        let formats = [random.one_of(&formats("q4")); 3];
        let mut layout = layout(&mut random, count, &[formats]);
        layout.layers[0].top_k = top_k;
        let slot = layout.slot_bytes().next_multiple_of(256) as u64;
        let mut trial = with_routers(seed, layout, count, tokens + few);
        (trial.binding, trial.resident) = (slab * slot, true);
        trial.check_cut(&[tokens, few], &[tokens + few])?;
    }
}

/// More experts than a workgroup has threads, as many of a token as there may be, and tokens that are no whole slices.
#[test]
fn looked_up_among_many() {
    for (count, top_k, tokens) in [(300, 6, 70), (257, 32, 33)] {
        let mut random = Random::new(8);
        let mut layout = layout(&mut random, count, &[[formats("q4")[0]; 3]]);
        layout.layers[0].top_k = top_k;
        let mut trial = with_routers(9, layout, count, tokens);
        trial.resident = true;
        same_on_gpu(&trial, [(Phase::Prefill, &[tokens]), (Phase::Decode, &[1])]).unwrap();
    }
}

/// Each format once for gate and up and once for down.
#[test]
fn experts_in_every_format() {
    let mut random = Random::new(3);
    let mut names: Vec<&str> = formats("").iter().map(|format| format.suffix()).collect();
    names.dedup();
    let mut one = |name: &str| random.one_of(&formats(name));
    let formats_of = |i: usize| {
        let (gate_up, down) = (one(names[i]), one(names[(i + 4) % names.len()]));
        [gate_up, gate_up, down]
    };
    let chosen: Vec<_> = (0..names.len()).map(formats_of).collect();
    // slots are as large as the largest expert, so formats of few bits have a layout of their own
    for chosen in chosen.chunks(names.len().div_ceil(3)) {
        let layout = layout(&mut random, 5, chosen);
        for form in [Form::F32, Form::Int8] {
            routed(4, layout.clone(), 2, 3 * chosen.len(), 4, form).check(&[4, 1]).unwrap();
        }
    }
}
