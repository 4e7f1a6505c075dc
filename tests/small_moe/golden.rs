//! Greedy texts, log probabilities, logits and losses of mlx-lm in f32 (`to_mlx.py`).
//!
//! The tolerances leave room for another order of summation: 2e-3 on log probabilities and logits, 1e-3 on a loss,
//! which averages hundreds of them. On one processor all were found within 2e-5.

use flashflood::compute::LogitRows;
use flashflood::engine::{Device, EngineOptions, KvFormat};
use flashflood::text::{Sampler, SamplerOptions};
use flashflood::weights::safetensors::TensorSet;
use serde_json::Value;

use super::score::{log_probability, loss, read_kinds};
use super::{file, options, snapshot};

struct Golden {
    json: Value,
    tensors: TensorSet,
}

impl Golden {
    fn open() -> Golden {
        let folder = file("snapshot-8bit");
        let json = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let tensors = TensorSet::open_file(&folder.join("golden.safetensors")).unwrap();
        Golden { json: serde_json::from_str(&json).unwrap(), tensors }
    }

    fn texts(&self) -> Vec<&str> {
        self.json["prompts"].as_array().unwrap().iter().map(|prompt| prompt["text"].as_str().unwrap()).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let bytes = &self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).bytes;
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).to_f32().unwrap()
    }
}

fn largest_of(row: &[f32]) -> u32 {
    let first_largest = row.iter().enumerate().fold((0, f32::NEG_INFINITY), |largest, (id, logit)| {
        if *logit > largest.1 { (id as u32, *logit) } else { largest }
    });
    first_largest.0
}

fn largest_difference<A: Copy + Into<f64>>(found: &[A], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| ((*a).into() - f64::from(*b)).abs());
    differences.fold(0.0, |largest, d| if d.is_nan() { f64::NAN } else { largest.max(d) })
}

fn check_greedy(device: Device) {
    let golden = Golden::open();
    let mut engine = snapshot(&options(device));
    let tokenizer = engine.tokenizer().unwrap();
    for (n, text) in golden.texts()[..2].iter().enumerate() {
        let expected = golden.ids(&format!("{n}.greedy"));
        let mut session = engine.session().unwrap();
        let mut greedy = Sampler::new(SamplerOptions::default(), 0).unwrap();
        session.extend(&tokenizer.encode(text).unwrap(), LogitRows::Last, |_, _| true).unwrap();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            found.push(session.sample(&mut greedy, tokenizer.vocab_size()).unwrap());
            session.decode(found[found.len() - 1]).unwrap();
        }
        let decoded = tokenizer.decode(&found, false);
        assert_eq!(found, expected, "{device:?}, {text:?}: {decoded:?}");
        assert_eq!(decoded, golden.json["prompts"][n]["greedy"].as_str().unwrap());
    }
}

fn check_log_probabilities(device: Device) {
    let golden = Golden::open();
    let mut engine = snapshot(&EngineOptions { kv: KvFormat::F32, ..options(device) });
    let tokenizer = engine.tokenizer().unwrap();
    let vocab = engine.shape().vocab;
    let (mut off_logs, mut off_logits) = (0.0f64, 0.0f64);
    for (n, text) in golden.texts().iter().enumerate() {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, golden.ids(&format!("{n}.tokens")), "text {n}");
        let mut session = engine.session().unwrap();
        let mut logits = Vec::new();
        let all = |session: &mut flashflood::session::Session<'_>, _| {
            logits.extend(session.logits().unwrap());
            true
        };
        session.extend(&ids, LogitRows::All, all).unwrap();
        let found: Vec<f64> =
            logits.chunks_exact(vocab).zip(&ids[1..]).map(|(row, id)| log_probability(row, *id)).collect();
        off_logs = off_logs.max(largest_difference(&found, &golden.floats(&format!("{n}.logprob_next"))));
        let most_likely: Vec<u32> = logits.chunks_exact(vocab).map(largest_of).collect();
        assert_eq!(most_likely, golden.ids(&format!("{n}.top1")), "{device:?}, text {n}: most likely tokens");
        let last = &logits[logits.len() - vocab..];
        off_logits = off_logits.max(largest_difference(last, &golden.floats(&format!("{n}.logits_last"))));
    }
    println!("{device:?}: log probabilities within {off_logs:.1e}, last logits within {off_logits:.1e}");
    assert!(off_logs <= 2e-3, "{device:?}: log probabilities differ by {off_logs}");
    assert!(off_logits <= 2e-3, "{device:?}: the last logits differ by {off_logits}");
}

/// The first 25 documents of each kind; on a software driver, which would need minutes for them, those of the kind
/// whose documents are the shortest.
fn check_losses(device: Device) {
    let golden = Golden::open();
    let mut engine = snapshot(&options(device));
    let tokenizer = engine.tokenizer().unwrap();
    let software = engine.device().contains("llvmpipe");
    let mut compared = 0;
    for kind in read_kinds(&file("snapshot-8bit/eval.jsonl")).unwrap() {
        if software && kind.name != "order" {
            continue;
        }
        let loss = loss(&mut engine, &tokenizer, kind.first(25)).unwrap();
        let expected = &golden.json["scores"][&kind.name];
        assert_eq!(loss.tokens as u64, expected["tokens"].as_u64().unwrap(), "{}", kind.name);
        let difference = (loss.per_token() - expected["nll_per_token"].as_f64().unwrap()).abs();
        println!("{device:?}, {}: {:.5} nats a token, within {difference:.1e}", kind.name, loss.per_token());
        assert!(difference <= 1e-3, "{device:?}, {}: the loss differs by {difference}", kind.name);
        compared += 1;
    }
    assert_eq!(compared, if software { 1 } else { 7 });
}

mod cpu {
    use super::*;

    #[test]
    fn greedy() {
        check_greedy(Device::Cpu);
    }

    #[test]
    fn log_probabilities() {
        check_log_probabilities(Device::Cpu);
    }

    #[test]
    fn losses() {
        check_losses(Device::Cpu);
    }
}

mod gpu {
    use super::*;

    #[test]
    fn greedy() {
        check_greedy(Device::Gpu);
    }

    #[test]
    fn log_probabilities() {
        check_log_probabilities(Device::Gpu);
    }

    #[test]
    fn losses() {
        check_losses(Device::Gpu);
    }
}
