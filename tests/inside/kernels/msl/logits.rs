//! `logits_top_k`, which is in no recording.

use std::sync::Arc;

use crate::compute::Recording;
use crate::compute::ops::LogitsTopK;

use super::Case;
use crate::inside::kernels::random::Random;
use crate::inside::kernels::trial::Device;

/// One pass, two and three; with ties.
#[test]
fn logits_top_k() {
    let Some(phase) = super::phase() else { return };
    for (width, top_k) in [(700, 5), (3000, 40), (60_000, 100)] {
        let mut random = Random::new(width as u64);
        let logits: Vec<f32> = (0..width).map(|_| random.uniform(-300.0, 300.0).round()).collect();
        let mut recording = Recording::new(1);
        let view = recording.tensor("logits", 1, width);
        let stages = LogitsTopK::stages(view.tensor);
        let case = Case::next(phase).unwrap();
        let mut device = case.device(Arc::new(recording), 1, None, (u64::MAX, u32::MAX));
        device.make_scratch(LogitsTopK::scratch_entries(width) * 8);
        device.write(view.tensor, &logits);
        let op = LogitsTopK { top_k, vocab: width, offset: 0, temperature: 1.0 };
        let (dispatches, scratch) = op.dispatches();
        device.dispatch(&stages, &dispatches);
        let found = device.read_scratch(scratch, 2 * top_k);
        if case.finish(device) {
            let found: Vec<(u32, f32)> = found.chunks_exact(2).map(|pair| (pair[1].to_bits(), pair[0])).collect();
            assert_eq!(found, op.on_cpu(&logits), "{top_k} of {width}");
        }
    }
}
