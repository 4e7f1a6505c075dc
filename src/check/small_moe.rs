//! The small model that is part of this crate, from end to end: greedy text on the GPU and on the CPU.

use std::time::{Duration, Instant};

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

/// What products multiply with, and by how much of the largest logit the results may differ: sums of f32 in another
/// order, through all layers; and now and then an activation that rounds to the next of 255 steps.
const FORMS: [(Activations, &str, f32); 2] = [(Activations::F32, "f32", 1e-3), (Activations::Int8, "int8", 5e-2)];

/// Greedy text of all prompts: ids, and the logits that each was chosen from.
struct Written {
    tokens: Vec<(u32, Vec<f32>)>,
    text: String,
    decode: Duration,
}

/// A row for each form of activations.
pub(super) fn compare(watch: &mut Watch<'_>) -> Result<Vec<SmallMoeRow>, CheckError> {
    FORMS.iter().map(|&(form, name, tolerance)| compare_form(form, name, tolerance, watch)).collect()
}

fn compare_form(
    form: Activations,
    name: &'static str,
    tolerance: f32,
    watch: &mut Watch<'_>,
) -> Result<SmallMoeRow, CheckError> {
    let what = format!("the small model, activations {name}");
    watch.at(&what, "on the CPU")?;
    let expected = write(Device::Cpu, form)?;
    watch.at(&what, "on the GPU")?;
    let found = write(Device::Gpu, form)?;
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
