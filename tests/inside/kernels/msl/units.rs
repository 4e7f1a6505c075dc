//! Products of prompts by Apple's matrix units (simdgroup matrices), in every weight format.
//!
//! They multiply in f16. Weights and activations here are around 1, each rounded to 1 in 4,096 at most, and errors of `cols`
//! products cancel: they grow as the root of it.

use std::collections::BTreeSet;

use crate::compute::LogitRows;
use crate::compute::ops::{Matmul, RowsOf};
use crate::compute::shaders::Form;
use crate::weights::WeightFormat;

use crate::inside::kernels::experts::{layout, routed};
use crate::inside::kernels::random::{Random, formats};
use crate::inside::kernels::trial::Trial;

/// One of each that kernels tell apart.
fn each_format() -> Vec<WeightFormat> {
    let mut seen = BTreeSet::new();
    formats("").into_iter().filter(|format| seen.insert(format.suffix())).collect()
}

fn atol(cols: usize) -> f32 {
    1e-3 * (cols as f32).sqrt()
}

/// Whole tiles and edges, sums that are written and that are added.
fn product(format: WeightFormat, least_cols: usize, steps: &[usize]) {
    let mut trial = Trial::new(7, *steps.iter().max().unwrap());
    (trial.on_matrix_units, trial.logits) = (true, LogitRows::All);
    let cols = least_cols.next_multiple_of(format.column_multiple());
    for (accumulate, rows) in [(false, 132), (true, 132), (true, 61)] {
        let matrix = trial.matrix(format, rows, cols);
        let (x, out) = (trial.tensor(1, cols), trial.tensor(1, rows));
        let (x, rows) = (x.into(), RowsOf::Tokens);
        trial.push(Matmul { x, matrix, out, accumulate, exact: false, rows, unscaled: None });
        trial.within(out, atol(cols), 1e-3);
    }
    trial.check(steps).unwrap();
}

#[test]
fn products_of_matrices() {
    if super::phase().is_none() {
        return;
    }
    each_format().into_iter().for_each(|format| product(format, 96, &[37]));
}

/// All tiles.
#[test]
fn few_tokens() {
    if super::phase().is_none() {
        return;
    }
    product(formats("q4")[0], 96, &[64, 7, 16]);
    // one block, and two
    product(formats("q4")[0], 32, &[9]);
    product(formats("f16")[0], 32, &[9, 1]);
    product(formats("f16")[0], 64, &[9]);
}

/// What is exact stays so.
#[test]
fn exact_products() {
    if super::phase().is_none() {
        return;
    }
    let mut trial = Trial::new(7, 9);
    trial.on_matrix_units = true;
    let matrix = trial.matrix(formats("f32")[0], 40, 96);
    let (x, out) = (trial.tensor(1, 96).into(), trial.tensor(1, 40));
    let (accumulate, exact, rows) = (false, true, RowsOf::Tokens);
    trial.push(Matmul { x, matrix, out, accumulate, exact, rows, unscaled: None });
    trial.within(out, crate::inside::kernels::matmul::atol(96), 1e-6);
    trial.check(&[9]).unwrap();
}

/// The experts of a layer of which each token chooses one, with so many tokens a step.
fn experts(formats: [WeightFormat; 3], experts: usize, form: Form, steps: &[usize]) {
    let mut random = Random::new(1);
    let layout = layout(&mut random, experts, &[formats]);
    let mut trial = routed(2, layout, 1, experts, *steps.iter().max().unwrap(), form);
    trial.on_matrix_units = true;
    // outputs are sums of some hundred products of up to 5; hidden values in 8 bits may get another code
    trial.loosen(if form == Form::Int8 { 0.4 } else { 0.08 });
    trial.check(steps).unwrap();
}

#[test]
fn products_of_experts() {
    if super::phase().is_none() {
        return;
    }
    each_format().into_iter().for_each(|format| experts([format; 3], 1, Form::F32, &[20]));
    let [four, eight] = ["q4", "q8"].map(|name| formats(name)[0]);
    experts([four, eight, four], 1, Form::F32, &[5]);
}

/// Tiles of few pairs and of many, and parts of them.
#[test]
fn tiles_of_experts() {
    if super::phase().is_none() {
        return;
    }
    let format = formats("q4")[0];
    experts([format; 3], 1, Form::F32, &[64, 41, 16, 3]);
    experts([format; 3], 3, Form::F32, &[64]);
    // hidden values in 8 bits of products in f32
    let dense = formats("bf16")[0];
    experts([dense, dense, format], 1, Form::Int8, &[64, 20, 3]);
}
