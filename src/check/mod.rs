//! Whether a GPU computes what the CPU does: every kernel against its CPU twin at the shapes of a model, and a small model
//! from end to end. What a person with a new device runs first, and what a bug report carries.
//!
//! It is part of the library so that an app can run it where there is no terminal.

mod caches;
mod compare;
mod grouping;
mod operations;
#[cfg(test)]
mod parameters;
mod report;
mod small_moe;
mod subject;

use std::collections::BTreeSet;
use std::time::Instant;

use flashflood_backends::gpu::MatrixUnits;

pub use report::{CheckReport, KernelRow, TimedBy};

use crate::compute::gpu::{Adapters, Gpu, bandwidth, open};
use crate::compute::ops::ExpertDown;
use crate::compute::shaders::{self, Form};
use crate::compute::{ExecuteError, ShapeError};
use crate::engine::EngineError;
use crate::model::published::Published;
use crate::model::{Shape, SourceError};
use crate::session::SessionError;
use operations::{KernelRows, Pair, Times};
use subject::{CheckedShape, FormatShapes};

/// Of the vocabulary at most so many rows are computed: the whole one takes half a gigabyte.
const VOCABULARY: usize = 32_768;
/// The same where shapes are small.
const SMALL_VOCABULARY: usize = 4_096;

/// At which shapes kernels run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckShapes {
    /// The model's on a GPU, small ones on a software driver.
    #[default]
    Auto,
    /// The model's.
    Model,
    /// Small ones, with heads of the model's sizes: some seconds on any device.
    Small,
}

/// What is checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The model whose shapes kernels run at, and the bits of its experts; none is Qwen3.5-397B-A17B with 4.
    pub model: Option<(Shape, u8)>,
    /// The model's shapes or small ones.
    pub shapes: CheckShapes,
    /// Only kernels whose name contains one of these; all when empty.
    pub kernels: Vec<String>,
    /// Times kernels by the host's clock, whatever the device can.
    pub host_clock: bool,
    /// Changes an output of the kernels whose name contains this before it is compared: shows that a wrong kernel is
    /// found.
    pub disturb: Option<String>,
}

impl CheckOptions {
    fn wants(&self, kernel: &str) -> bool {
        self.kernels.is_empty() || self.kernels.iter().any(|name| kernel.contains(name.as_str()))
    }
}

/// Why nothing could be checked. A kernel that is wrong is no error but a row of the report.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No such device.
    #[error("{0}")]
    Device(#[from] flashflood_backends::gpu::GpuError),
    /// A device failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The model's shapes do not fit the kernels.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A model of the shapes could not be made.
    #[error(transparent)]
    Source(SourceError),
    /// The small model could not be opened.
    #[error("the small model: {0}")]
    SmallMoe(EngineError),
    /// The small model could not be run.
    #[error("the small model: {0}")]
    Session(#[from] SessionError),
    /// No kernel has such a name.
    #[error("no kernel has a name with `{0}` in it (hint: {1})")]
    NoKernel(String, String),
    /// Whoever watches asked for the end.
    #[error("interrupted")]
    Interrupted,
}

/// Tells whoever waits what is being checked.
struct Watch<'a>(&'a mut dyn FnMut(&str, &str) -> bool);

impl Watch<'_> {
    fn at(&mut self, what: &str, part: &str) -> Result<(), CheckError> {
        // a driver that crashes leaves no other trace
        tracing::debug!("{what}: {part}");
        if (self.0)(what, part) { Ok(()) } else { Err(CheckError::Interrupted) }
    }
}

/// Checks the GPU. `progress` is told what runs and which part of it, before each part; it ends the check by returning
/// `false`.
///
/// # Errors
/// Where there is no GPU or software driver, where a name of `options.kernels` is no kernel's, and where `progress` asked for
/// the end. What the device gets wrong is in the report: see [`CheckReport::mismatches`].
pub fn check(options: &CheckOptions, progress: &mut dyn FnMut(&str, &str) -> bool) -> Result<CheckReport, CheckError> {
    let start = Instant::now();
    for name in &options.kernels {
        if !shaders::names().any(|kernel| kernel.contains(name.as_str())) {
            let kernels: Vec<&str> = shaders::names().filter(|kernel| !kernel.contains("_q")).collect();
            return Err(CheckError::NoKernel(name.clone(), kernels.join(", ")));
        }
    }
    let gpu = pollster::block_on(open(Adapters::Any))?;
    let mut watch = Watch(progress);
    let rounds = Rounds::new(options, &gpu)?;
    let mut failures = Vec::new();
    let mut rows = KernelRows::default();
    rounds.run(&gpu, options, &mut watch, &mut rows, &mut failures)?;
    let mut small_moe = Vec::new();
    if options.kernels.is_empty() {
        match small_moe::compare(&gpu, &mut watch) {
            Ok(found) => small_moe = found,
            Err(CheckError::Interrupted) => return Err(CheckError::Interrupted),
            Err(error) => failures.push(error.to_string()),
        }
    }
    let checked: BTreeSet<&str> = rows.kernels().collect();
    let missing = shaders::names().filter(|name| options.wants(name) && !checked.contains(name));
    let (not_on_this_device, not_checked) = missing.partition(|name| !is_used(name, &gpu));
    let bandwidth = bandwidth(&gpu).unwrap_or_else(|error| {
        failures.push(format!("stream_read: {error}"));
        None
    });
    Ok(CheckReport {
        version: env!("CARGO_PKG_VERSION"),
        system: report::system(),
        device: report::DeviceReport::of(&gpu, bandwidth),
        shapes: rounds.describe(),
        rows: rows.into_vec(),
        not_on_this_device,
        not_checked,
        failures,
        small_moe,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Whether a device may use a kernel at all.
fn is_used(kernel: &str, gpu: &Gpu) -> bool {
    match kernel {
        kernel if kernel.starts_with("expert_down_combine") => ExpertDown::fits(&gpu.limits),
        kernel => shaders::units_of(kernel).is_none_or(|units| gpu.matrix_units == Some(units)),
    }
}

/// What is run one after the other: memory holds one at a time.
#[derive(Clone, Copy)]
enum Round {
    ModelF32,
    /// Where matrix units take activations in f32.
    ModelF32OnMatrixUnits,
    ModelInt8,
    /// Products without matrix units, which the model's may use.
    Formats,
    FormatsOnMatrixUnits,
    Caches,
    CachesOnMatrixUnits,
}

/// The shapes of a check.
struct Rounds {
    shape: CheckedShape,
    bits: u8,
    small: bool,
    formats: FormatShapes,
    times: Times,
}

impl Rounds {
    fn new(options: &CheckOptions, gpu: &Gpu) -> Result<Self, CheckError> {
        let default = Published::Qwen35A17b.shape().map_err(CheckError::Source)?;
        let (shape, bits) = options.model.clone().unwrap_or_else(|| (default.clone(), 4));
        let small = match options.shapes {
            CheckShapes::Auto => gpu.is_software(),
            CheckShapes::Model => false,
            CheckShapes::Small => true,
        };
        let vocab = if small { SMALL_VOCABULARY } else { VOCABULARY };
        let shape = CheckedShape::cut(&shape, &default, vocab).expect("the default has a layer of each kind");
        let shape = if small { shape.narrow() } else { shape };
        let formats = match small {
            true => FormatShapes { hidden: 512, rows: 640, intermediate: 256 },
            false => FormatShapes { hidden: 2048, rows: 4096, intermediate: 512 },
        };
        let times = Times { runs: if gpu.is_software() { 1 } else { 10 }, by_host: options.host_clock };
        Ok(Rounds { shape, bits, small, formats, times })
    }

    fn describe(&self) -> String {
        let CheckedShape { hidden, vocab, attention, moe, .. } = &self.shape;
        format!(
            "{}: hidden {}, a layer of delta-net and one of attention ({} heads of {}), {} experts of {} of which a token \
             takes {}, vocabulary {}, {} bits; decode and prompts of {} tokens after {} others",
            if self.small { "small" } else { "the model's" },
            hidden,
            attention.heads,
            attention.head_dim,
            moe.experts,
            moe.width,
            moe.top_k,
            vocab,
            self.bits,
            subject::TOKENS,
            subject::HISTORY,
        )
    }

    /// Runs all subjects. What a device cannot run at all is told in `failures`, and the next one is tried.
    fn run(
        &self,
        gpu: &Gpu,
        options: &CheckOptions,
        watch: &mut Watch<'_>,
        rows: &mut KernelRows,
        failures: &mut Vec<String>,
    ) -> Result<(), CheckError> {
        let (shape, bits, both) = (&self.shape, self.bits, [Form::F32, Form::Int8]);
        for round in [
            Round::ModelF32,
            Round::ModelF32OnMatrixUnits,
            Round::ModelInt8,
            Round::Formats,
            Round::FormatsOnMatrixUnits,
            Round::Caches,
            Round::CachesOnMatrixUnits,
        ] {
            let (subject, cooperative) = match round {
                Round::ModelF32 => (subject::model(shape, bits, Form::F32), false),
                Round::ModelF32OnMatrixUnits if gpu.matrix_units == Some(MatrixUnits::By8) => {
                    (subject::model(shape, bits, Form::F32), true)
                }
                Round::ModelF32OnMatrixUnits => continue,
                Round::ModelInt8 => (subject::model(shape, bits, Form::Int8), true),
                Round::Formats => (subject::formats(self.formats, &both), false),
                Round::FormatsOnMatrixUnits => {
                    let Some(units) = gpu.matrix_units else { continue };
                    (subject::formats(self.formats, &[Form::of_units(units)]), true)
                }
                Round::Caches => (caches::formats(shape), false),
                Round::CachesOnMatrixUnits if gpu.matrix_units == Some(MatrixUnits::By16) => {
                    (caches::formats(shape), true)
                }
                Round::CachesOnMatrixUnits => continue,
            };
            let subject = subject?;
            watch.at(&subject.name, "made ready")?;
            let pair = Pair::new(&subject, gpu, cooperative, self.times).map_err(CheckError::from);
            match pair.and_then(|mut pair| pair.compare(options, watch, rows)) {
                Ok(()) => {}
                Err(CheckError::Interrupted) => return Err(CheckError::Interrupted),
                Err(error) => failures.push(format!("{}: {error}", subject.name)),
            }
        }
        Ok(())
    }
}
