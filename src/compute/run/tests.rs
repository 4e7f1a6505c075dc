#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::compute::cpu::CpuExecutor;
use crate::compute::device::LandedExpert;
use crate::compute::ops::{Experts, LogitsTopK, RmsNorm, Route};
use crate::compute::recording::{CacheId, TensorId};
use crate::compute::step::TopLogits;
use crate::experts::{FileReader, HostSlots, SlotMemory};
use crate::weights::{ExpertFile, ExpertLayout, LayerExperts, Part, Place, SlotLayout, WeightFormat};

/// Writes down what it is asked for; its routers choose `choice`.
#[derive(Default)]
struct Log {
    asked: Vec<String>,
    choice: Vec<u32>,
    looks_up: bool,
}

impl Device for Log {
    fn name(&self) -> String {
        "log".to_owned()
    }

    fn begin(&mut self, _: &[f32], _: &[f32], marks: usize) {
        self.asked = vec![format!("begin with {marks} marks")];
    }

    fn run_kernel(&mut self, index: usize, _: &dyn Kernel, _: &Step, part: Option<Range<usize>>) {
        self.asked.push(part.map_or(format!("kernel {index}"), |part| format!("kernel {index} for {part:?}")));
    }

    fn keep_state(&mut self, mark: usize, tensors: &[TensorId]) {
        self.asked.push(format!("keep {} for mark {mark}", tensors.len()));
    }

    fn take_marked(&mut self) -> Result<Vec<Vec<Vec<f32>>>, ExecuteError> {
        Ok(Vec::new())
    }

    fn looks_up(&self) -> bool {
        self.looks_up
    }

    fn begin_choice(&mut self, _: View, guess: Option<View>, _: &Step) {
        self.asked.push(format!("begin choice{}", if guess.is_some() { " and guess" } else { "" }));
    }

    fn finish_choice(&mut self) -> Result<Choice, ExecuteError> {
        self.asked.push("finish choice".to_owned());
        Ok(Choice { ids: self.choice.clone(), guess: Vec::new() })
    }

    fn look_up_experts(&mut self, layer: &ExpertLayer<'_>) {
        self.asked.push(format!("look up layer {}", layer.op.layer));
    }

    fn run_experts(
        &mut self,
        _: &ExpertLayer<'_>,
        experts: &[LandedExpert<'_>],
        first_pair: usize,
        more: bool,
    ) -> Result<(), ExecuteError> {
        let more = if more { ", more to come" } else { "" };
        self.asked.push(format!("{} experts from pair {first_pair}{more}", experts.len()));
        Ok(())
    }

    fn free_slots(&mut self) -> Result<(), ExecuteError> {
        self.asked.push("free slots".to_owned());
        Ok(())
    }

    fn end(&mut self) -> Result<(), ExecuteError> {
        self.asked.push("end".to_owned());
        Ok(())
    }

    fn abandon(&mut self) {
        self.asked.push("abandon".to_owned());
    }

    fn read_rows(&mut self, tensors: &[(TensorId, usize)]) -> Result<Vec<Vec<f32>>, ExecuteError> {
        self.asked.push(format!("read {} tensors", tensors.len()));
        let ids: Vec<f32> = self.choice.iter().flat_map(|id| [f32::from_bits(*id), 0.0, 0.0, 0.0]).collect();
        Ok(vec![ids; tensors.len()])
    }

    fn write_rows(&mut self, _: TensorId, _: &[f32]) {}

    fn zero(&mut self, _: &[TensorId]) -> Result<(), ExecuteError> {
        Ok(())
    }

    fn read_cache_rows(&mut self, _: CacheId, _: usize, _: Range<usize>) -> Result<Vec<u8>, ExecuteError> {
        Ok(Vec::new())
    }

    fn write_cache_rows(&mut self, _: CacheId, _: usize, _: usize, _: &[u8]) {}

    fn top_logits(&mut self, _: TensorId, _: LogitsTopK) -> Result<TopLogits, ExecuteError> {
        Ok(Vec::new())
    }
}

/// A norm in each of two layers, the second with four experts after it of which a token uses one.
fn recording() -> (Arc<Recording>, ExpertLayout) {
    let mut r = Recording::new(8);
    let (x, out) = (r.tensor("x", 1, 32), r.tensor("out", 1, 32));
    let weight = r.vector("weight", &[1.0; 32]);
    let norm = || RmsNorm { x, weight, out, packed: None, eps: 1e-6 };
    r.push("layer.0.norm", norm()).unwrap();
    r.steps.push(Recorded::LayerDone(1));
    let ids = r.ids("ids", 1);
    let slot = SlotLayout::new(32, 32, [WeightFormat::F32; 3]);
    let (hidden, routed) = (r.tensor("hidden", 1, 32), r.tensor("routed", 1, 32));
    r.steps.push(Recorded::Route(Route { layer: 0, ids, ahead: None }));
    r.push("layer.1.norm", norm()).unwrap();
    let op = Experts {
        layer: 0,
        slot,
        x: x.into(),
        apart: None,
        hidden: hidden.into(),
        out: routed,
        unscaled: None,
        combined: false,
    };
    r.steps.extend([Recorded::Experts(Box::new(op)), Recorded::LayerDone(2)]);
    let place = Place::Strided { file: 0, base: 0, stride: slot.bytes as u64 };
    let parts = vec![Part { place, len: slot.bytes, at: 0 }];
    // zeros alone would be refused
    let bytes = vec![1; 4 * slot.bytes].into();
    let files = vec![ExpertFile::Memory { name: "experts", bytes }];
    let layers = vec![LayerExperts { experts: 4, top_k: 1, slot, parts, rewritten: Vec::new(), checksums: None }];
    (Arc::new(r), ExpertLayout { files, layers })
}

fn store(layout: &ExpertLayout, slots: usize) -> ExpertStore {
    let memory: Arc<dyn SlotMemory> = Arc::new(HostSlots::new(slots, layout.slot_bytes()).unwrap());
    let reader = Arc::new(FileReader::open(layout).unwrap());
    ExpertStore::new(Arc::new(layout.clone()), memory, reader, 1).unwrap()
}

#[test]
fn what_does_not_wait_for_the_choice_is_asked_for_first_and_experts_as_they_land() {
    let (recording, layout) = recording();
    let mut store = store(&layout, 4);
    let mut runner = Runner::of(recording, 8, Log { choice: vec![2], ..Log::default() });
    let mut run = |runner: &mut Runner<Log>| {
        runner.run(Step::decode(0), &[], &[], Some(&mut store)).unwrap();
        runner.device.asked.clone()
    };
    let before = ["begin with 0 marks", "kernel 0", "begin choice", "kernel 3", "finish choice"];
    let missed = ["0 experts from pair 0, more to come", "1 experts from pair 0", "end"];
    assert_eq!(run(&mut runner), [&before[..], &missed].concat());
    assert_eq!(runner.routing(), [[2]]);
    assert_eq!(run(&mut runner), [&before[..], &["1 experts from pair 0", "end"]].concat());
}

/// Six tokens need all experts, and there is room for two: windows of one, the next read while one is computed.
#[test]
fn windows_share_the_slots() {
    let (recording, layout) = recording();
    let mut store = store(&layout, 2);
    let mut runner = Runner::of(recording, 8, Log { choice: vec![3, 1, 1, 0, 2, 2], ..Log::default() });
    runner.run(Step::prefill(6, 0, LogitRows::None), &[], &[], Some(&mut store)).unwrap();
    let windows = ["0, more to come", "0", "free", "1, more to come", "1", "free", "3, more to come", "3", "free"];
    let windows = windows.into_iter().chain(["5, more to come", "5"]).enumerate();
    let expected = windows.map(|(n, window)| match window {
        "free" => "free slots".to_owned(),
        // nothing is there when a window begins, and its expert comes then
        _ => format!("{} experts from pair {window}", usize::from(n % 3 == 1)),
    });
    let expected: Vec<String> = expected.collect();
    let asked = &runner.device.asked;
    assert_eq!(asked[5..asked.len() - 1], expected);
    // nothing is held any more
    for expert in [[0, 1], [2, 3]] {
        store.acquire(0, &expert).unwrap();
    }
}

#[test]
fn experts_that_are_looked_up_need_no_choice() {
    let (recording, layout) = recording();
    let mut store = store(&layout, 4);
    let mut runner = Runner::of(recording, 8, Log { choice: vec![2], looks_up: true, ..Log::default() });
    runner.run(Step::decode(0), &[], &[], Some(&mut store)).unwrap();
    assert_eq!(runner.device.asked[1..], ["kernel 0", "kernel 3", "look up layer 0", "end"]);
    assert!(runner.routing().is_empty());
    runner.keep_routing();
    runner.run(Step::decode(1), &[], &[], Some(&mut store)).unwrap();
    assert_eq!(runner.device.asked[4..], ["read 1 tensors", "end"]);
    assert_eq!(runner.routing(), [[2]]);
    runner.device.choice = vec![7];
    let error = runner.run(Step::decode(2), &[], &[], Some(&mut store)).unwrap_err().to_string();
    assert!(error.starts_with("layer 1: the router chose expert 7, expected less than 4"), "{error}");
}

#[test]
fn a_router_that_chose_no_expert_ends_the_step() {
    let (recording, layout) = recording();
    let mut runner = Runner::of(recording, 8, Log { choice: vec![4], ..Log::default() });
    let error = runner.run(Step::decode(0), &[], &[], Some(&mut store(&layout, 4))).unwrap_err().to_string();
    assert!(error.starts_with("layer 1: the router chose expert 4"), "{error}");
    assert_eq!(runner.device.asked.last().unwrap(), "abandon");
}

/// Layers without experts count, a recording without experts needs no store, and a step ends where it is told to.
#[test]
fn every_layer_of_a_prompt_is_told() {
    let (recording, _) = recording();
    let mut dense = Recording::new(8);
    dense.tensors.clone_from(&recording.tensors);
    dense.steps.extend([1, 2, 3].map(Recorded::LayerDone));
    let mut runner = CpuExecutor::new(Arc::new(dense), 8, None);
    let mut told = Vec::new();
    let prompt = Step::prefill(2, 0, LogitRows::None);
    runner
        .run_watched(prompt, &[], &[], None, &mut |layers| {
            told.push(layers);
            true
        })
        .unwrap();
    assert_eq!(told, [1, 2, 3]);
    let outcome = runner.run_watched(prompt, &[], &[], None, &mut |layers| {
        told.push(layers);
        layers < 2
    });
    assert!(matches!(outcome, Err(ExecuteError::Interrupted)));
    assert_eq!(told, [1, 2, 3, 1, 2]);
    runner.run_watched(Step::decode(2), &[], &[], None, &mut |_| panic!("a token is not watched")).unwrap();
}
