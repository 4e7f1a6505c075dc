//! How many dispatches a layer of one token takes: on a fast GPU each costs a wait of 5 to 8 us for the one before,
//! whatever it does.

use crate::compute::shaders::Form;
use crate::compute::{
    CacheId, KvFormat, Lowering, MatrixId, MatrixPart, Recorded, Recording, ResidentLayout, Step, VectorId, lower,
};
use crate::model::{Mixer, ModelSource};
use crate::weights::WeightFormat;

use super::folder;

/// Everything in one piece and in memory. How large the pieces are does not matter here.
struct OnePiece;

impl ResidentLayout for OnePiece {
    fn matrix_parts(&self, _: MatrixId) -> &[MatrixPart] {
        &[MatrixPart { first: 0, rows: 1, streams: [0; 3] }]
    }
    fn matrix(&self, _: MatrixId) -> (usize, WeightFormat) {
        (4096, WeightFormat::Bf16)
    }
    fn vector_offset(&self, _: VectorId) -> usize {
        0
    }
    fn cache_window(&self, _: CacheId) -> usize {
        1 << 20
    }
    fn cache_windows(&self, _: CacheId) -> usize {
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
    fn first_slot(&self, _: usize) -> usize {
        0
    }
}

/// Dispatches of each layer for one token at `position`, and those outside of layers.
fn dispatches(recording: &Recording, layers: usize, position: usize) -> (Vec<usize>, usize) {
    let step = Step::decode(position);
    let (mut counts, mut outside) = (vec![0; layers], 0);
    for recorded in &recording.steps {
        let mut all = Vec::new();
        let layer = match recorded {
            Recorded::Kernel { label, kernel } => {
                kernel.dispatch(&OnePiece, &step, &mut all);
                // what only packs activations is counted for itself
                let of_layer = label.strip_prefix("layer.").filter(|rest| !rest.ends_with(".int8"));
                of_layer.map(|rest| rest.split('.').next().unwrap().parse::<usize>().unwrap())
            }
            // nothing is left of it when slots are looked up by the router's kernel
            Recorded::Route(_) | Recorded::LayerDone(_) => continue,
            Recorded::Experts(op) => {
                op.dispatch(&OnePiece, 0, 0, op.out.rows_per_token, 256, &mut all);
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

/// At most 11, whatever the length of the context; the first layer has its input norm on top.
///
/// Weights of two formats in one projection are two products: b and a, router and gate of a pack are not quantised.
#[test]
fn dispatches_of_one_token() {
    let snapshot = |name: &str| ModelSource::open(&folder(name)).unwrap();
    for (name, source, linear, full) in [
        ("tiny", snapshot("tiny"), 9, 10),
        ("mini_next", snapshot("mini_next"), 9, 10),
        ("mini_q3moe", snapshot("mini_q3moe"), 0, 9),
        ("tiny_mlx4", snapshot("tiny_mlx4"), 10, 11),
        ("a pack", ModelSource::embedded().unwrap(), 11, 11),
    ] {
        let layers = &source.shape.layers;
        for (form, position) in [(Form::F32, 10), (Form::F32, 5000), (Form::Int8, 10), (Form::Int8, 5000)] {
            // what is packed in 8 bits is packed by the kernel before
            let mut recording = source.recording().clone();
            recording.max_tokens = 8;
            let recording =
                lower(recording, Lowering { activations: form, look_ahead: false, unscaled: true, kv: KvFormat::F32 })
                    .unwrap();
            let (mut counts, outside) = dispatches(&recording, layers.len(), position);
            println!("{name}, {form:?} at {position}: {counts:?} and {outside}");
            counts[0] -= 1;
            for (i, (layer, &count)) in layers.iter().zip(&counts).enumerate() {
                let expected = match layer.mixer {
                    Mixer::DeltaNet(_) => linear,
                    // one split of the cache needs no merge
                    Mixer::Attention(_) => full - usize::from(position == 10),
                };
                assert!(count <= 11);
                assert_eq!(count, expected, "{name}, {form:?} at {position}, layer {i} ({layer:?})");
            }
            // a pack has two formats of quantised weights behind one norm, and the norm packs for one
            let packed = if form == Form::Int8 && name == "a pack" { layers.len() } else { 0 };
            assert_eq!(outside, 1 + packed, "{name}, {form:?}: the logits");
        }
        assert!(layers.iter().any(|layer| matches!(layer.mixer, Mixer::Attention(_))));
    }
}
