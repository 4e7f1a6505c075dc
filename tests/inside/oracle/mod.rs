//! Logits, routing and state against golden values of the reference implementations, on the CPU and on the GPU.
//!
//! Tolerance: the reference's own step-by-step and prefill runs differ by up to 7e-5 on these models, which amplify
//! rounding strongly; 3e-4 leaves room for another order of summation and none for another formula.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cache;
mod chain;
mod dispatches;
mod kv;
mod plain;
mod prefill;

use std::path::{Path, PathBuf};

use crate::compute::LogitRows;
use crate::compute::gpu::{GpuOptions, Landing, Teams};
use crate::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget, KvFormat};
use crate::experts::Reads;
use crate::inside::open_on;
use crate::session::Session;
use crate::session::contents::LayerContents;
use crate::weights::safetensors::TensorSet;

const TOLERANCE: f32 = 3e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oracle").join(name)
}

struct Oracle {
    tensors: TensorSet,
    tokens: Vec<u32>,
}

impl Oracle {
    fn open(name: &str) -> Oracle {
        let tensors = TensorSet::open_file(&folder(name).join("oracle.safetensors")).unwrap();
        let tokens = integers(&tensors, "tokens").unwrap();
        Oracle { tensors, tokens }
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.tensors.get(name).map(|t| t.to_f32().unwrap())
    }
}

fn integers(tensors: &TensorSet, name: &str) -> Option<Vec<u32>> {
    let bytes = &tensors.get(name)?.bytes;
    Some(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) })
}

/// Runs `parts` one after the other, those of one token as in decode; logits `[tokens, vocab]` and routing per layer `[tokens, top_k]` of all.
fn run(session: &mut Session<'_>, parts: &[&[u32]]) -> (Vec<f32>, Vec<Vec<u32>>) {
    let (mut logits, mut routing) = (Vec::new(), Vec::<Vec<u32>>::new());
    let mut keep = |session: &mut Session<'_>| {
        logits.extend(session.logits().unwrap());
        routing.resize(session.routing().len(), Vec::new());
        for (all, now) in routing.iter_mut().zip(session.routing()) {
            all.extend(now);
        }
    };
    for part in parts {
        if let [token] = **part {
            session.decode(token).unwrap();
            keep(session);
            continue;
        }
        let every = |session: &mut Session<'_>, _| {
            keep(session);
            true
        };
        session.extend(part, LogitRows::All, every).unwrap();
    }
    (logits, routing)
}

fn check_routing(oracle: &Oracle, routing: &[Vec<u32>], top_k: usize, what: &str) {
    for (i, found) in routing.iter().enumerate() {
        let name = format!("prefill.layer.{i}.router_experts");
        let Some(expected) = integers(&oracle.tensors, &name) else { continue };
        for (t, (found, expected)) in found.chunks(top_k).zip(expected.chunks(top_k)).enumerate() {
            let (mut found, mut expected) = (found.to_vec(), expected.to_vec());
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{what}: experts of layer {i}, token {t}");
        }
    }
}

fn check_state(oracle: &Oracle, contents: &[LayerContents], tokens: usize, what: &str) {
    let mut compared = 0;
    for (i, layer) in contents.iter().enumerate() {
        let get = |name: &str| oracle.floats(&format!("cache.layer.{i}.{name}"));
        match layer {
            LayerContents::DeltaNet { conv, recurrent } => {
                let Some(expected) = get("recurrent_state") else { continue };
                let difference = largest_difference(recurrent, &expected);
                assert!(difference < 1e-4, "{what}: recurrent state of layer {i} differs by {difference}");
                // the reference keeps [channels, 4]; ours are the last rows of [3, channels]
                let expected = get("conv_state").unwrap();
                let (channels, taps) = (expected.len() / 4, conv.len() / (expected.len() / 4));
                let expected: Vec<f32> = (0..taps)
                    .flat_map(|j| (0..channels).map(move |c| (c, j)))
                    .map(|(c, j)| expected[c * 4 + 4 - taps + j])
                    .collect();
                let difference = largest_difference(conv, &expected);
                assert!(difference < 1e-4, "{what}: convolution state of layer {i} differs by {difference}");
            }
            LayerContents::Attention { keys, values } => {
                for (name, found) in [("k", keys), ("v", values)] {
                    let Some(expected) = get(name) else { continue };
                    // the reference keeps [heads, tokens, dim], we [tokens, heads, dim]
                    let width = found.len() / tokens;
                    let shape = &oracle.tensors.get(&format!("cache.layer.{i}.{name}")).unwrap().shape;
                    let dim = shape[shape.len() - 1];
                    let expected: Vec<f32> = (0..tokens)
                        .flat_map(|t| (0..width).map(move |c| (t, c)))
                        .map(|(t, c)| expected[(c / dim * tokens + t) * dim + c % dim])
                        .collect();
                    let difference = largest_difference(found, &expected);
                    assert!(difference < 1e-4, "{what}: {name} of layer {i} differs by {difference}");
                }
            }
        }
        compared += 1;
    }
    let stored = oracle.tensors.names().any(|n| n.starts_with("cache."));
    assert!(!stored || compared == contents.len(), "{what}: {compared} of {} layers compared", contents.len());
}

fn engine(name: &str, device: Device, chunk: usize, gpu: GpuOptions) -> Engine {
    // the reference computes in f32
    let activations = Activations::F32;
    let options = EngineOptions {
        device,
        activations,
        context: Some(96),
        chunk: Some(chunk),
        kv: KvFormat::F32,
        ..EngineOptions::default()
    };
    open_on(&folder(name), &options, gpu)
}

fn check_oracle(name: &str, device: Device) {
    check_oracle_with(name, device, GpuOptions::default());
}

fn check_oracle_with(name: &str, device: Device, gpu: GpuOptions) {
    let oracle = Oracle::open(name);
    let tokens = &oracle.tokens;
    let mut engine = engine(name, device, 96, gpu);
    let top_k = engine.shape().moe().unwrap().top_k;
    let prefill = oracle.floats("logits_prefill").or_else(|| oracle.floats("logits")).unwrap();
    let singles: Vec<&[u32]> = tokens.chunks(1).collect();
    let mut continued = vec![&tokens[..50], &tokens[50..91]];
    continued.extend(tokens[91..].chunks(1));
    let mut outcomes = Vec::new();
    for (what, parts, golden) in [
        ("prefill", vec![&tokens[..]], "logits_prefill"),
        ("32 at a time", tokens.chunks(32).collect(), "logits_prefill"),
        ("step by step", singles, "logits_stepwise"),
        ("50 + 41 + singles", continued, "logits_continued"),
    ] {
        let what = format!("{name} on {device:?}, {what}");
        let mut session = engine.session().unwrap();
        let (logits, routing) = run(&mut session, &parts);
        let expected = oracle.floats(golden).unwrap_or_else(|| prefill.clone());
        let difference = largest_difference(&logits, &expected);
        assert!(difference <= TOLERANCE, "{what}: logits differ by {difference}");
        check_routing(&oracle, &routing, top_k, &what);
        check_state(&oracle, &session.contents().unwrap(), tokens.len(), &what);
        println!("{what}: logits within {difference:.1e}");
        outcomes.push((what, logits));
    }
    // how a prompt is cut changes nothing, bit for bit; on the GPU where it is cut at multiples of 32
    let same = if device == Device::Cpu { outcomes.len() } else { 2 };
    for (what, logits) in &outcomes[1..same] {
        assert!(logits == &outcomes[0].1, "{what}: not the same bits as prefill");
    }
}

macro_rules! oracles {
    ($($name:ident)*) => {
        mod cpu { $( #[test] fn $name() { super::check_oracle(stringify!($name), super::Device::Cpu); } )* }
        mod gpu { $( #[test] fn $name() { super::check_oracle(stringify!($name), super::Device::Gpu); } )* }
    };
}
oracles! { tiny tiny_mlx4 mini_heads mini_next mini_q3moe mini_mlx_mixed }

#[test]
fn gpu_with_runtime_checks() {
    check_oracle_with("tiny", Device::Gpu, GpuOptions { checks: true, ..GpuOptions::default() });
}

/// 16 KiB bindings: matrices in parts, and one slab per few experts.
#[test]
fn gpu_with_small_bindings() {
    let gpu = GpuOptions { binding: 1 << 16, ..GpuOptions::default() };
    let oracle = Oracle::open("mini_next");
    let mut engine = engine("mini_next", Device::Gpu, 16, gpu);
    let mut session = engine.session().unwrap();
    let (logits, _) = run(&mut session, &[&oracle.tokens]);
    let difference = largest_difference(&logits, &oracle.floats("logits_prefill").unwrap());
    assert!(difference <= TOLERANCE, "logits differ by {difference}");
}

/// The cache holds top_k experts a layer, half of them, or all: the same bits.
#[test]
fn expert_cache_size_changes_nothing() {
    for device in [Device::Cpu, Device::Gpu] {
        let oracle = Oracle::open("tiny");
        let source = crate::model::ModelSource::open(&folder("tiny")).unwrap();
        let (slot, layers) = (source.experts().slot_bytes() as u64, source.experts().layers.len() as u64);
        let mut all = Vec::new();
        for slots in [source.shape.moe().unwrap().top_k as u64, 4 * layers, 8 * layers, 16 * layers] {
            let options = EngineOptions {
                device,
                context: Some(96),
                kv: KvFormat::F32,
                experts: ExpertBudget::Bytes(slots * slot),
                chunk: Some(40),
                ..EngineOptions::default()
            };
            let mut engine = Engine::open(&folder("tiny"), &options).unwrap();
            let mut session = engine.session().unwrap();
            let (logits, _) = run(&mut session, &[&oracle.tokens]);
            all.push((slots, logits, session.expert_stats()));
        }
        for (slots, logits, _) in &all[1..] {
            assert!(*logits == all[0].1, "{device:?}: {slots} slots give other bits than {}", all[0].0);
        }
        assert!(all[0].2.misses > all[3].2.misses, "a smaller cache must miss more often");
        assert_eq!(all[3].2.evictions, 0, "a cache of all experts evicts nothing");
    }
}

/// Every expert resident: slots are looked up on the GPU and nothing waits for the router. The same bits, and routing.
#[test]
fn resident_mode_changes_nothing() {
    // the second has weights that are multiplied with 8 bits, whose last product may be made with what combines experts
    let models = ["tiny", "tiny_mlx4"];
    for (name, binding) in models.into_iter().flat_map(|name| [u64::MAX, 1 << 17].map(|binding| (name, binding))) {
        let oracle = Oracle::open(name);
        let mut outcomes = Vec::new();
        // in slabs that are copied into a layer is in one, which its last product needs
        let ways = [(ExpertBudget::Auto, None), (ExpertBudget::All, None), (ExpertBudget::All, Some(Landing::Copied))];
        for (experts, landing) in ways {
            let gpu = GpuOptions { binding, landing, ..GpuOptions::default() };
            let context = Some(96);
            let options = EngineOptions {
                device: Device::Gpu,
                context,
                experts,
                chunk: Some(40),
                kv: KvFormat::F32,
                activations: if name == "tiny" { Activations::F32 } else { Activations::Int8 },
                ..EngineOptions::default()
            };
            let mut engine = open_on(&folder(name), &options, gpu);
            let mut session = engine.session().unwrap();
            // some of them one by one
            let (prompt, rest) = oracle.tokens.split_at(oracle.tokens.len() - 6);
            let parts: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
            let (logits, routing) = run(&mut session, &parts);
            if name == "tiny" {
                check_routing(&oracle, &routing, 4, "resident mode");
            }
            outcomes.push((logits, session.expert_stats().misses));
        }
        assert!(outcomes[1..].iter().all(|o| o.0 == outcomes[0].0), "bindings of {binding}: not the same bits");
        assert!(outcomes[0].1 > 0 && outcomes[1..].iter().all(|o| o.1 == 0), "resident mode reads nothing");
    }
}

/// What experts wrote is dumped, also where a token's last product could be made with what combines them.
#[test]
fn experts_are_dumped_wherever_they_are() {
    // of weights that are multiplied with 8 bits
    let name = "tiny_mlx4";
    let oracle = Oracle::open(name);
    let ways = [(ExpertBudget::Auto, None), (ExpertBudget::All, Some(Landing::Copied))];
    let [streamed, resident] = ways.map(|(experts, landing)| {
        let (device, context, activations) = (Device::Gpu, Some(96), Activations::Int8);
        let options = EngineOptions { device, context, activations, experts, ..EngineOptions::default() };
        let mut engine = open_on(&folder(name), &options, GpuOptions { landing, ..GpuOptions::default() });
        let mut session = engine.session().unwrap();
        session.decode(oracle.tokens[0]).unwrap();
        session.dump(vec!["experts".to_owned()]);
        session.decode(oracle.tokens[1]).unwrap();
        session.take_dumps()
    });
    assert!(streamed.iter().any(|(label, _, values)| label == "layer.0.experts" && values.iter().any(|v| *v != 0.0)));
    assert!(streamed == resident, "not what was computed");
}

/// How many threads products are spread over, and measuring it on weights and slots of the model: the same bits.
#[test]
fn teams_change_nothing() {
    let oracle = Oracle::open("tiny");
    let (last, before) = oracle.tokens.split_last().unwrap();
    let mut all = Vec::new();
    for teams in [Teams::BuiltIn, Teams::Candidate(1), Teams::Candidate(4), Teams::Measured { kept: false }] {
        let mut engine = engine("tiny", Device::Gpu, 40, GpuOptions { teams, ..GpuOptions::default() });
        let mut session = engine.session().unwrap();
        // the last token alone is what teams are tuned for
        all.push((teams, run(&mut session, &[before, &[*last]]).0));
    }
    for (teams, logits) in &all[1..] {
        assert!(*logits == all[0].1, "{teams:?}: not the same bits");
    }
}

/// Experts through the page cache, past it through the system's queue or on threads; into host slots, into memory that
/// the GPU computes from, or on the way to it: the same bits.
#[test]
fn kind_of_reads_changes_nothing() {
    let oracle = Oracle::open("tiny");
    let ways = [None, Some(Landing::Shared), Some(Landing::Staged), Some(Landing::Copied)];
    for (device, ways) in [(Device::Cpu, &ways[..1]), (Device::Gpu, &ways[..])] {
        let mut all = Vec::new();
        for (reads, &landing) in
            [Reads::Cached, Reads::Direct, Reads::Threads].iter().flat_map(|r| ways.iter().map(move |w| (*r, w)))
        {
            let gpu = GpuOptions { landing, ..GpuOptions::default() };
            // slots for a third of the experts, so that they are overwritten
            let slot = crate::model::ModelSource::open(&folder("tiny")).unwrap().experts().slot_bytes();
            let experts = ExpertBudget::Bytes(30 * slot as u64);
            let options = EngineOptions {
                device,
                context: Some(96),
                experts,
                chunk: Some(40),
                reads,
                ..EngineOptions::default()
            };
            let mut engine = open_on(&folder("tiny"), &options, gpu);
            let mut session = engine.session().unwrap();
            let logits = run(&mut session, &[&oracle.tokens]).0;
            assert!(session.expert_stats().evictions > 0, "{:?}", engine.plan());
            all.push((reads, landing, logits));
        }
        for (reads, landing, logits) in &all {
            assert!(
                *logits == all[0].2,
                "{device:?}: {reads:?} reads into {landing:?} memory give other bits than cached ones"
            );
        }
    }
}

/// Experts read on a guess, few or many, rightly or wrongly: the same bits.
#[test]
fn look_ahead_changes_nothing() {
    let oracle = Oracle::open("tiny");
    let (prompt, rest) = oracle.tokens.split_at(24);
    let ways = [None, Some(Landing::Shared), Some(Landing::Staged), Some(Landing::Copied)];
    let devices = std::iter::once((Device::Cpu, None)).chain(ways.map(|landing| (Device::Gpu, landing)));
    for (device, landing) in devices {
        let gpu = GpuOptions { landing, ..GpuOptions::default() };
        let mut all = Vec::new();
        for look_ahead in [0, 1, 3, 100] {
            let slot = crate::model::ModelSource::open(&folder("tiny")).unwrap().experts().slot_bytes();
            let experts = ExpertBudget::Bytes(30 * slot as u64);
            let options = EngineOptions { device, context: Some(96), experts, look_ahead, ..EngineOptions::default() };
            let mut engine = open_on(&folder("tiny"), &options, gpu);
            let mut session = engine.session().unwrap();
            let parts: Vec<&[u32]> = std::iter::once(prompt).chain(rest.chunks(1)).collect();
            all.push((run(&mut session, &parts), session.expert_stats()));
        }
        let (expected, none) = &all[0];
        assert_eq!((none.ahead, none.ahead_used), (0, 0));
        for (found, stats) in &all[1..] {
            assert!(found == expected, "{device:?}, {landing:?}: other bits or experts with a look ahead: {stats:?}");
            assert!(stats.ahead > 0 && stats.ahead_used > 0, "{device:?}: {stats:?}");
            assert!(stats.misses < none.misses, "{device:?}: reads ahead save misses: {stats:?}");
        }
    }
}
