//! Tests that look inside the rooms. They are modules of the library, so that nothing is public for their sake alone;
//! the suites beside this folder use flashflood as other programs do.
#![allow(clippy::unwrap_used, reason = "tests")]

mod calibrate;
mod expert_store;
mod faults;
mod faulty_reader;
mod forced_answers;
mod kernels;
mod open_snapshot;
mod oracle;
mod pack;
mod quantise;
mod random_gguf;
#[expect(dead_code, reason = "the program prints more of it")]
#[path = "../../src/cli/bench/replay.rs"]
mod replay;
mod sessions;
mod shaders;
mod templates;

use std::path::Path;

use crate::compute::gpu::GpuOptions;
use crate::engine::{Engine, EngineOptions};
use crate::model::ModelSource;

/// An engine that is made ready for a GPU as `gpu` says: with checks, with less than the device has.
fn open_on(path: &Path, options: &EngineOptions, gpu: GpuOptions) -> Engine {
    Engine::with_gpu_options(ModelSource::open(path).unwrap(), options, gpu).unwrap()
}
