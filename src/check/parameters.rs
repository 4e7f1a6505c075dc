//! What Rust hands to kernels against what their WGSL takes, for all that a check runs: parameters by name, order and
//! size, constants by name. No device is asked.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use super::caches;
use super::subject::{self, CheckedShape, FEW_TOKENS, FormatShapes, HISTORY, Subject, TOKENS};
use crate::compute::ops::{LogitsTopK, Tile};
use crate::compute::shaders::taken::Taken;
use crate::compute::shaders::{self, Form};
use crate::compute::{
    CacheId, Dispatch, ExpertSlab, LogitRows, MatrixId, MatrixPart, Phase, Recorded, Recording, ResidentLayout, Stage,
    Step, VectorId,
};
use crate::model::Published;
use crate::weights::WeightFormat;

/// Everything in few pieces and in memory: two windows of a cache, two parts of a matrix.
struct Pieces<'a> {
    recording: &'a Recording,
    cooperative: Option<Form>,
}

impl ResidentLayout for Pieces<'_> {
    fn matrix_parts(&self, _: MatrixId) -> &[MatrixPart] {
        const PART: MatrixPart = MatrixPart { first: 0, rows: 8, streams: [0, 4, 8] };
        &[PART, MatrixPart { first: 8, ..PART }]
    }
    fn matrix(&self, matrix: MatrixId) -> (usize, WeightFormat) {
        let matrix = &self.recording.matrices[matrix.0];
        (matrix.cols, matrix.format)
    }
    fn vector_offset(&self, _: VectorId) -> usize {
        0
    }
    fn cache_window(&self, _: CacheId) -> usize {
        HISTORY / 2 + TOKENS
    }
    fn cache_windows(&self, _: CacheId) -> usize {
        2
    }
    fn first_slot(&self, _: usize) -> usize {
        0
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
    fn cooperative(&self) -> Option<Form> {
        self.cooperative
    }
    fn expert_slab(&self, _: usize) -> Option<ExpertSlab> {
        // once in one slab, once in several
        self.cooperative.is_none().then_some(ExpertSlab { number: 0, slot_bytes: 1 << 20 })
    }
    fn cooperative_delta_net(&self) -> bool {
        self.cooperative == Some(Form::Int8)
    }
    fn cooperative_attention(&self) -> bool {
        self.cooperative == Some(Form::Int8)
    }
    fn deep_attention(&self) -> Option<usize> {
        self.cooperative.map(|_| HISTORY / 2)
    }
}

/// The shaders that were seen, and whose parameters were.
#[derive(Default)]
struct Held {
    taken: BTreeMap<&'static str, Taken>,
    with_params: BTreeSet<&'static str>,
}

impl Held {
    fn hold(&mut self, stages: &[Stage], dispatches: &[Dispatch]) {
        for stage in stages {
            let taken = self.taken.entry(stage.shader).or_insert_with(|| Taken::by(stage.shader));
            let given: BTreeSet<String> = stage.constants.iter().map(|(name, _)| (*name).to_owned()).collect();
            let unknown: Vec<_> = given.difference(&taken.constants).collect();
            assert!(unknown.is_empty(), "{}: constants that it does not have: {unknown:?}", stage.shader);
            assert_eq!(given.len(), stage.constants.len(), "{}: a constant is given twice", stage.shader);
        }
        for dispatch in dispatches {
            let shader = stages[dispatch.stage].shader;
            let taken = &self.taken[shader];
            assert_eq!(dispatch.immediates.names(), taken.params, "{shader}: parameters of Rust and of WGSL");
            assert_eq!(dispatch.immediates.bytes().len(), taken.bytes as usize, "{shader}: bytes of parameters");
            self.with_params.insert(shader);
        }
    }

    fn hold_all(&mut self, subject: &Subject, cooperative: Option<Form>) {
        let recording = &*subject.recording;
        let pieces = Pieces { recording, cooperative };
        let prompts = [TOKENS, FEW_TOKENS].map(|tokens| Step::prefill(tokens, HISTORY, LogitRows::Last));
        for recorded in &recording.steps {
            let mut dispatches = Vec::new();
            match recorded {
                Recorded::Kernel { kernel, .. } => {
                    kernel.dispatch(&pieces, &Step::decode(HISTORY), &mut dispatches);
                    for step in &prompts {
                        kernel.dispatch(&pieces, step, &mut dispatches);
                    }
                    self.hold(&kernel.stages(&pieces), &dispatches);
                }
                Recorded::Experts(op) => {
                    op.dispatch(&pieces, 0, 0, 2, op.slot.bytes, &mut dispatches);
                    for kind in 0..Tile::EXPERT.len() {
                        op.dispatch_tiles(cooperative, 0, kind, 0..2, op.slot.bytes, &mut dispatches);
                    }
                    for phase in [Phase::Decode, Phase::Prefill] {
                        op.join(phase, 0, 2, &mut dispatches);
                    }
                    // those of one product, and no others, run side by side
                    let product = |dispatch: &Dispatch| dispatch.stage % op.stages_of_a_phase();
                    for pair in dispatches.windows(2) {
                        assert_eq!(pair[1].beside, product(&pair[0]) == product(&pair[1]));
                    }
                    assert!(!dispatches[0].beside);
                    self.hold(&op.stages(&pieces, 1), &dispatches);
                }
                Recorded::Route(_) | Recorded::LayerDone(_) => {}
            }
        }
        if let Some(logits) = recording.logits {
            // three passes
            let op = LogitsTopK { top_k: 100, vocab: 60_000, offset: 0, temperature: 1.0 };
            self.hold(&LogitsTopK::stages(logits.tensor), &op.dispatches().0);
        }
    }
}

#[test]
fn rust_gives_what_wgsl_takes() {
    let default = Published::Qwen35A17b.shape().unwrap();
    let config = CheckedShape::cut(&default, &default, 512).unwrap().narrow();
    let shapes = FormatShapes { hidden: 512, rows: 64, intermediate: 256 };
    let mut held = Held::default();
    for subject in [
        subject::model(&config, 4, Form::F32).unwrap(),
        subject::model(&config, 4, Form::Int8).unwrap(),
        subject::formats(shapes, &[Form::F32, Form::Int8]).unwrap(),
        caches::formats(&config).unwrap(),
    ] {
        for cooperative in [None, Some(Form::F32), Some(Form::Int8)] {
            held.hold_all(&subject, cooperative);
        }
    }
    for shader in shaders::names() {
        let taken = held.taken.get(shader).unwrap_or_else(|| panic!("{shader} is no stage of what is run"));
        let is_held = taken.params.is_empty() || held.with_params.contains(shader);
        assert!(is_held, "the parameters of {shader} were not seen");
    }
}
