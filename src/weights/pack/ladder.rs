//! What packs of a model read for a token: the steps from 4 bits down to 2.

use serde::Serialize;

use super::convert::target;
use crate::weights::layout::{ExpertLayout, SlotLayout};

/// Columns of a group, as [`PackOptions`](super::PackOptions) have it.
const GROUP: u16 = 64;

/// A step: how experts may be packed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LadderStep {
    /// As `--bits` of `flashflood pack` takes it.
    pub name: &'static str,
    /// Bits of a weight, scales and biases among them.
    pub bits_per_weight: f64,
    /// Bytes of the largest expert.
    pub expert_bytes: u64,
    /// Bytes of a token's experts.
    pub token_bytes: u64,
    /// Bytes of all experts.
    pub bytes: u64,
}

/// The names of steps, with the bits of gate and up, and of down.
pub const STEPS: [(&str, u8, u8); 4] = [("q4", 4, 4), ("q3", 3, 3), ("q223", 2, 3), ("q2", 2, 2)];

/// The steps for a model's experts, largest first; none where packs leave all of them as they are.
pub fn ladder(experts: &ExpertLayout) -> Vec<LadderStep> {
    let step = |(name, bits, down_bits)| {
        let mut step = LadderStep { name, bits_per_weight: 0.0, expert_bytes: 0, token_bytes: 0, bytes: 0 };
        let mut weights = 0;
        for layer in &experts.layers {
            let SlotLayout { gate, up, down, .. } = &layer.slot;
            let all = [(gate, bits), (up, bits), (down, down_bits)];
            let formats = all.map(|(from, bits)| target(from.format, from.cols, bits, GROUP));
            let bytes = SlotLayout::new(gate.cols, down.cols, formats).bytes as u64;
            step.expert_bytes = step.expert_bytes.max(bytes);
            step.token_bytes += bytes * layer.top_k as u64;
            step.bytes += bytes * layer.experts as u64;
            weights += all.iter().map(|(place, _)| (place.rows * place.cols * layer.experts) as u64).sum::<u64>();
        }
        step.bits_per_weight = step.bytes as f64 * 8.0 / weights.max(1) as f64;
        step
    };
    let steps: Vec<LadderStep> = STEPS.into_iter().map(step).collect();
    let changes = steps.windows(2).any(|pair| pair[0].bytes != pair[1].bytes);
    if changes { steps } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::weights::{LayerExperts, WeightFormat};

    fn layout(format: WeightFormat) -> ExpertLayout {
        let slot = SlotLayout::new(4096, 1024, [format; 3]);
        let layer = LayerExperts { experts: 512, top_k: 10, slot, parts: vec![], rewritten: vec![], checksums: None };
        ExpertLayout { files: Vec::new(), layers: vec![layer; 60] }
    }

    #[test]
    fn steps_are_what_packs_of_them_hold() {
        let steps = ladder(&layout(WeightFormat::Bf16));
        let bits: Vec<f64> = steps.iter().map(|step| (step.bits_per_weight * 100.0).round() / 100.0).collect();
        assert_eq!(bits, [4.5, 3.5, 2.83, 2.5]);
        assert_eq!(steps[0].expert_bytes, 7_077_888);
        assert_eq!(steps[2].token_bytes, 60 * 10 * steps[2].expert_bytes);
        assert!(ladder(&layout(WeightFormat::from_ggml(12).unwrap())).is_empty());
        assert!(ladder(&ExpertLayout::default()).is_empty());
    }
}
