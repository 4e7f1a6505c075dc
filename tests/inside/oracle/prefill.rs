//! Prompts in chunks of every length, whatever fits in the expert cache.

use crate::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget, KvFormat};
use crate::session::Session;

use super::{Oracle, TOLERANCE, check_routing, folder, largest_difference};

/// Chunks of 1 to 96 tokens, with slots for one token's experts, for some and for all: logits within the tolerance, the
/// same experts, and each of them read once a chunk at most.
#[test]
fn chunks_of_every_length() {
    let oracle = Oracle::open("tiny");
    let source = crate::model::ModelSource::open(&folder("tiny")).unwrap();
    let (top_k, layers) = (source.shape.moe().unwrap().top_k, source.experts().layers.len());
    let expected = oracle.floats("logits_prefill").unwrap();
    for device in [Device::Cpu, Device::Gpu] {
        for (n, slots) in [top_k, 5 * layers, 16 * layers].into_iter().enumerate() {
            let options = EngineOptions {
                device,
                activations: Activations::F32,
                context: Some(96),
                kv: KvFormat::F32,
                chunk: Some(96),
                experts: ExpertBudget::Bytes((slots * source.experts().slot_bytes()) as u64),
                ..EngineOptions::default()
            };
            let mut engine = Engine::open(&folder("tiny"), &options).unwrap();
            let mut worst = 0.0f32;
            for length in (1 + n..=96).step_by(3) {
                let what = format!("{device:?}, chunks of {length}, {slots} slots");
                let mut session = engine.session().unwrap();
                session.reset_expert_stats();
                let (logits, routing, distinct) = in_chunks(&mut session, &oracle.tokens, length, top_k);
                let difference = largest_difference(&logits, &expected);
                assert!(difference <= TOLERANCE, "{what}: logits differ by {difference}");
                check_routing(&oracle, &routing, top_k, &what);
                let stats = session.expert_stats();
                assert_eq!((stats.hits + stats.misses) as usize, distinct, "{what}: {stats:?}");
                worst = worst.max(difference);
            }
            println!("{device:?}, {slots} slots: logits within {worst:.1e}");
        }
    }
}

/// Logits, routing, and how many experts of all layers the chunks asked for.
fn in_chunks(
    session: &mut Session<'_>,
    tokens: &[u32],
    length: usize,
    top_k: usize,
) -> (Vec<f32>, Vec<Vec<u32>>, usize) {
    let (mut logits, mut routing, mut distinct) = (Vec::new(), Vec::<Vec<u32>>::new(), 0);
    for chunk in tokens.chunks(length) {
        let every = |session: &mut Session<'_>, _| {
            logits.extend(session.logits().unwrap());
            routing.resize(session.routing().len(), Vec::new());
            for (all, now) in routing.iter_mut().zip(session.routing()) {
                assert_eq!(now.len(), chunk.len() * top_k);
                all.extend(now);
                let mut experts = now.clone();
                experts.sort_unstable();
                experts.dedup();
                distinct += experts.len();
            }
            true
        };
        session.extend(chunk, crate::compute::LogitRows::All, every).unwrap();
    }
    (logits, routing, distinct)
}
