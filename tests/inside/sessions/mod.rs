//! Sessions that go back, go on and come back: checkpoints, `Session::sync`, session files.
#![allow(clippy::unwrap_used, reason = "tests")]

mod conversation;
mod cuts;
mod damage;
mod divergence;
mod files;
mod process;

use std::path::{Path, PathBuf};

use crate::engine::{Activations, Device, Engine, EngineOptions, KvFormat};
use crate::session::{Session, Synced};
use crate::state::CheckpointOptions;

const DEVICES: [Device; 2] = [Device::Cpu, Device::Gpu];

/// The golden model with random weights that the reference implementation has run: three linear layers, one attention.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oracle/tiny")
}

fn engine(path: &Path, device: Device, chunk: usize) -> Engine {
    engine_with(path, device, chunk, KvFormat::F32)
}

fn engine_with(path: &Path, device: Device, chunk: usize, kv: KvFormat) -> Engine {
    let (activations, context, chunk) = (Activations::F32, Some(96), Some(chunk));
    let options = EngineOptions { device, activations, context, chunk, kv, ..EngineOptions::default() };
    Engine::open(path, &options).unwrap()
}

/// A checkpoint wherever one may be.
const EVERYWHERE: CheckpointOptions = CheckpointOptions { bytes: u64::MAX, every: 1, least_gap: 1 };

fn sync(session: &mut Session<'_>, tokens: &[u32], boundaries: &[usize]) -> Synced {
    session.sync(tokens, boundaries, |_| true).unwrap()
}

/// Whether logits are the same though their prompts were cut otherwise: to the bit on the CPU, and within the oracle's
/// tolerance on the GPU, whose delta rule goes by chunks of tokens.
fn agree(device: Device, found: &[f32], expected: &[f32]) -> bool {
    match device {
        Device::Cpu => bits(found) == bits(expected),
        _ => largest_difference(found, expected) <= TOLERANCE,
    }
}

const TOLERANCE: f32 = 3e-4;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { most.max(d) })
}
