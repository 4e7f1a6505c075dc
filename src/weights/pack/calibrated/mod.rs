//! Experts quantised by what they see: `flashflood pack --calibration`.
//!
//! Each matrix is quantised twice, without the calibration and with it, and keeps what loses less on tokens that the
//! calibration has kept out: text of another kind can make its codes worse than plain ones, and an expert that few tokens
//! reached says little.

mod factor;
mod matrix;
mod tally;

use std::sync::Arc;

use ndarray::Array2;
use rayon::prelude::*;

use super::convert::{BadRow, convert, streams_of, take};
use crate::weights::calibration::{KeptOut, LayerCalibration, Moments};
use crate::weights::layout::{MatrixPlace, SlotLayout};
use flashflood_formats::{Affine, ScaleType, WeightFormat, WeightRows, pack_codes};
use matrix::{Coded, Metric, quantise};
pub(super) use tally::{Outcome, Tally};

/// Rows that one task quantises: products with 256 rows are as fast as any, and a matrix has several.
const TASK_ROWS: usize = 256;
/// Tokens of other experts, per input, that an expert's own count as much as: of gate and up towards all experts of the
/// layer, of down towards inputs that have nothing to do with each other. Chosen on the small model, of 256 and 64 inputs.
const INPUT_PRIOR: f32 = 0.4;
const HIDDEN_PRIOR: f32 = 1.6;

/// What the matrices of a layer's experts are quantised by.
pub(super) struct LayerMetrics {
    calibration: LayerCalibration,
    /// Mean square of the router's weight for a use.
    mean_weight: f32,
    input: InputMetric,
}

enum InputMetric {
    /// Of all experts of the layer.
    Shared(Option<Arc<Metric>>),
    /// The mean over all experts, towards which each one's own is drawn.
    Own(Array2<f32>),
}

/// What the matrices of one expert are quantised by, where something is known.
pub(super) struct ExpertMetrics {
    input: Option<Arc<Metric>>,
    hidden: Option<Metric>,
    input_kept_out: Array2<f32>,
    hidden_kept_out: Array2<f32>,
    /// Tokens per input of down.
    pub(super) tokens_per_input: f32,
}

impl LayerMetrics {
    pub(super) fn new(calibration: LayerCalibration) -> LayerMetrics {
        let uses: u64 = calibration.uses.iter().map(|uses| u64::from(*uses)).sum();
        let weight: f64 = calibration.weights.iter().map(|weight| f64::from(*weight)).sum();
        let moments = &calibration.input;
        let input = match moments.count() {
            1 => {
                let damping = damping(uses as f32 / moments.width() as f32);
                InputMetric::Shared(Metric::new(moments.matrix(0), damping).map(Arc::new))
            }
            _ => InputMetric::Own(mean_of(moments, &calibration.weights)),
        };
        let mean_weight = if uses > 0 { (weight / uses as f64) as f32 } else { 0.0 };
        LayerMetrics { calibration, mean_weight, input }
    }

    /// Nothing can be made of the moments that all experts of the layer share: gate and up of all are quantised plainly.
    pub(super) fn is_without_input(&self) -> bool {
        matches!(self.input, InputMetric::Shared(None))
    }

    pub(super) fn of(&self, expert: usize) -> ExpertMetrics {
        let LayerCalibration { uses, weights, input, hidden, .. } = &self.calibration;
        let (uses, weight) = (uses[expert] as f32, weights[expert]);
        let kept_out = |kept: &KeptOut| kept.of(expert);
        let input = match &self.input {
            InputMetric::Shared(metric) => metric.clone(),
            InputMetric::Own(mean) => {
                let prior = INPUT_PRIOR * input.width() as f32 * self.mean_weight;
                let moment = (input.matrix(expert) * weight + mean * prior) / (weight + prior).max(f32::MIN_POSITIVE);
                Metric::new(moment, damping(uses / input.width() as f32).min(0.03)).map(Arc::new)
            }
        };
        let tokens_per_input = uses / hidden.width() as f32;
        let hidden = (uses > 0.0).then(|| {
            let prior = HIDDEN_PRIOR * hidden.width() as f32 * self.mean_weight;
            let diagonal = hidden.diagonal(expert);
            let mut moment = hidden.matrix(expert) * (weight / (weight + prior).max(f32::MIN_POSITIVE));
            moment.diag_mut().iter_mut().zip(diagonal).for_each(|(d, own)| *d = own);
            Metric::new(moment, damping(tokens_per_input))
        });
        ExpertMetrics {
            input,
            hidden: hidden.flatten(),
            input_kept_out: kept_out(&self.calibration.input_kept_out),
            hidden_kept_out: kept_out(&self.calibration.hidden_kept_out),
            tokens_per_input,
        }
    }
}

/// What is added to the diagonal of a second moment, of its mean: the more, the fewer tokens there are for an input.
fn damping(tokens_per_input: f32) -> f32 {
    match tokens_per_input {
        many if many >= 20.0 => 0.01,
        some if some >= 5.0 => 0.03,
        _ => 0.1,
    }
}

/// The mean of the moments of all experts.
fn mean_of(moments: &Moments, weights: &[f32]) -> Array2<f32> {
    let mut sum = Array2::zeros((moments.width(), moments.width()));
    let all: f32 = weights.iter().sum();
    for (expert, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        sum.scaled_add(weight / all, &moments.matrix(expert));
    }
    sum
}

/// Converts an expert as [`convert_slot`](super::convert::convert_slot) does, and then by its metrics where that is better.
/// What became of gate, up and down; the error names the matrix.
pub(super) fn convert_slot(
    from: &SlotLayout,
    image: &[u8],
    to: &SlotLayout,
    record: &mut [u8],
    metrics: &ExpertMetrics,
) -> Result<[Outcome; 3], (&'static str, BadRow)> {
    let mut outcomes = [Outcome::AsItWas; 3];
    let all = from.projections().into_iter().zip(to.projections());
    for (outcome, ((name, from), (_, to))) in outcomes.iter_mut().zip(all) {
        let (metric, kept_out) = match name {
            "down" => (metrics.hidden.as_ref(), &metrics.hidden_kept_out),
            _ => (metrics.input.as_deref(), &metrics.input_kept_out),
        };
        *outcome = convert_matrix(&from, image, &to, record, metric, kept_out).map_err(|bad| (name, bad))?;
    }
    Ok(outcomes)
}

fn convert_matrix(
    from: &MatrixPlace,
    image: &[u8],
    to: &MatrixPlace,
    record: &mut [u8],
    metric: Option<&Metric>,
    kept_out: &Array2<f32>,
) -> Result<Outcome, BadRow> {
    let mut out = streams_of(to, record);
    let rows = from.rows_in(image);
    convert(rows, to.format, out.each_mut().map(|stream| &mut **stream))?;
    let WeightFormat::Affine(Affine { bits, group, scales: ScaleType::Bf16 }) = to.format else {
        return Ok(Outcome::AsItWas);
    };
    if from.format == to.format {
        return Ok(Outcome::AsItWas);
    }
    let (Some(metric), 1..) = (metric, kept_out.nrows()) else { return Ok(Outcome::Unknown) };
    let plain = WeightRows { format: to.format, cols: to.cols, streams: out.each_ref().map(|stream| &**stream) };
    let task = |first: usize| {
        let count = TASK_ROWS.min(to.rows - first);
        let weights = unpacked(&rows, first, count);
        let coded = quantise(metric, bits, usize::from(group), weights.view());
        let with = lost(&weights, coded.values(usize::from(group)), kept_out);
        let without = lost(&weights, unpacked(&plain, first, count), kept_out);
        (coded, with, without)
    };
    let firsts: Vec<usize> = (0..to.rows).step_by(TASK_ROWS).collect();
    let tasks: Vec<(Coded, f64, f64)> = firsts.into_par_iter().map(task).collect();
    let [with, without] =
        [|t: &(Coded, f64, f64)| t.1, |t: &(Coded, f64, f64)| t.2].map(|of| tasks.iter().map(of).sum::<f64>());
    // a sum that is no number is not better
    if with.is_nan() || with > without {
        return Ok(Outcome::Worse);
    }
    let bytes = to.format.stream_bytes(to.cols);
    let [codes, scales, biases] = &mut out;
    for coded in tasks.into_iter().map(|task| task.0) {
        for row in 0..coded.codes.nrows() {
            let row_of = |values: &Array2<f32>, to: &mut [u8]| {
                for (value, bytes) in values.row(row).iter().zip(to.as_chunks_mut::<2>().0) {
                    *bytes = half::bf16::from_f32(*value).to_le_bytes();
                }
            };
            pack_codes(bits, &coded.codes.row(row).to_vec(), take(codes, bytes[0]));
            row_of(&coded.scales, take(scales, bytes[1]));
            row_of(&coded.biases, take(biases, bytes[2]));
        }
    }
    Ok(Outcome::Better)
}

fn unpacked(rows: &WeightRows<'_>, first: usize, count: usize) -> Array2<f32> {
    let mut weights = Array2::zeros((count, rows.cols));
    for row in 0..count {
        let mut out = weights.row_mut(row);
        rows.unpack(first + row, out.as_slice_mut().expect("a row of a new array lies side by side"));
    }
    weights
}

/// What `values` in the place of `weights` change of the products with `inputs`, squared and added up.
fn lost(weights: &Array2<f32>, values: Array2<f32>, inputs: &Array2<f32>) -> f64 {
    let off = (weights - &values).dot(&inputs.t());
    off.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

#[cfg(test)]
mod tests;
