//! `logits_top_k`, which has no op of its own: [`Runner::top_logits`](crate::compute::Runner::top_logits) runs it.

use std::sync::Arc;

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{GpuExecutor, GpuOptions};
use crate::compute::{ExecuteError, LogitRows, Recording, Step, TopLogits};
use proptest::prelude::*;

use super::cases;
use super::random::Random;
use super::trial::gpu;

/// The CPU and the GPU without and with checks, for logits `[2, width]`.
struct Executors {
    cpu: CpuExecutor,
    gpus: [GpuExecutor; 2],
    width: usize,
    recording: Arc<Recording>,
}

impl Executors {
    fn new(width: usize) -> Self {
        let mut recording = Recording::new(2);
        recording.logits = Some(recording.tensor("logits", 1, width));
        let recording = Arc::new(recording);
        let cpu = CpuExecutor::new(recording.clone(), 2, None);
        let gpus = [false, true].map(|checks| {
            let options = GpuOptions { checks, ..GpuOptions::default() };
            GpuExecutor::new(gpu(), recording.clone(), 2, None, options).unwrap()
        });
        // tells the executors how many rows there are
        let step = Step::prefill(2, 0, LogitRows::All);
        let mut executors = Executors { cpu, gpus, width, recording };
        executors.cpu.run(step, &[], &[0.0; 4], None).unwrap();
        executors.gpus.iter_mut().for_each(|gpu| gpu.run(step, &[], &[0.0; 4], None).unwrap());
        executors
    }

    /// The largest of the second row; the first has other values.
    fn top(&mut self, row: &[f32], top_k: usize, vocab: usize) -> Vec<Result<TopLogits, ExecuteError>> {
        let view = self.recording.logits.unwrap();
        let mut both = vec![1e9; 2 * view.stride];
        both[view.stride..][..self.width].copy_from_slice(row);
        self.cpu.write(view.tensor, &both);
        let mut all = vec![self.cpu.top_logits(top_k, vocab)];
        for gpu in &mut self.gpus {
            gpu.write(view.tensor, &both);
            all.push(gpu.top_logits(top_k, vocab));
        }
        all
    }
}

/// By sorting everything. NaN is left out.
fn sorted(row: &[f32], top_k: usize) -> Vec<(u32, u32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).filter(|(_, v)| !v.is_nan()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.iter().take(top_k).map(|(id, v)| (*id, v.to_bits())).collect()
}

fn check(executors: &mut Executors, row: &[f32], top_k: usize, vocab: usize) -> Result<(), TestCaseError> {
    let expected = sorted(&row[..vocab.min(row.len())], top_k);
    for (i, found) in executors.top(row, top_k, vocab).into_iter().enumerate() {
        let who = ["CPU", "GPU", "GPU with checks"][i];
        match found {
            Ok(found) => {
                let found: Vec<_> = found.iter().map(|(id, v)| (*id, v.to_bits())).collect();
                prop_assert_eq!(&found, &expected, "{}, {} of {}", who, top_k, vocab);
            }
            Err(ExecuteError::NotANumber) => {
                prop_assert!(expected.is_empty(), "{who}, {top_k} of {vocab}: no number found, expected {expected:?}");
            }
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        }
    }
    Ok(())
}

type Draw = fn(&mut Random) -> f32;

/// Kinds of rows: all different; many ties; ties and numbers at the ends of the range; mostly no numbers.
const DRAWS: [Draw; 4] = [
    |random| random.uniform(-30.0, 30.0),
    |random| random.below(7) as f32,
    |random| random.one_of(&[f32::NEG_INFINITY, f32::MIN, -1e-40, -0.0, 0.0, 1e-40, f32::MAX, f32::INFINITY]),
    |random| if random.below(50) > 0 { f32::NAN } else { random.uniform(-1.0, 1.0) },
];

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn logits_top_k(seed in any::<u64>(), width in 1usize..9000, padding in 0usize..40, draw in 0..DRAWS.len()) {
        let mut random = Random::new(seed);
        let mut row: Vec<f32> = (0..width).map(|_| DRAWS[draw](&mut random)).collect();
        // ids beyond the vocabulary are no tokens, whatever their logits
        let vocab = width.saturating_sub(padding).max(1);
        row[vocab..].fill(1e30);
        let mut executors = Executors::new(width);
        for top_k in [1, 2 + random.below(60), random.one_of(&[100, 255, 256])] {
            check(&mut executors, &row, top_k, vocab)?;
        }
    }
}

/// Three passes, and ties across all of them.
#[test]
fn logits_top_k_of_a_large_vocabulary() {
    let width = 300_001;
    let mut executors = Executors::new(width);
    let mut random = Random::new(5);
    for (draw, top_k) in DRAWS.into_iter().zip([5, 256, 8, 2]) {
        let row: Vec<f32> = (0..width).map(|_| draw(&mut random)).collect();
        check(&mut executors, &row, top_k, 299_999).unwrap();
    }
}

/// Damaged weights must not look like a token.
#[test]
fn no_number_is_an_error() {
    for width in [1, 700, 3000] {
        let mut executors = Executors::new(width);
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            for top_k in [1, 2, 20] {
                for outcome in executors.top(&vec![nan; width], top_k, width) {
                    assert!(matches!(outcome, Err(ExecuteError::NotANumber)), "{top_k} of {width}: {outcome:?}");
                }
            }
        }
    }
}

/// Sums of runs are those of the logits that are tokens, divided by the temperature; NaN where one of them is none.
#[test]
fn sums_of_runs() {
    let (width, vocab) = (2600, 2500);
    let mut executors = Executors::new(width);
    let view = executors.recording.logits.unwrap();
    let mut random = Random::new(5);
    let mut row: Vec<f32> = (0..width).map(|_| random.uniform(-20.0, 20.0)).collect();
    row[3] = f32::NEG_INFINITY;
    row[1024..2048].fill(f32::NEG_INFINITY);
    for (has_nan, temperature) in [(false, 1.0), (false, 0.4), (true, 1.0)] {
        if has_nan {
            row[2100] = f32::NAN;
        }
        let mut both = vec![1e9; 2 * view.stride];
        both[view.stride..][..width].copy_from_slice(&row);
        for gpu in &mut executors.gpus {
            gpu.write(view.tensor, &both);
            let summary = gpu.summarise_logits(1, vocab, temperature).unwrap().unwrap();
            assert_eq!((summary.vocab, summary.runs.len()), (vocab, 3));
            for (index, (run, found)) in row[..vocab].chunks(1024).zip(&summary.runs).enumerate() {
                assert_eq!(gpu.run_of_logits(index, vocab).unwrap().len(), run.len());
                if run.iter().any(|logit| logit.is_nan()) {
                    assert!(found.total.is_nan(), "run {index}: {found:?}");
                    continue;
                }
                let largest = run.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(found.largest, largest, "run {index}");
                if largest > f32::NEG_INFINITY {
                    let weight = |logit: &f32| (f64::from(logit - largest) / f64::from(temperature)).exp();
                    let expected: f64 = run.iter().map(weight).sum();
                    let apart = (f64::from(found.total) - expected).abs();
                    assert!(apart < 1e-5 * expected, "run {index}: expected {expected}, found {}", found.total);
                }
            }
        }
    }
}
