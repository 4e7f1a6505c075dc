//! What the formats of keys and values cost: `cargo bench --bench quality -- embedded --kv f16,q8,k8v4,tq4` asks more.

use flashflood::compute::LogitRows;
use flashflood::engine::KvFormat;

use super::*;

/// Log probabilities of every next token of some documents of each kind.
fn distributions(kv: KvFormat, documents: usize) -> Vec<Vec<f64>> {
    let mut engine = embedded(&EngineOptions { kv, ..options(Device::Cpu) });
    let (tokenizer, vocab) = (engine.tokenizer().unwrap(), engine.shape().vocab);
    let mut all = Vec::new();
    for kind in score::read_kinds(&file("snapshot-8bit/eval.jsonl")).unwrap() {
        for text in kind.first(documents) {
            let ids = tokenizer.encode(text).unwrap();
            let add = |session: &mut flashflood::session::Session<'_>, _| {
                let logits = session.logits().unwrap();
                all.extend(logits.chunks_exact(vocab).map(score::log_probabilities));
                true
            };
            engine.session().unwrap().extend(&ids, LogitRows::All, add).unwrap();
        }
    }
    all
}

/// In nats a token. Twice what was measured over 700 documents.
#[test]
fn divergence_of_each_format() {
    let expected = distributions(KvFormat::F32, 2);
    for (kv, most) in [(KvFormat::F16, 1e-6), (KvFormat::Q8, 1e-4), (KvFormat::K8v4, 2e-3), (KvFormat::Tq4, 2e-3)] {
        let found = distributions(kv, 2);
        let divergence = |(p, q): (&Vec<f64>, &Vec<f64>)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        let mean = expected.iter().zip(&found).map(divergence).sum::<f64>() / expected.len() as f64;
        println!("{kv}: {mean:.2e} nats a token over {} tokens", expected.len());
        assert!(mean > 0.0 && mean <= most, "{kv}: {mean}");
    }
}
