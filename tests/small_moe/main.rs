//! The trained small MoE, from the 8-bit MLX snapshot and from the pack in the binary: golden values of mlx-lm, answers
//! held against those of the training, and the same text whatever the expert cache and the chunks.
#![allow(clippy::unwrap_used, reason = "tests")]

mod golden;
mod kv;
mod quality;
mod same_text;
mod score;

use std::path::{Path, PathBuf};

use flashflood::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget};
use flashflood::model::ModelSource;

/// Files of the small MoE.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-moe").join(name)
}

fn options(device: Device) -> EngineOptions {
    let (activations, context) = (Activations::F32, Some(1024));
    EngineOptions { device, activations, context, experts: ExpertBudget::All, ..EngineOptions::default() }
}

fn snapshot(options: &EngineOptions) -> Engine {
    Engine::open(&file("snapshot-8bit"), options).unwrap()
}

fn embedded(options: &EngineOptions) -> Engine {
    Engine::from_source(ModelSource::embedded().unwrap(), options).unwrap()
}
