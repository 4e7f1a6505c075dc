//! The plain recording, as the family wrote it, and the lowered one that runs in its place: the same routing, and logits
//! within the oracle's tolerance, on both devices.

use std::sync::Arc;

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{Adapters, GpuExecutor, GpuSlots, open};
use crate::compute::shaders::Form;
use crate::compute::{Device, KvFormat, Lowering, Recording, Runner, Step, lower};
use crate::experts::{ExpertStore, FileReader, HostSlots, SlotMemory, SlotSets};
use crate::model::ModelSource;

use super::*;

const CONTEXT: usize = 96;
/// Tokens of the prompt; the rest is decoded.
const PROMPT: usize = 50;

fn store(source: &ModelSource, memory: Arc<dyn SlotMemory>) -> ExpertStore {
    let reader = Arc::new(FileReader::open(source.experts()).unwrap());
    ExpertStore::new(Arc::new(source.experts().clone()), memory, reader, 2).unwrap()
}

/// Logits of every token, and the experts that each layer chose for it.
fn computed<D: Device>(
    mut runner: Runner<D>,
    mut store: ExpertStore,
    source: &ModelSource,
    tokens: &[u32],
) -> (Vec<f32>, Vec<Vec<u32>>) {
    let (hidden, embedding) = (source.shape.hidden, source.weights.matrix("embed_tokens").unwrap());
    let (mut logits, mut routing) = (Vec::new(), Vec::new());
    runner.keep_routing();
    runner.reset().unwrap();
    let singles = (PROMPT..tokens.len()).map(|at| (at..at + 1, Step::decode(at)));
    for (range, step) in std::iter::once((0..PROMPT, Step::prefill(PROMPT, 0, LogitRows::All))).chain(singles) {
        let mut embedded = vec![0.0; range.len() * hidden];
        for (row, &token) in embedded.chunks_exact_mut(hidden).zip(&tokens[range.clone()]) {
            embedding.unpack_row(token as usize, row);
        }
        let rope = source.shape.rope_table(range.start, range.len());
        runner.run(step, &embedded, &rope, Some(&mut store)).unwrap();
        logits.extend(runner.logits().unwrap());
        routing.extend(runner.routing().iter().cloned());
    }
    (logits, routing)
}

fn on_cpu(source: &ModelSource, recording: Recording, tokens: &[u32]) -> (Vec<f32>, Vec<Vec<u32>>) {
    let slots = Arc::new(HostSlots::new(source.experts().experts(), source.experts().slot_bytes()).unwrap());
    let runner = CpuExecutor::new(Arc::new(recording), CONTEXT, Some(slots.clone()));
    computed(runner, store(source, slots), source, tokens)
}

fn on_gpu(source: &ModelSource, recording: Recording, tokens: &[u32]) -> (Vec<f32>, Vec<Vec<u32>>) {
    let gpu = pollster::block_on(open(Adapters::Any)).expect("tests need a device, be it a software driver");
    let options = GpuOptions { cooperative: Some(false), ..GpuOptions::default() };
    let layout = source.experts();
    let (sets, binding) = (SlotSets::new(layout, layout.experts()), options.binding_on(&gpu));
    let slots = GpuSlots::new(&gpu, sets, layout.slot_bytes(), layout.most_of_a_token(), binding, None).unwrap();
    let slots = Arc::new(slots);
    let runner = GpuExecutor::new(gpu, Arc::new(recording), CONTEXT, Some(slots.clone()), options).unwrap();
    computed(runner, store(source, slots), source, tokens)
}

#[test]
fn lowering_changes_no_choice() {
    for name in ["tiny", "tiny_mlx4", "mini_next", "mini_q3moe"] {
        let source = ModelSource::open(&folder(name)).unwrap();
        let tokens = Oracle::open(name).tokens;
        let mut plain = source.recording().clone();
        plain.max_tokens = PROMPT;
        let lowered = lower(
            plain.clone(),
            Lowering { activations: Form::F32, look_ahead: false, unscaled: true, kv: KvFormat::F32 },
        )
        .unwrap();
        assert!(lowered.steps.len() < plain.steps.len(), "{name}: nothing was joined");
        assert!(lowered.tensor_bytes(false) < plain.tensor_bytes(false), "{name}: no tensor was used again");
        type Run = fn(&ModelSource, Recording, &[u32]) -> (Vec<f32>, Vec<Vec<u32>>);
        for (device, run) in [("CPU", on_cpu as Run), ("GPU", on_gpu)] {
            let (expected, routing) = run(&source, plain.clone(), &tokens);
            let (found, same_routing) = run(&source, lowered.clone(), &tokens);
            assert_eq!(same_routing, routing, "{name} on the {device}");
            let difference = largest_difference(&found, &expected);
            println!("{name} on the {device}: logits within {difference:.1e}");
            assert!(difference <= TOLERANCE, "{name} on the {device}: logits differ by {difference}");
        }
    }
}
