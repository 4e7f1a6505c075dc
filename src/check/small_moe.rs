//! The small model that is part of this crate, from end to end: greedy text on the GPU and on the CPU.

use std::time::{Duration, Instant};

use flashflood_backends::gpu::{Gpu, MatrixUnits};

use super::report::SmallMoeRow;
use super::{CheckError, Watch};
use crate::compute::LogitRows;
use crate::engine::{Activations, Device, Engine, EngineOptions, ExpertBudget};
use crate::model::ModelSource;

const PROMPTS: [&str; 2] = [
    "One sunny morning Mia the panda walked to the tower. On the table was a green shell, and Mia felt",
    "Max was carrying some plum. Then",
];
/// Tokens written after each prompt.
const TOKENS: usize = 24;
/// Positions.
const CONTEXT: usize = 128;

/// What products multiply with, on the CPU and on the GPU, and by how much of the largest logit the results may differ: sums of
/// f32 in another order, through all layers; and now and then an activation that rounds to the next of 255 steps.
const FORMS: [Compared; 2] = [
    Compared { on_cpu: Activations::F32, on_gpu: Activations::F32, name: "f32", tolerance: 1e-3 },
    Compared { on_cpu: Activations::Int8, on_gpu: Activations::Int8, name: "int8", tolerance: 5e-2 },
];
/// The same in f16, of prompts, by units that take activations in f32: unlike those that take 8 bits they are not what
/// [`FORMS`] has.
const BY_UNITS: Compared =
    Compared { on_cpu: Activations::F32, on_gpu: Activations::Auto, name: "f32, matrix units", tolerance: 1e-2 };

#[derive(Clone, Copy)]
struct Compared {
    on_cpu: Activations,
    on_gpu: Activations,
    name: &'static str,
    tolerance: f32,
}

/// Greedy text of all prompts: ids, and the logits that each was chosen from.
struct Written {
    tokens: Vec<(u32, Vec<f32>)>,
    text: String,
    decode: Duration,
}

/// A row for each form of activations.
pub(super) fn compare(gpu: &Gpu, watch: &mut Watch<'_>) -> Result<Vec<SmallMoeRow>, CheckError> {
    let by_units = (gpu.matrix_units == Some(MatrixUnits::By8)).then_some(BY_UNITS);
    FORMS.into_iter().chain(by_units).map(|compared| compare_form(compared, watch)).collect()
}

fn compare_form(compared: Compared, watch: &mut Watch<'_>) -> Result<SmallMoeRow, CheckError> {
    let Compared { on_cpu, on_gpu, name, tolerance } = compared;
    let what = format!("the small model, activations {name}");
    watch.at(&what, "on the CPU")?;
    let expected = write(Device::Cpu, on_cpu)?;
    watch.at(&what, "on the GPU")?;
    let found = write(Device::Gpu, on_gpu)?;
    let (mut same_tokens, mut apart, mut agrees) = (0, 0.0f32, true);
    for (e, f) in expected.tokens.chunks(TOKENS).zip(found.tokens.chunks(TOKENS)) {
        for ((id, e), (found_id, f)) in e.iter().zip(f) {
            let largest = e.iter().fold(f32::MIN_POSITIVE, |most, logit| most.max(logit.abs()));
            let differences = e.iter().zip(f).map(|(e, f)| (e - f).abs());
            // NaN is as far as can be; max would pass it over
            let now = differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max) / largest;
            apart = apart.max(now);
            if id != found_id {
                let tie = (e[*id as usize] - e[*found_id as usize]) / largest;
                agrees &= tie <= 2.0 * now.min(tolerance);
                // from here on the texts are different ones
                break;
            }
            same_tokens += 1;
        }
    }
    let rate = |written: &Written| written.tokens.len() as f64 / written.decode.as_secs_f64().max(1e-9);
    Ok(SmallMoeRow {
        activations: name,
        agrees: agrees && apart <= tolerance,
        tokens: expected.tokens.len(),
        same_tokens,
        logits_apart: apart.is_finite().then_some(apart),
        tolerance,
        gpu_tokens_per_s: rate(&found),
        cpu_tokens_per_s: rate(&expected),
        text: found.text,
    })
}

/// Writes after every prompt on a device, all experts in memory.
fn write(device: Device, activations: Activations) -> Result<Written, CheckError> {
    let options = EngineOptions {
        device,
        activations,
        context: Some(CONTEXT),
        experts: ExpertBudget::All,
        ..EngineOptions::default()
    };
    let source = ModelSource::embedded().map_err(|e| CheckError::SmallMoe(e.into()))?;
    let mut engine = Engine::from_source(source, &options).map_err(CheckError::SmallMoe)?;
    let tokenizer = engine.tokenizer().map_err(CheckError::SmallMoe)?;
    let mut written = Written { tokens: Vec::new(), text: String::new(), decode: Duration::ZERO };
    for prompt in PROMPTS {
        let ids = tokenizer.encode(prompt).map_err(|e| CheckError::SmallMoe(e.into()))?;
        let mut session = engine.session()?;
        session.extend(&ids, LogitRows::Last, |_, _| true)?;
        let mut logits = session.logits()?;
        let start = Instant::now();
        let mut made = Vec::new();
        for _ in 0..TOKENS {
            let next = largest(&logits);
            made.push(next);
            written.tokens.push((next, logits));
            session.decode(next)?;
            logits = session.logits()?;
        }
        written.decode += start.elapsed();
        let text = tokenizer.decode(&made, false);
        written.text = format!("{}{prompt}{text}\n", written.text);
    }
    Ok(written)
}

/// The id of the largest logit, the first of equals.
fn largest(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (id, logit)| if *logit > best.1 { (id, *logit) } else { best });
    best.0 as u32
}
