//! Random prompts one after the other, parting anywhere: the same as each in a session of its own.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compute::LogitRows;
use crate::compute::gpu::GpuOptions;
use crate::experts::FileReader;
use crate::inside::faulty_reader::{Fault, FaultyReader};
use crate::model::ModelSource;
use crate::session::SessionError;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Decode adds up in another order than prefill.
const TOLERANCE: f32 = 1e-3;

/// One turn: how much of the timeline it keeps, what it adds, and what happens.
#[derive(Clone, Debug)]
struct Turn {
    keep: usize,
    add: Vec<u32>,
    boundaries: Vec<usize>,
    /// Whoever watches asks for an end at this call, if there are so many.
    interrupt: usize,
    decode: Vec<u32>,
}

fn turn() -> impl Strategy<Value = Turn> {
    let tokens = |most| prop::collection::vec(0u32..100, 0..most);
    (0usize..80, tokens(30), prop::collection::vec(0usize..90, 0..4), 0usize..40, tokens(4))
        .prop_map(|(keep, add, boundaries, interrupt, decode)| Turn { keep, add, boundaries, interrupt, decode })
}

fn options() -> impl Strategy<Value = CheckpointOptions> {
    // the state of tiny takes some 100 kB
    (prop::sample::select(vec![0, 1, 400_000, 1 << 20, 1 << 30]), 1usize..40, 1usize..10)
        .prop_map(|(bytes, every, least_gap)| CheckpointOptions { bytes, every, least_gap })
}

/// What there is a state for, from what the session says of itself.
fn expected_reuse(session: &Session<'_>, prompt: &[u32]) -> usize {
    let live = session.tokens();
    let common = live.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    let most = common.min(prompt.len().saturating_sub(1));
    let mut states = session.checkpoints();
    states.extend([0, live.len()]);
    states.into_iter().filter(|at| *at <= most).max().unwrap()
}

fn check(device: Device, cases: u32) {
    let engines = [(device, 16), (device, 96), (Device::Cpu, 96)].map(|(device, chunk)| engine(&tiny(), device, chunk));
    let engines = RefCell::new(engines);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let cases = (options(), prop::collection::vec(turn(), 2..7));
    let result = runner.run(&cases, |(options, turns)| {
        let [engine, other, on_cpu] = &mut *engines.borrow_mut();
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(options);
        // tokens whose state decode has made
        let mut decoded_from = usize::MAX;
        for turn in turns {
            let mut prompt = session.tokens().to_vec();
            prompt.truncate(turn.keep);
            prompt.extend(&turn.add);
            prompt.truncate(90);
            if prompt.is_empty() {
                continue;
            }
            let reuse = expected_reuse(&session, &prompt);
            let mut calls = 0;
            let synced = session.sync(&prompt, &turn.boundaries, |progress| {
                calls += 1;
                assert!(progress.done + progress.step <= progress.total && progress.layer <= progress.layers);
                calls != turn.interrupt
            });
            let synced = synced.unwrap();
            prop_assert!(prompt.starts_with(session.tokens()));
            prop_assert_eq!(synced.interrupted, session.tokens().len() < prompt.len());
            prop_assert!(session.checkpoints().iter().all(|at| *at <= session.tokens().len()));
            if synced.interrupted {
                prop_assert_eq!(synced.reused + synced.computed, session.tokens().len());
                let reuse = expected_reuse(&session, &prompt);
                prop_assert_eq!(session.sync(&prompt, &[], |_| true).unwrap().reused, reuse);
                decoded_from = if reuse <= decoded_from { usize::MAX } else { decoded_from };
            } else {
                prop_assert_eq!(synced.reused, reuse);
                prop_assert_eq!(synced.computed, prompt.len() - reuse);
                decoded_from = if reuse <= decoded_from { usize::MAX } else { decoded_from };
            }
            prop_assert_eq!(session.tokens(), &prompt[..]);
            let found = session.logits().unwrap();
            let mut fresh = other.session().unwrap();
            fresh.extend(&prompt, LogitRows::Last, |_, _| true).unwrap();
            let expected = fresh.logits().unwrap();
            if decoded_from == usize::MAX {
                // a router may choose otherwise between two experts that it likes alike: a GPU adds up chunks of another
                // length in another order
                let mut is_tie = || {
                    let mut fresh = on_cpu.session().unwrap();
                    fresh.extend(&prompt, LogitRows::Last, |_, _| true).unwrap();
                    device != Device::Cpu && agree(device, &found, &fresh.logits().unwrap())
                };
                let agrees = agree(device, &found, &expected) || is_tie();
                prop_assert!(agrees, "{device:?}: other logits than a fresh session");
            } else {
                let difference = largest_difference(&found, &expected);
                prop_assert!(difference <= TOLERANCE, "{device:?}: logits differ by {difference}");
            }
            for &token in &turn.decode {
                decoded_from = decoded_from.min(session.tokens().len());
                session.decode(token).unwrap();
            }
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn random_prompts_on_the_cpu() {
    check(Device::Cpu, 60);
}

#[test]
fn random_prompts_on_the_gpu() {
    check(Device::Gpu, 10);
}

/// Whoever watches is told of every step and every layer; an end in the middle of a step costs what came after the last
/// checkpoint.
#[test]
fn progress_and_interrupts() {
    for device in DEVICES {
        let mut engine = engine(&tiny(), device, 16);
        let layers = engine.shape().layers.len();
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(CheckpointOptions { every: 100, ..EVERYWHERE });
        let tokens: Vec<u32> = (0..40).map(|n| (n * 13 + 5) % 100).collect();
        let mut seen = Vec::new();
        session
            .sync(&tokens, &[20], |progress| {
                seen.push((progress.done, progress.step, progress.layer));
                assert_eq!((progress.total, progress.layers), (40, layers));
                true
            })
            .unwrap();
        let mut expected = vec![(0, 0, 0)];
        for (done, step) in [(0, 16), (16, 4), (20, 16), (36, 4)] {
            expected.extend((1..=layers).map(|layer| (done, step, layer)));
            expected.push((done + step, 0, 0));
        }
        // within a layer that takes long it is told again, and before the first one is done
        seen.retain(|(_, step, layer)| *step == 0 || *layer > 0);
        seen.dedup();
        assert_eq!(seen, expected, "{device:?}");
        let logits = session.logits().unwrap();
        sync(&mut session, &tokens[..3], &[]);
        let until = |session: &mut Session<'_>, end: (usize, usize)| {
            let synced = session.sync(&tokens, &[20], |progress| (progress.done, progress.layer) != end).unwrap();
            (session.tokens().len(), synced)
        };
        // between two steps nothing is lost; in the middle of one, what came after the last checkpoint
        let cut = |reused, computed| Synced { reused, computed, interrupted: true };
        assert_eq!(until(&mut session, (36, 0)), (36, cut(3, 33)), "{device:?}");
        assert_eq!(until(&mut session, (36, 1)), (36, cut(36, 0)), "{device:?}");
        sync(&mut session, &tokens[..3], &[]);
        assert_eq!(until(&mut session, (20, 2)), (20, cut(3, 17)), "{device:?}");
        sync(&mut session, &tokens, &[]);
        assert!(agree(device, &session.logits().unwrap(), &logits), "{device:?}: other logits after interrupts");
    }
}

/// What is refused changes nothing.
#[test]
fn a_prompt_that_is_refused() {
    let mut engine = engine(&tiny(), Device::Cpu, 16);
    let mut session = engine.session().unwrap();
    session.keep_checkpoints(EVERYWHERE);
    sync(&mut session, &[1, 2, 3, 4], &[]);
    let none = |_| true;
    assert!(matches!(session.sync(&[1, 1 << 20], &[], none), Err(SessionError::Token { .. })));
    assert!(matches!(
        session.sync(&[1; 97], &[], none),
        Err(SessionError::ContextFull { context: 96, position: 0, .. })
    ));
    assert_eq!((session.tokens(), session.checkpoints()), (&[1, 2, 3, 4][..], vec![1, 2, 3]));
    assert_eq!(sync(&mut session, &[], &[]), Synced { reused: 0, computed: 0, interrupted: false });
    assert!(session.tokens().is_empty() && session.checkpoints().is_empty());
}

/// A read fails in the middle of a prompt: the session does not go on by itself, and goes on from the last checkpoint.
#[test]
fn a_failed_step_costs_what_came_after_the_last_checkpoint() {
    for device in DEVICES {
        let source = ModelSource::open(&tiny()).unwrap();
        let failing = Arc::new(AtomicU64::new(u64::MAX));
        let which = failing.clone();
        let files = Arc::new(FileReader::open(source.experts()).unwrap());
        let fault = move |index| (index == which.load(Ordering::SeqCst)).then_some(Fault::InputOutput);
        let reader = Arc::new(FaultyReader::new(files, fault));
        // slots for a third of the experts, so that there is something to read
        let experts = crate::engine::ExpertBudget::Bytes(30 * source.experts().slot_bytes() as u64);
        let options = EngineOptions { device, context: Some(96), chunk: Some(8), experts, ..EngineOptions::default() };
        let mut engine = Engine::with_parts(source, reader.clone(), &options, GpuOptions::default()).unwrap();
        let tokens: Vec<u32> = (0..60).map(|n| (n * 13 + 5) % 100).collect();
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(CheckpointOptions { every: 16, ..EVERYWHERE });
        sync(&mut session, &tokens, &[]);
        let expected = session.logits().unwrap();
        sync(&mut session, &tokens[..1], &[]);
        let error = session.sync(&tokens, &[], |progress| {
            if progress.done == 40 && progress.step == 0 {
                failing.store(reader.reads() + 2, Ordering::SeqCst);
            }
            true
        });
        assert!(matches!(error, Err(SessionError::Execute(_))), "{error:?}");
        assert!(matches!(session.decode(1), Err(SessionError::Broken)));
        let synced = sync(&mut session, &tokens, &[]);
        assert_eq!((synced.reused, synced.computed), (32, 28), "{device:?}");
        assert!(agree(device, &session.logits().unwrap(), &expected), "{device:?}: other logits");
    }
}
