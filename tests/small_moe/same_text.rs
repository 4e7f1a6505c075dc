//! The same seed gives the same text, bit for bit, however many experts are kept and however the prompt is cut.

use flashflood::compute::LogitRows;
use flashflood::engine::{Device, Engine, EngineOptions, ExpertBudget};
use flashflood::experts::StoreStats;
use flashflood::generate::{GenerateOptions, generate};
use flashflood::model::ModelSource;
use flashflood::text::{Sampler, SamplerOptions};

use super::{embedded, file, options, snapshot};

const PROMPT: &str = "One sunny morning Mia the panda walked to the tower. On the table was a green shell, and Mia felt \
                      scared. The sky was sunny, so they stayed in the tower. Then Mia met Max, who was carrying some plum.";

/// Tokens sampled with a seed, and the bits of the logits after them.
fn sampled(engine: &mut Engine, tokens: usize) -> (Vec<u32>, Vec<u32>, StoreStats) {
    let tokenizer = engine.tokenizer().unwrap();
    let options = SamplerOptions { temperature: Some(0.7), ..SamplerOptions::default() };
    let mut sampler = Sampler::new(options, 7).unwrap();
    let until = GenerateOptions { max_tokens: tokens, ..GenerateOptions::default() };
    let ids = tokenizer.encode(PROMPT).unwrap();
    let mut session = engine.session().unwrap();
    let made = generate(&mut session, &tokenizer, &mut sampler, &ids, &until, |_| true).unwrap();
    assert_eq!(made.tokens.len(), tokens);
    // the last token is sampled and not run
    session.extend(&made.tokens[tokens - 1..], LogitRows::Last, |_, _| true).unwrap();
    let logits = session.logits().unwrap().iter().map(|logit| logit.to_bits()).collect();
    (made.tokens, logits, session.expert_stats())
}

fn slots_per_layer(source: &ModelSource, device: Device, each: usize) -> EngineOptions {
    let bytes = each * source.experts.layers.len() * source.experts.slot_bytes();
    EngineOptions { experts: ExpertBudget::Bytes(bytes as u64), ..options(device) }
}

fn check(device: Device, tokens: usize) {
    for (name, source, open) in [
        ("snapshot", ModelSource::open(&file("snapshot-8bit")).unwrap(), snapshot as fn(&EngineOptions) -> Engine),
        ("pack", ModelSource::embedded().unwrap(), embedded),
    ] {
        let what = format!("{name} on {device:?}");
        let (top_k, experts) = (source.config.top_k, source.config.experts);
        let (expected, expected_logits, few) = sampled(&mut open(&slots_per_layer(&source, device, top_k)), tokens);
        let (text, logits, half) = sampled(&mut open(&slots_per_layer(&source, device, experts / 2)), tokens);
        assert_eq!(text, expected, "{what}: {} slots a layer or {top_k}", experts / 2);
        assert!(logits == expected_logits, "{what}: {} slots a layer or {top_k}: other bits", experts / 2);
        // 64 tokens, the default, are in the two runs above
        for chunk in [1, 7] {
            let mut engine = open(&EngineOptions { chunk, ..slots_per_layer(&source, device, experts) });
            let (text, logits, all) = sampled(&mut engine, tokens);
            assert_eq!(text, expected, "{what}: all experts kept, chunks of {chunk}");
            assert!(logits == expected_logits, "{what}: all experts kept, chunks of {chunk}: other bits");
            assert_eq!(all.evictions, 0, "{what}: a cache of all experts evicts nothing");
            assert!(all.misses < half.misses && half.misses < few.misses, "{what}: smaller caches miss more often");
        }
    }
}

#[test]
fn cpu() {
    check(Device::Cpu, 64);
}

#[test]
fn gpu() {
    check(Device::Gpu, 24);
}
