//! `conv_silu` and `delta_net`: what carries state from step to step.

use flashflood::compute::ops::{ConvSilu, DeltaNet};
use flashflood::model::config::LinearConfig;
use proptest::prelude::*;

use crate::cases;
use crate::trial::Trial;

proptest! {
    #![proptest_config(cases(8))]

    /// Steps shorter than the taps keep some of the old state.
    #[test]
    fn conv_silu(
        seed in any::<u64>(),
        taps in 2usize..9,
        channels in 1usize..200,
        steps in prop::collection::vec(1usize..12, 1..6),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let u = trial.columns(channels, 1);
        let (weight, state) = (trial.vector(channels * taps, -1.0, 1.0), trial.state(taps - 1, channels, 1.0));
        let out = trial.tensor(1, channels);
        trial.push(ConvSilu { u, weight, state, out, taps });
        trial.within(out, 2e-6, 1e-5);
        trial.check(&steps)?;
    }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn delta_net(
        seed in any::<u64>(),
        (key_heads, values_per_key) in (1usize..3, 1usize..4),
        (key_dim, value_dim) in (dim(), dim()),
        steps in prop::collection::vec(1usize..8, 1..4),
    ) {
        let value_heads = key_heads * values_per_key;
        let shape = LinearConfig { key_heads, value_heads, key_dim, value_dim, conv_kernel: 4 };
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let qkv = trial.tensor(1, shape.channels());
        let wide = |random: &mut crate::random::Random, row: &mut [f32]| row.fill_with(|| random.uniform(-6.0, 6.0));
        // decay and beta lie in one tensor, as one projection writes them
        let gates = trial.filled(1, 2 * value_heads + 3, wide);
        let (b, a) = (gates.columns(1, value_heads), gates.columns(value_heads + 2, value_heads));
        let (a_log, dt_bias) = (trial.vector(value_heads, -3.0, 2.5), trial.vector(value_heads, -5.0, 2.0));
        let state = trial.state(value_heads * key_dim, value_dim, 1.0);
        let out = trial.tensor(1, value_heads * value_dim);
        trial.push(DeltaNet { qkv, a, b, a_log, dt_bias, state, out, shape });
        // keys have length 1, so errors in the state do not grow from token to token
        trial.within(out, 5e-6, 1e-5);
        trial.within(state, 5e-6, 1e-5);
        trial.check(&steps)?;
    }
}

/// Below, at and above what one thread per column covers.
fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..40, Just(64), Just(128), 129usize..=256]
}
