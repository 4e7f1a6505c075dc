//! `delta_net`: what carries state from step to step.

use crate::compute::ops::{DeltaNet, DeltaNetShape, conv_inputs, head_channels};
use crate::weights::WeightFormat;
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::Trial;

/// A layer whose β and decays are what they may be: near nothing, near everything, and between.
fn delta_net_layer(seed: u64, shape: DeltaNetShape, max_tokens: usize) -> Trial {
    let DeltaNetShape { value_heads, key_dim, value_dim, conv_kernel, .. } = shape;
    let mut trial = Trial::new(seed, max_tokens);
    // everything lies in one tensor, as one projection writes it
    let widths = [shape.channels(), value_heads * value_dim, value_heads, value_heads];
    let before = trial.random.below(4);
    let fill = move |random: &mut Random, row: &mut [f32]| {
        let (qkvz, gates) = row.split_at_mut(before + widths[0] + widths[1]);
        qkvz.fill_with(|| random.uniform(-2.0, 2.0));
        gates.fill_with(|| match random.below(6) {
            0 => random.one_of(&[-60.0, -30.0, 30.0, 60.0]),
            _ => random.uniform(-6.0, 6.0),
        });
    };
    let whole = trial.filled(1, before + widths.iter().sum::<usize>() + 3, fill);
    let mut at = before;
    let [qkv, z, b, a] = widths.map(|width| {
        at += width;
        whole.columns(at - width, width)
    });
    let weight = trial.vector(shape.channels() * conv_kernel, -1.0, 1.0);
    let (a_log, dt_bias) = (trial.vector(value_heads, -3.0, 2.5), trial.vector(value_heads, -5.0, 2.0));
    let norm = trial.vector(value_dim, -2.0, 2.0);
    // value heads that share a key head have copies of its inputs
    let of_keys = trial.random.floats(2 * key_dim, -1.0, 1.0);
    let conv = trial.filled_state(value_heads * (conv_kernel - 1), head_channels(&shape), move |random, row| {
        row.fill_with(|| random.uniform(-1.0, 1.0));
        row[..of_keys.len()].copy_from_slice(&of_keys);
    });
    let state = trial.state(value_heads * key_dim, value_dim, 1.0);
    let packs = value_dim % 32 == 0 && trial.random.below(2) == 0;
    let format = WeightFormat::affine(trial.random.one_of(&[2, 3, 4, 8]), 64);
    let width = value_heads * value_dim;
    let out = if packs { trial.inner(1, width, format) } else { trial.tensor(1, width).into() };
    let eps = 1e-6;
    trial.push(DeltaNet { qkv, z, b, a, weight, a_log, dt_bias, norm, conv, state, out, shape, eps });
    // keys have length 1, so errors in the state do not grow from token to token. Nor do they in a chunk: with beta and all
    // decays at most 1 an entry of (I + A)^-1 is what contractions leave of one key along another, at most 1 as well, so
    // the sums over 32 tokens have errors of a few units of 2^-24 of what they add up
    trial.within(state, 1e-5, 2e-5);
    // a head whose outputs are all small is made large by the norm, and its errors with it
    trial.within(out.view(), 1e-4, 1e-4);
    // chunks begin with the step
    trial.same_however_cut = false;
    trial
}

proptest! {
    #![proptest_config(cases(8))]

    /// Steps shorter than the taps keep some of the old inputs; workgroups of 256 threads hold less in registers.
    #[test]
    fn delta_net(
        seed in any::<u64>(),
        (key_heads, values_per_key) in (1usize..3, 1usize..4),
        (key_dim, value_dim) in (dim(), dim()),
        conv_kernel in 2usize..9,
        steps in prop::collection::vec(1usize..12, 1..4),
        few_threads in any::<bool>(),
        in_turn in any::<bool>(),
    ) {
        let value_heads = key_heads * values_per_key;
        let shape = DeltaNetShape { key_heads, value_heads, key_dim, value_dim, conv_kernel, in_turn };
        let mut trial = delta_net_layer(seed, shape, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        trial.check(&steps)?;
    }
}

proptest! {
    #![proptest_config(cases(3))]

    /// Steps of several chunks of 32 tokens, then of parts of one. Cut at multiples of 32 the prompt has the same bits, also
    /// where scratch holds one chunk at a time.
    #[test]
    fn delta_net_over_chunks(
        seed in any::<u64>(),
        (key_heads, values_per_key) in (1usize..3, 1usize..4),
        (key_dim, value_dim) in prop_oneof![(1usize..40, 1usize..40), (Just(128), Just(128)), (129usize..256, 1usize..40)],
        (chunks, more) in (2usize..5, 1usize..32),
        one_at_a_time in any::<bool>(),
        in_turn in any::<bool>(),
    ) {
        let value_heads = key_heads * values_per_key;
        let shape = DeltaNetShape { key_heads, value_heads, key_dim, value_dim, conv_kernel: 4, in_turn };
        let mut trial = delta_net_layer(seed, shape, chunks * 32 + more);
        if one_at_a_time {
            trial.binding = 256;
        }
        trial.same_however_cut = true;
        let tokens = [chunks * 32, 32 + more, 3];
        let cut = [vec![32; chunks + 1], vec![more, 3]].concat();
        trial.check_cut(&tokens, &cut)?;
    }
}

/// Below, at and above what one thread holds, and what a workgroup of 256 threads does.
fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..40, Just(64), Just(128), 129usize..=256]
}

/// Every channel's inputs come back in their order, those of key heads from any of the copies.
#[test]
fn conv_inputs_of_all_channels() {
    for in_turn in [false, true] {
        let shape = DeltaNetShape { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 2, conv_kernel: 3, in_turn };
        let channels = shape.channels();
        let value = |age: usize, channel: usize| (age * 100 + channel) as f32;
        let mut kept = Vec::new();
        for head in 0..4 {
            let key_head = if in_turn { head % 2 } else { head / 2 };
            for age in 0..2 {
                let (q, k, v) = (key_head * 3, 6 + key_head * 3, 12 + head * 2);
                kept.extend((q..q + 3).chain(k..k + 3).chain(v..v + 2).map(|channel| value(age, channel)));
            }
        }
        let expected: Vec<f32> = (0..2).flat_map(|age| (0..channels).map(move |c| value(age, c))).collect();
        assert_eq!(conv_inputs(&shape, &kept), expected);
    }
}
