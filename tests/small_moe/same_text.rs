//! The same seed gives the same text, bit for bit, however many experts are kept and however the prompt is cut, on
//! the GPU at multiples of 32 tokens.

use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget};
use flashflood::experts::StoreStats;
use flashflood::generate::{GenerateOptions, generate};
use flashflood::model::ModelSource;
use flashflood::text::{Sampler, SamplerOptions};

use super::{embedded, file, options, snapshot};

const PROMPT: &str = "One sunny morning Mia the panda walked to the tower. On the table was a green shell, and Mia \
                      felt scared. The sky was sunny, so they stayed in the tower. Then Mia met Max, who was carrying \
                      some plum.";

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
    session.decode(made.tokens[tokens - 1]).unwrap();
    let logits = session.logits().unwrap().iter().map(|logit| logit.to_bits()).collect();
    (made.tokens, logits, session.expert_stats())
}

fn slots_per_layer(source: &ModelSource, options: &EngineOptions, each: usize) -> EngineOptions {
    let bytes = each * source.experts().layers.len() * source.experts().slot_bytes();
    EngineOptions { experts: ExpertBudget::Bytes(bytes as u64), ..options.clone() }
}

fn check(device: Device, activations: Activations, tokens: usize) {
    let of_device = EngineOptions { activations, ..options(device) };
    for (name, source, open) in [
        ("snapshot", ModelSource::open(&file("snapshot-8bit")).unwrap(), snapshot as fn(&EngineOptions) -> Engine),
        ("pack", ModelSource::embedded().unwrap(), embedded),
    ] {
        let what = format!("{name} on {device:?}, {activations:?}");
        let moe = source.shape.moe().unwrap();
        let (top_k, experts) = (moe.top_k, moe.experts);
        let few = slots_per_layer(&source, &of_device, top_k);
        let half = slots_per_layer(&source, &of_device, experts / 2);
        let whole = slots_per_layer(&source, &of_device, experts);
        let (expected, expected_logits, few_stats) = sampled(&mut open(&few), tokens);
        let mut misses = vec![few_stats.misses];
        // the delta rule goes by 32 tokens on the GPU
        let [few_tokens, other] = if device == Device::Cpu { [1, 7] } else { [32, 96] };
        for (how, options) in [
            ("half of the experts kept", half),
            ("all kept, small chunks", EngineOptions { chunk: Some(few_tokens), ..whole.clone() }),
            ("all kept, other chunks", EngineOptions { chunk: Some(other), ..whole }),
            ("all resident", of_device.clone()),
        ] {
            let (text, logits, stats) = sampled(&mut open(&options), tokens);
            assert_eq!(text, expected, "{what}: {how}, or {top_k} a layer");
            assert!(logits == expected_logits, "{what}: {how}, or {top_k} a layer: other bits");
            misses.push(stats.misses);
        }
        assert!(misses[0] > misses[1] && misses[1] > misses[2], "{what}: smaller caches miss more often: {misses:?}");
        assert!(misses[0] > 0, "{what}: nothing was read");
    }
}

#[test]
fn cpu() {
    check(Device::Cpu, Activations::F32, 64);
}

#[test]
fn gpu() {
    check(Device::Gpu, Activations::F32, 24);
}

#[test]
fn cpu_int8() {
    check(Device::Cpu, Activations::Int8, 64);
}

#[test]
fn gpu_int8() {
    check(Device::Gpu, Activations::Int8, 12);
}
