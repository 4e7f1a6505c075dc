//! `stream_read`.

use crate::compute::gpu::bandwidth;
use crate::compute::ops::StreamRead;
use proptest::prelude::*;

use super::cases;
use super::trial::{Trial, gpu};

proptest! {
    #![proptest_config(cases(6))]

    /// Below, at and above what workgroups take.
    #[test]
    fn stream_read(
        seed in any::<u64>(),
        quarter in prop_oneof![1usize..300, 2040usize..2060, 1usize..9000],
        steps in prop::collection::vec(1usize..4, 1..3),
    ) {
        let mut trial = Trial::new(seed, *steps.iter().max().unwrap());
        let x = trial.tensor(1, 4 * quarter);
        let out = trial.ids(StreamRead::columns(4 * quarter), |_, row| row.fill(f32::from_bits(u32::MAX)));
        trial.push(StreamRead { x, out });
        trial.check(&steps)?;
    }
}

/// Every device has a speed, and none reads a petabyte a second.
#[test]
fn bandwidth_is_a_speed() {
    let speed = bandwidth(&gpu()).unwrap().expect("the software driver has timestamps");
    assert!((1e6..1e15).contains(&speed), "{speed} bytes/s");
}
