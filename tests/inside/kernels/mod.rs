//! Every kernel on the GPU against its CPU twin, on random odd shapes: see [`trial`] for what is compared.
//!
//! Tolerances are `atol + rtol * |expected|`. Activations and sums are f32 whatever the format of the weights, so they
//! are a few units of 2^-24 of the largest partial sum, and where `exp` is involved of what Vulkan allows it:
//! 3 + 2 |x| units in the last place.
//!
//! `PROPTEST_CASES=1000 cargo test --release --lib kernels::` tries more than the few cases of a normal run.
#![allow(clippy::unwrap_used, reason = "tests")]

mod attention;
mod attention_operands;
mod combine;
mod delta_net;
mod expert_down;
mod experts;
mod logits_top_k;
mod matmul;
mod matmul_norm;
mod matrix_units;
pub(super) mod msl;
mod norms;
pub(super) mod random;
mod router;
mod stream_read;
mod swiglu;
mod tolerance;
mod trial;
mod unpack;
mod wrong;

/// So many cases a property, unless `PROPTEST_CASES` says otherwise.
fn cases(cases: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    proptest::test_runner::Config { cases: if asked { config.cases } else { cases }, ..config }
}
