//! How many dispatches a layer of one token takes: on a fast GPU each costs a wait of 5 to 8 us for the one before,
//! whatever it does.

use flashflood::compute::{KvId, LogitRows, MatrixId, MatrixPart, Recorded, Recording, ResidentLayout, Step};
use flashflood::formats::WeightFormat;
use flashflood::model::{LayerKind, ModelSource, forward};

use crate::folder;

/// Everything in one piece and in memory. How large the pieces are does not matter here.
struct OnePiece;

impl ResidentLayout for OnePiece {
    fn matrix_parts(&self, _: MatrixId) -> &[MatrixPart] {
        &[MatrixPart { first: 0, rows: 1, codes: 0, scales: 0, biases: 0 }]
    }
    fn matrix(&self, _: MatrixId) -> (usize, WeightFormat) {
        (4096, WeightFormat::Bf16)
    }
    fn kv_window(&self, _: KvId) -> usize {
        1 << 20
    }
    fn kv_windows(&self, _: KvId) -> usize {
        1
    }
    fn scratch_bytes(&self) -> usize {
        16 << 20
    }
    fn threads(&self) -> usize {
        256
    }
    fn all_resident(&self) -> bool {
        true
    }
}

/// Dispatches of each layer for one token at `position`, and those outside of layers.
fn dispatches(recording: &Recording, layers: usize, position: usize) -> (Vec<usize>, usize) {
    let step = Step { tokens: 1, position, logits: LogitRows::Last };
    let (mut counts, mut outside) = (vec![0; layers], 0);
    for recorded in &recording.steps {
        let mut all = Vec::new();
        let layer = match recorded {
            Recorded::Kernel { label, kernel } => {
                kernel.dispatch(&OnePiece, &step, &mut all);
                label.strip_prefix("layer.").map(|rest| rest.split('.').next().unwrap().parse::<usize>().unwrap())
            }
            // nothing is left of it when slots are looked up by the router's kernel
            Recorded::Route(_) => continue,
            Recorded::Experts(op) => {
                op.dispatch(0, 0, op.out.rows_per_token, 256, &mut all);
                Some(op.layer)
            }
        };
        match layer {
            Some(layer) => counts[layer] += all.len(),
            None => outside += all.len(),
        }
    }
    (counts, outside)
}

/// At most 12. What comes on top: the first layer has its input norm to itself, a context of more than one split needs
/// a merge, and weights of two formats make two products of one (which do not wait for each other).
#[test]
fn dispatches_of_one_token() {
    for (name, formats) in [("tiny", 1), ("mini_next", 1), ("tiny_mlx4", 2), ("mini_q3moe", 1)] {
        let source = ModelSource::open(&folder(name)).unwrap();
        let recorded = forward::record(&source.config, &source.weights, &source.experts, 8, false).unwrap();
        let layers = &source.config.layers;
        for (position, merges) in [(10, 0), (5000, 1)] {
            let (counts, outside) = dispatches(&recorded.recording, layers.len(), position);
            println!("{name} at {position}: {counts:?} and {outside}");
            for (i, (kind, count)) in layers.iter().zip(&counts).enumerate() {
                let most = match kind {
                    LayerKind::LinearAttention => 9 + formats,
                    LayerKind::FullAttention => 10 + formats + merges,
                };
                let most = most + usize::from(i == 0);
                assert!((8..=most).contains(count), "{name} at {position}, layer {i} ({kind:?}): {count} dispatches");
            }
            assert_eq!(outside, 1, "{name}: the logits");
        }
        assert!(layers.contains(&LayerKind::FullAttention));
    }
}
