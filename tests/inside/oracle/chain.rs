//! Dispatches recorded below wgpu's validation, by a chain, against those of wgpu's passes: the same bits and experts.

use crate::compute::HostWork;
use crate::compute::gpu::{GpuOptions, Landing};
use crate::engine::{Device, EngineOptions, ExpertBudget};
use crate::inside::open_on;
use crate::state::CheckpointOptions;

use super::{Oracle, folder, run};

/// Logits and routing of a prompt and of tokens after it, and what the host did.
fn outcome(name: &str, experts: ExpertBudget, gpu: GpuOptions) -> (Vec<f32>, Vec<Vec<u32>>, HostWork) {
    let oracle = Oracle::open(name);
    let (prompt, rest) = oracle.tokens.split_at(40);
    let options =
        EngineOptions { device: Device::Gpu, context: Some(96), chunk: Some(32), experts, ..EngineOptions::default() };
    let mut engine = open_on(&folder(name), &options, gpu);
    let mut session = engine.session().unwrap();
    let parts: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    let (logits, routing) = run(&mut session, &parts);
    (logits, routing, session.host_work())
}

#[test]
fn a_chain_changes_nothing() {
    for name in ["tiny", "mini_next", "mini_q3moe"] {
        let slot = crate::model::ModelSource::open(&folder(name)).unwrap().experts().slot_bytes() as u64;
        let streamed = ExpertBudget::Bytes(30 * slot);
        let landings = [Landing::Shared, Landing::Staged, Landing::Copied].map(|landing| (streamed, Some(landing)));
        for (experts, landing) in
            landings.into_iter().chain([(ExpertBudget::All, None), (ExpertBudget::All, Some(Landing::Copied))])
        {
            let gpu = GpuOptions { landing, ..GpuOptions::default() };
            let (logits, routing, by_wgpu) = outcome(name, experts, GpuOptions { chain: false, ..gpu });
            let (found, found_routing, by_chain) = outcome(name, experts, gpu);
            let what = format!("{name}, {experts:?} into {landing:?}");
            assert!(found == logits, "{what}: not the same bits");
            assert_eq!(found_routing, routing, "{what}");
            if experts == ExpertBudget::All {
                // of those that are read, each is dispatched as it lands
                assert_eq!(by_chain.dispatches, by_wgpu.dispatches, "{what}");
            }
            // wgpu does not count them; some dispatches wait for none
            assert_eq!(by_wgpu.barriers, 0);
            assert!(by_chain.barriers > 0 && by_chain.barriers < by_chain.dispatches, "{what}: {by_chain:?}");
        }
    }
}

/// Many small submissions, or one: the same bits.
#[test]
fn submissions_change_nothing() {
    for chain in [false, true] {
        let of = |submit_after| {
            let gpu = GpuOptions { chain, submit_after, prepare: false, ..GpuOptions::default() };
            outcome("tiny", ExpertBudget::All, gpu)
        };
        let ((many, _, work), (one, _, less)) = (of(1), of(usize::MAX));
        assert!(many == one, "not the same bits");
        assert!(work.submissions > less.submissions, "{work:?} {less:?}");
    }
}

/// A token that was recorded under the one before it, or not: the same bits. Whatever comes in its place is not mixed up
/// with it: the same timeline from its beginning, a prompt, or a token elsewhere.
#[test]
fn recording_ahead_changes_nothing() {
    let oracle = Oracle::open("tiny");
    let (prompt, rest) = oracle.tokens.split_at(40);
    let parts: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    let others: Vec<&[u32]> = vec![&rest[..1], &rest[1..9], &rest[9..10], &rest[10..11]];
    let options = EngineOptions {
        device: Device::Gpu,
        context: Some(96),
        experts: ExpertBudget::All,
        ..EngineOptions::default()
    };
    for chain in [false, true] {
        let of = |prepare| {
            let mut engine = open_on(&folder("tiny"), &options, GpuOptions { chain, prepare, ..GpuOptions::default() });
            let timelines = [&parts[..9], &parts[..12], &others, &parts[..5]];
            let found = timelines.map(|parts| run(&mut engine.session().unwrap(), parts));
            (found, engine.session().unwrap().host_work())
        };
        let ((expected, plain), (found, ahead)) = (of(false), of(true));
        assert!(found == expected, "not the same bits");
        assert!(plain.ahead.is_zero() && !ahead.ahead.is_zero());
    }
}

/// A prompt that keeps copies of its state on the way: the token that is recorded under it is none of its parts.
#[test]
fn recording_ahead_of_a_prompt_with_marks() {
    let oracle = Oracle::open("tiny");
    let (prompt, rest) = oracle.tokens.split_at(40);
    let options = EngineOptions {
        device: Device::Gpu,
        context: Some(96),
        experts: ExpertBudget::All,
        ..EngineOptions::default()
    };
    let of = |prepare| {
        let mut engine = open_on(&folder("tiny"), &options, GpuOptions { prepare, ..GpuOptions::default() });
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(CheckpointOptions { bytes: u64::MAX, every: 8, least_gap: 1 });
        session.sync(prompt, &[], |_| true).unwrap();
        assert!(session.checkpoints().len() > 2);
        let logits = rest[..3].iter().flat_map(|token| {
            session.decode(*token).unwrap();
            session.logits().unwrap()
        });
        let logits: Vec<f32> = logits.collect();
        (logits, session.contents().unwrap().len(), session.host_work().ahead)
    };
    let ((expected, layers, plain), (found, same_layers, ahead)) = (of(false), of(true));
    assert!(found == expected && layers == same_layers, "not the same bits");
    assert!(plain.is_zero() && !ahead.is_zero());
}

/// A profile takes wgpu's passes for as long as it lasts, whatever was recorded before: the same bits.
#[test]
fn a_profile_changes_nothing() {
    let oracle = Oracle::open("tiny");
    let options = EngineOptions { device: Device::Gpu, context: Some(96), ..EngineOptions::default() };
    let (prompt, rest) = oracle.tokens.split_at(80);
    let parts: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
    let mut engine = open_on(&folder("tiny"), &options, GpuOptions::default());
    let mut session = engine.session().unwrap();
    let expected = run(&mut session, &parts);
    let barriers = session.host_work().barriers;
    let mut session = engine.session().unwrap();
    if session.profile() {
        assert!(run(&mut session, &parts) == expected, "not the same bits with a profile");
        assert_eq!(session.host_work().barriers, barriers, "passes of wgpu are not counted");
        assert!(!session.kernel_times().is_empty());
    }
}
