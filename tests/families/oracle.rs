//! Logits, experts and greedy texts of transformers.

use super::snapshot::{Oracle, Snapshot};
use super::*;

/// The experts of `found`, per layer `[tokens, top_k]`, are those of the oracle, in any order; a dense model has none.
fn check_routing(oracle: &Oracle, found: &[Vec<u32>], tokens: usize, what: &str) {
    let expected: Vec<Vec<u32>> = (0..).map_while(|n| oracle.ids(&format!("routing.{n}"))).collect();
    if expected.is_empty() {
        assert!(found.iter().all(Vec::is_empty), "{what}: experts of a dense model");
        return;
    }
    assert_eq!(found.len(), expected.len(), "{what}: MoE layers");
    for (layer, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: layer {layer}");
        let top_k = expected.len() / tokens;
        for (token, (found, expected)) in found.chunks(top_k).zip(expected.chunks(top_k)).enumerate() {
            let mut found = found.to_vec();
            found.sort_unstable();
            assert_eq!(found, expected, "{what}: experts of layer {layer}, token {token}");
        }
    }
}

fn check(name: &str, device: Device) {
    let (snapshot, oracle) = (Snapshot::of(name), Oracle::of(name));
    let tokens = oracle.ids("tokens").unwrap();
    let mut engine = open(snapshot.path(), device);
    let mut continued = vec![&tokens[..50], &tokens[50..91]];
    continued.extend(tokens[91..].chunks(1));
    for (what, parts, expected) in [
        ("at once", vec![&tokens[..]], oracle.logits()),
        ("step by step", tokens.chunks(1).collect(), oracle.logits_off("stepwise_off")),
        ("50 + 41 + singles", continued, oracle.logits_off("continued_off")),
    ] {
        let what = format!("{name} on {device:?}, {what}");
        let found = run(&mut engine.session().unwrap(), &parts);
        let difference = largest_difference(&found.logits, &expected);
        assert!(difference <= TOLERANCE, "{what}: logits differ by {difference}");
        println!("{what}: logits within {difference:.1e}");
        check_routing(&oracle, &found.routing, tokens.len(), &what);
    }
}

fn check_greedy(name: &str, device: Device) {
    let (snapshot, oracle) = (Snapshot::of(name), Oracle::of(name));
    let mut engine = open(snapshot.path(), device);
    for (prompt, continuation) in [("tokens", "greedy"), ("text", "text_greedy")] {
        let (prompt, expected) = (oracle.ids(prompt).unwrap(), oracle.ids(continuation).unwrap());
        let mut session = engine.session().unwrap();
        session.extend(&prompt, LogitRows::Last, |_, _| true).unwrap();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let logits = session.logits().unwrap();
            let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
            found.push(largest);
            session.decode(largest).unwrap();
        }
        assert_eq!(found, expected, "{name} on {device:?}: {continuation}");
    }
}

macro_rules! families {
    ($device:ident: $($name:ident)*) => { $(
        mod $name {
            use super::super::Device;

            #[test]
            fn logits_and_experts() {
                super::super::check(stringify!($name), Device::$device);
            }

            #[test]
            fn in_other_dimensions() {
                super::super::check(concat!(stringify!($name), "-alt"), Device::$device);
            }

            #[test]
            fn greedy_ids() {
                super::super::check_greedy(stringify!($name), Device::$device);
            }
        }
    )* };
}

mod cpu {
    families! { Cpu: qwen3 qwen3_5_text mixtral }
}
mod gpu {
    families! { Gpu: qwen3 qwen3_5_text mixtral }
}
