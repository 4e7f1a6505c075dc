//! The routed experts of a layer, each with all tokens that chose it: what they add to the residual stream, and the moments.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::rows::Rows;
use super::{CalibrateError, Job};
use crate::weights::calibration::{KeptOut, LayerCalibration};
use crate::weights::{ExpertImages, LayerExperts, MatrixPlace, block};

/// Tokens of an expert in memory at a time.
const SLAB: usize = 4096;
/// Rows or columns of a product that one task takes.
const TASK: usize = 128;
/// Of a kept-out row, and so of what an expert keeps: more where rows are short.
const LEAST_KEPT: usize = 32;
const KEPT_NUMBERS: usize = 1 << 16;

/// Who chose an expert.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) token: u32,
    pub(super) weight: f32,
}

/// The matrices of an expert in f32.
struct Expert {
    gate: Array2<f32>,
    up: Array2<f32>,
    down: Array2<f32>,
}

/// Which of an expert's tokens are kept out of its moments: a tenth of them, evenly, and not more than `most`.
struct Lot {
    uses: usize,
    kept: usize,
}

impl Lot {
    fn new(uses: usize, width: usize) -> Lot {
        Lot { uses, kept: (uses / 10).min(LEAST_KEPT.max(KEPT_NUMBERS / width)) }
    }

    /// Whether the `n`th is kept out: there is one for every `uses / kept`.
    fn is_kept_out(&self, n: usize) -> bool {
        self.uses > 0 && (n + 1) * self.kept / self.uses > n * self.kept / self.uses
    }
}

impl Job<'_> {
    /// Runs the experts of MoE layer `n`: adds what they give to `x`, and collects what is known of them.
    pub(super) fn run_experts(
        &mut self,
        n: usize,
        layer: usize,
        choices: &[Vec<Choice>],
        inputs: &Rows,
        x: &mut Rows,
    ) -> Result<LayerCalibration, CalibrateError> {
        let experts = &self.source.experts().layers[n];
        let images = ExpertImages::open(self.source.experts(), n, layer)?;
        let mut image = vec![0; experts.slot.bytes];
        let mut found = LayerCalibration::new(experts);
        let mut layer_input = LayerInput::new(self.own_moments(experts), experts.slot.gate.cols, self.tokens);
        for (expert, choices) in choices.iter().enumerate() {
            images.read(expert, &mut image)?;
            let matrices = Expert::new(experts, &image);
            let mut of_expert = Collected::new(&mut found, &mut layer_input, choices.len());
            for slab in choices.chunks(SLAB) {
                let slab_inputs = gather(slab, inputs, experts.slot.gate.cols)?;
                let hidden = matrices.hidden(&slab_inputs);
                of_expert.add(slab, &slab_inputs, &hidden);
                let out = product(&hidden, &matrices.down);
                for (choice, row) in slab.iter().zip(out.rows()) {
                    let weighted: Vec<f32> = row.iter().map(|y| choice.weight * y).collect();
                    x.add(choice.token as usize, &weighted)?;
                }
            }
            of_expert.end();
            self.advance(choices.len() as f64 / experts.top_k as f64)?;
        }
        layer_input.end(inputs, &mut found)?;
        Ok(found)
    }

    /// Whether each expert has moments of its own inputs: of wide ones they would be larger than the model.
    fn own_moments(&self, experts: &LayerExperts) -> bool {
        self.options.per_expert || experts.slot.gate.cols <= 512
    }
}

impl Expert {
    fn new(experts: &LayerExperts, image: &[u8]) -> Expert {
        let matrix = |place: &MatrixPlace| {
            let rows = place.rows_in(image);
            let mut values = vec![0.0; place.rows * place.cols];
            values.par_chunks_exact_mut(place.cols).enumerate().for_each(|(row, out)| rows.unpack(row, out));
            Array2::from_shape_vec((place.rows, place.cols), values).expect("so many values were made")
        };
        Expert { gate: matrix(&experts.slot.gate), up: matrix(&experts.slot.up), down: matrix(&experts.slot.down) }
    }

    /// `silu(gate x) * (up x)`
    fn hidden(&self, inputs: &Array2<f32>) -> Array2<f32> {
        let mut hidden = product(inputs, &self.gate);
        let up = product(inputs, &self.up);
        hidden.zip_mut_with(&up, |gate, up| *gate = *gate / (1.0 + (-*gate).exp()) * up);
        hidden
    }
}

/// `x transpose(w)`, some rows a task.
fn product(x: &Array2<f32>, w: &Array2<f32>) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), w.nrows()));
    let tasks: Vec<(ArrayViewMut2<'_, f32>, ArrayView2<'_, f32>)> =
        out.axis_chunks_iter_mut(Axis(0), TASK).zip(x.axis_chunks_iter(Axis(0), TASK)).collect();
    tasks.into_par_iter().for_each(|(mut out, x)| general_mat_mul(1.0, &x, &w.t(), 0.0, &mut out));
    out
}

/// Adds the lower triangle, and some above it, of `transpose(x) x`, some rows a task.
fn add_moment(sum: &mut Array2<f32>, x: &Array2<f32>) {
    let tasks: Vec<ArrayViewMut2<'_, f32>> = sum.axis_chunks_iter_mut(Axis(0), TASK).collect();
    tasks.into_par_iter().enumerate().for_each(|(task, mut sum)| {
        let (first, tokens) = (task * TASK, x.nrows());
        let end = first + sum.nrows();
        let (ours, before) = (block(x, 0..tokens, first..end), block(x, 0..tokens, 0..end));
        general_mat_mul(1.0, &ours.t(), &before, 1.0, &mut sum.slice_axis_mut(Axis(1), (0..end).into()));
    });
}

/// `[tokens of the choices, width]`
fn gather(choices: &[Choice], rows: &Rows, width: usize) -> Result<Array2<f32>, CalibrateError> {
    let mut found = Array2::zeros((choices.len(), width));
    for (choice, mut row) in choices.iter().zip(found.rows_mut()) {
        rows.read(choice.token as usize, row.as_slice_mut().expect("a row of a new array lies side by side"))?;
    }
    Ok(found)
}

/// Rows times the weights of their choices, those that are kept out times 0.
fn weighted(choices: &[Choice], rows: &Array2<f32>, takes: impl Fn(usize) -> bool) -> Array2<f32> {
    let mut scaled = rows.clone();
    for (n, (choice, mut row)) in choices.iter().zip(scaled.rows_mut()).enumerate() {
        row *= if takes(n) { choice.weight } else { 0.0 };
    }
    scaled
}

/// The moments of what gate and up get.
enum LayerInput {
    /// Of one expert after the other: the sum, and its weight.
    Own(Array2<f32>, f64),
    /// Of the whole layer: what each token weighs, with all experts that chose it. Its products are taken once, and not once
    /// for every expert.
    Shared(Vec<f32>),
}

impl LayerInput {
    fn new(own: bool, width: usize, tokens: usize) -> LayerInput {
        match own {
            true => LayerInput::Own(Array2::zeros((width, width)), 0.0),
            false => LayerInput::Shared(vec![0.0; tokens]),
        }
    }

    /// Tokens of an expert, of which those are taken that `takes` says.
    fn add(&mut self, slab: &[Choice], inputs: &Array2<f32>, takes: impl Fn(usize) -> bool) {
        let taken = slab.iter().enumerate().filter(|(n, _)| takes(*n)).map(|(_, choice)| choice);
        match self {
            LayerInput::Own(sum, weight) => {
                *weight += taken.map(|choice| f64::from(choice.weight * choice.weight)).sum::<f64>();
                add_moment(sum, &weighted(slab, inputs, takes));
            }
            LayerInput::Shared(weights) => {
                taken.for_each(|choice| weights[choice.token as usize] += choice.weight * choice.weight);
            }
        }
    }

    fn end_expert(&mut self, found: &mut LayerCalibration) {
        if let LayerInput::Own(sum, weight) = self {
            found.input.push(sum, *weight);
            sum.fill(0.0);
            *weight = 0.0;
        }
    }

    fn end(self, inputs: &Rows, found: &mut LayerCalibration) -> Result<(), CalibrateError> {
        let LayerInput::Shared(weights) = self else { return Ok(()) };
        let width = found.input.width();
        let mut sum = Array2::zeros((width, width));
        for (slab, weights) in weights.chunks(SLAB).enumerate() {
            let mut rows = Array2::zeros((weights.len(), width));
            inputs.read(slab * SLAB, rows.as_slice_mut().expect("a new array lies side by side"))?;
            rows.rows_mut().into_iter().zip(weights).for_each(|(mut row, weight)| row *= weight.sqrt());
            add_moment(&mut sum, &rows);
        }
        found.input.push(&sum, weights.iter().map(|weight| f64::from(*weight)).sum());
        Ok(())
    }
}

/// What is collected of one expert.
struct Collected<'a> {
    found: &'a mut LayerCalibration,
    input: &'a mut LayerInput,
    hidden: Array2<f32>,
    weight: f64,
    uses: u32,
    input_lot: Lot,
    hidden_lot: Lot,
    seen: usize,
}

impl<'a> Collected<'a> {
    fn new(found: &'a mut LayerCalibration, input: &'a mut LayerInput, uses: usize) -> Self {
        let width = found.hidden.width();
        Collected {
            input_lot: Lot::new(uses, found.input.width()),
            hidden_lot: Lot::new(uses, width),
            hidden: Array2::zeros((width, width)),
            found,
            input,
            weight: 0.0,
            uses: 0,
            seen: 0,
        }
    }

    fn add(&mut self, slab: &[Choice], inputs: &Array2<f32>, hidden: &Array2<f32>) {
        let seen = self.seen;
        for (lot, rows, kept) in [
            (&self.input_lot, inputs, &mut self.found.input_kept_out),
            (&self.hidden_lot, hidden, &mut self.found.hidden_kept_out),
        ] {
            for (n, (choice, row)) in slab.iter().zip(rows.rows()).enumerate() {
                if lot.is_kept_out(seen + n) {
                    keep(kept, choice, row.iter());
                }
            }
        }
        let lot = &self.input_lot;
        self.input.add(slab, inputs, |n| !lot.is_kept_out(seen + n));
        add_moment(&mut self.hidden, &weighted(slab, hidden, |n| !self.hidden_lot.is_kept_out(seen + n)));
        for (n, choice) in slab.iter().enumerate() {
            if !self.hidden_lot.is_kept_out(seen + n) {
                self.weight += f64::from(choice.weight) * f64::from(choice.weight);
                self.uses += 1;
            }
        }
        self.seen += slab.len();
    }

    fn end(self) {
        self.found.hidden.push(&self.hidden, self.weight);
        self.found.uses.push(self.uses);
        self.found.weights.push(self.weight as f32);
        self.found.input_kept_out.end_expert();
        self.found.hidden_kept_out.end_expert();
        self.input.end_expert(self.found);
    }
}

fn keep<'a>(kept: &mut KeptOut, choice: &Choice, row: impl Iterator<Item = &'a f32>) {
    kept.push(row.map(|x| choice.weight * x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_kept_out_and_not_more_than_there_is_room_for() {
        for (uses, width, expected) in
            [(0, 64, 0), (9, 64, 0), (10, 64, 1), (1234, 64, 123), (20_000, 64, 1024), (9000, 4096, 32)]
        {
            let lot = Lot::new(uses, width);
            let kept: Vec<usize> = (0..uses).filter(|n| lot.is_kept_out(*n)).collect();
            assert_eq!(kept.len(), expected, "{uses} uses");
            let gaps = kept.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(gaps.clone().max().unwrap_or(0) <= gaps.min().unwrap_or(0) + 1, "{uses} uses: evenly");
        }
    }

    #[test]
    fn moments_are_sums_of_products() {
        let x = Array2::from_shape_fn((37, 200), |(i, j)| ((i * 7 + j * 3) % 11) as f32 - 5.0);
        let mut sum = Array2::zeros((200, 200));
        add_moment(&mut sum, &x);
        let expected = x.t().dot(&x);
        assert!((0..200).all(|i| (0..=i).all(|j| sum[[i, j]] == expected[[i, j]])));
        let w = Array2::from_shape_fn((50, 200), |(i, j)| ((i + j) % 3) as f32);
        assert_eq!(product(&x, &w), x.dot(&w.t()));
    }
}
