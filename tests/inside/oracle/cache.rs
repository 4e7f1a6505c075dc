//! The expert cache's size changes while a text is made, and its counters against a replay.

use crate::compute::LogitRows;
use crate::engine::{Device, Engine, EngineOptions, ExpertBudget, KvFormat};
use crate::experts::policy::AgedLfu;
use crate::inside::replay::replay;

use super::{Oracle, folder, run};

/// More slots than the model has experts.
const ALL: usize = 1000;

fn engine(device: Device, slots: usize, chunk: usize) -> Engine {
    let slot = crate::model::ModelSource::open(&folder("tiny")).unwrap().experts().slot_bytes();
    let experts = ExpertBudget::Bytes((slots * slot) as u64);
    let options = EngineOptions {
        device,
        context: Some(96),
        experts,
        chunk: Some(chunk),
        kv: KvFormat::F32,
        ..EngineOptions::default()
    };
    Engine::open(&folder("tiny"), &options).unwrap()
}

/// The limit falls to what a token needs and rises again, in the middle of a text: the same bits.
#[test]
fn a_limit_that_changes_between_tokens_changes_nothing() {
    let oracle = Oracle::open("tiny");
    for device in [Device::Cpu, Device::Gpu] {
        let mut fixed = engine(device, ALL, 8);
        let slots = fixed.plan().all_slots;
        let (expected, _) = run(&mut fixed.session().unwrap(), &[&oracle.tokens]);
        let mut elastic = engine(device, ALL, 8);
        let mut session = elastic.session().unwrap();
        let (mut logits, mut limits) = (Vec::new(), [0, slots / 2, slots, 1, slots / 3, slots, 0].into_iter().cycle());
        session
            .extend(&oracle.tokens, LogitRows::All, |session, _| {
                logits.extend(session.logits().unwrap());
                session.limit_experts(limits.next().unwrap());
                true
            })
            .unwrap();
        assert!(logits == expected, "{device:?}: not the same bits");
        assert!(session.expert_stats().evictions > 0, "{device:?}: a lower limit evicts");
    }
}

/// A replay of what a run asked for counts what the run's own store counted.
#[test]
fn a_replayed_trace_has_the_hits_of_the_run() {
    let oracle = Oracle::open("tiny");
    let layers = crate::model::ModelSource::open(&folder("tiny")).unwrap().experts().layers.len();
    for slots_per_layer in [4, 7, 12] {
        let mut engine = engine(Device::Cpu, slots_per_layer * layers, 16);
        let mut session = engine.session().unwrap();
        session.trace_experts();
        let (prompt, rest) = oracle.tokens.split_at(40);
        session.extend(prompt, LogitRows::None, |_, _| true).unwrap();
        for token in rest {
            session.decode(*token).unwrap();
        }
        let trace = session.take_expert_trace().unwrap();
        assert_eq!(trace.tokens(), oracle.tokens.len());
        let found = replay(&trace, &AgedLfu::for_layers(layers), slots_per_layer);
        let stats = session.expert_stats();
        assert_eq!((found.hits, found.misses), (stats.hits, stats.misses), "{slots_per_layer} slots for each layer");
    }
}
