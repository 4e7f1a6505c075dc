//! `delta_net`: what carries state from step to step.

use flashflood::compute::ops::{DeltaNet, conv_inputs, head_channels};
use flashflood::model::config::LinearConfig;
use proptest::prelude::*;

use crate::cases;
use crate::random::Random;
use crate::trial::Trial;

proptest! {
    #![proptest_config(cases(12))]

    /// Steps shorter than the taps keep some of the old inputs; workgroups of 256 threads hold less in registers.
    #[test]
    fn delta_net(
        seed in any::<u64>(),
        (key_heads, values_per_key) in (1usize..3, 1usize..4),
        (key_dim, value_dim) in (dim(), dim()),
        conv_kernel in 2usize..9,
        steps in prop::collection::vec(1usize..12, 1..4),
        few_threads in any::<bool>(),
    ) {
        let value_heads = key_heads * values_per_key;
        let shape = LinearConfig { key_heads, value_heads, key_dim, value_dim, conv_kernel };
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        trial.threads = if few_threads { 256 } else { u32::MAX };
        // everything lies in one tensor, as one projection writes it
        let widths = [shape.channels(), value_heads * value_dim, value_heads, value_heads];
        let before = trial.random.below(4);
        let fill = move |random: &mut Random, row: &mut [f32]| {
            let (qkvz, gates) = row.split_at_mut(before + widths[0] + widths[1]);
            qkvz.fill_with(|| random.uniform(-2.0, 2.0));
            gates.fill_with(|| random.uniform(-6.0, 6.0));
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
        let conv = trial.state(value_heads * (conv_kernel - 1), head_channels(&shape), 1.0);
        let state = trial.state(value_heads * key_dim, value_dim, 1.0);
        let out = trial.tensor(1, value_heads * value_dim);
        let eps = 1e-6;
        trial.push(DeltaNet { qkv, z, b, a, weight, a_log, dt_bias, norm, conv, state, out, shape, eps });
        // keys have length 1, so errors in the state do not grow from token to token
        trial.within(state, 1e-5, 2e-5);
        // a head whose outputs are all small is made large by the norm, and its errors with it
        trial.within(out, 1e-4, 1e-4);
        trial.check(&steps)?;
    }
}

/// Below, at and above what one thread holds, and what a workgroup of 256 threads does.
fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..40, Just(64), Just(128), 129usize..=256]
}

/// Every channel's inputs come back in their order, those of key heads from any of the copies.
#[test]
fn conv_inputs_of_all_channels() {
    let shape = LinearConfig { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 2, conv_kernel: 3 };
    let channels = shape.channels();
    let value = |age: usize, channel: usize| (age * 100 + channel) as f32;
    let mut kept = Vec::new();
    for head in 0..4 {
        for age in 0..2 {
            let (q, k, v) = (head / 2 * 3, 6 + head / 2 * 3, 12 + head * 2);
            kept.extend((q..q + 3).chain(k..k + 3).chain(v..v + 2).map(|channel| value(age, channel)));
        }
    }
    let expected: Vec<f32> = (0..2).flat_map(|age| (0..channels).map(move |c| value(age, c))).collect();
    assert_eq!(conv_inputs(&shape, &kept), expected);
}
