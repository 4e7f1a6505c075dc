//! Families of models, from the folder that the hub would hold: logits and routing as transformers computes them, in one
//! go and in pieces, on the CPU and on the GPU; releases that lay the same model out in another way; packs; and every
//! command of the program.
#![allow(clippy::unwrap_used, reason = "tests")]

mod gguf;
mod oracle;
mod packs;
mod program;
mod quantised;
mod releases;
mod scaled_rope;
#[cfg(feature = "server")]
mod serving;
mod shapes;
mod snapshot;

use std::path::Path;

use flashflood::compute::LogitRows;
use flashflood::engine::{Activations, Device, Engine, EngineOptions, KvFormat};
use flashflood::session::Session;

/// Of logits, absolute: the reference's own ways of computing them differ by 1e-5. It leaves room for another order of
/// summation and none for another formula.
const TOLERANCE: f32 = 3e-4;

const FAMILIES: [&str; 3] = ["qwen3", "qwen3_5_text", "mixtral"];

/// Opens a model that computes in f32, as the reference does.
fn open(folder: &Path, device: Device) -> Engine {
    let activations = Activations::F32;
    let options =
        EngineOptions { device, activations, context: Some(128), kv: KvFormat::F32, ..EngineOptions::default() };
    Engine::open(folder, &options).unwrap()
}

/// What a model computed for some tokens.
#[derive(PartialEq)]
struct Computed {
    /// `[tokens, vocabulary]`.
    logits: Vec<f32>,
    /// Per MoE layer `[tokens, top_k]`.
    routing: Vec<Vec<u32>>,
}

/// Runs `parts` one after the other, those of one token as in decode.
fn run(session: &mut Session<'_>, parts: &[&[u32]]) -> Computed {
    let mut all = Computed { logits: Vec::new(), routing: Vec::new() };
    let mut keep = |session: &mut Session<'_>| {
        all.logits.extend(session.logits().unwrap());
        all.routing.resize(session.routing().len(), Vec::new());
        for (all, now) in all.routing.iter_mut().zip(session.routing()) {
            all.extend(now);
        }
    };
    for part in parts {
        if let [token] = **part {
            session.decode(token).unwrap();
            keep(session);
        } else {
            let every = |session: &mut Session<'_>, _| {
                keep(session);
                true
            };
            session.extend(part, LogitRows::All, every).unwrap();
        }
    }
    all
}

/// Opens a model and runs `tokens` at once.
fn computed(folder: &Path, device: Device, tokens: &[u32]) -> Computed {
    run(&mut open(folder, device).session().unwrap(), &[tokens])
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |largest, d| if d.is_nan() { f32::NAN } else { largest.max(d) })
}
