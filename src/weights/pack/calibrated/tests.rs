#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use flashflood_formats::WeightFormat;

const COLS: usize = 64;

fn numbers(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut state = seed;
    let mut unit = || (flashflood_formats::split_mix(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    Array2::from_shape_fn((rows, cols), |_| unit())
}

/// Inputs that lie in a few directions only.
fn inputs(seed: u64, rows: usize) -> Array2<f32> {
    numbers(seed, rows, 4).dot(&numbers(seed + 100, 4, COLS)) + 0.05 * numbers(seed + 1, rows, COLS)
}

struct Case {
    from: MatrixPlace,
    image: Vec<u8>,
    to: MatrixPlace,
    bytes: usize,
}

fn case() -> Case {
    let slot = |format| SlotLayout::new(COLS, COLS, [format; 3]);
    let (from, to) = (slot(WeightFormat::F32), slot(WeightFormat::affine(2, 64)));
    let mut image = vec![0; from.bytes];
    let weights = numbers(1, COLS, COLS);
    let place = from.down;
    image[place.streams[0]..][..COLS * COLS * 4].copy_from_slice(bytemuck::cast_slice(weights.as_slice().unwrap()));
    Case { from: from.down, image, to: to.down, bytes: to.bytes }
}

fn converted(metric: Option<&Metric>, kept_out: &Array2<f32>) -> (Outcome, Vec<u8>) {
    let Case { from, image, to, bytes } = case();
    let mut record = vec![0; bytes];
    let outcome = convert_matrix(&from, &image, &to, &mut record, metric, kept_out).unwrap();
    (outcome, record)
}

fn metric_of(seed: u64) -> Metric {
    let x = inputs(seed, 500);
    Metric::new(x.t().dot(&x) / 500.0, 0.01).unwrap()
}

#[test]
fn what_loses_less_on_other_tokens_is_kept() {
    let (plain_outcome, plain) = converted(None, &inputs(5, 20));
    assert_eq!(plain_outcome, Outcome::Unknown);
    // other inputs of the same kind
    let same_kind = inputs(5, 520);
    let same_kind = crate::weights::block(&same_kind, 500..520, 0..COLS).to_owned();
    let (outcome, calibrated) = converted(Some(&metric_of(5)), &same_kind);
    assert_eq!(outcome, Outcome::Better);
    assert_ne!(calibrated, plain);
    // inputs that have nothing to do with those of the calibration
    let (outcome, guarded) = converted(Some(&metric_of(5)), &numbers(9, 40, COLS));
    assert_eq!(outcome, Outcome::Worse);
    assert_eq!(guarded, plain);
    // nothing to judge by
    let (outcome, unjudged) = converted(Some(&metric_of(5)), &Array2::zeros((0, COLS)));
    assert_eq!(outcome, Outcome::Unknown);
    assert_eq!(unjudged, plain);
    // the same, whatever the threads
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| converted(Some(&metric_of(5)), &same_kind)).1, calibrated);
}

#[test]
fn a_matrix_that_is_not_definite_is_damped_more() {
    // least eigenvalues: 1 - (n - 1) times 0.3
    let of = |n: usize| Array2::from_shape_fn((n, n), |(i, j)| if i == j { 1.0 } else { -0.3 });
    assert!(Metric::new(of(5), 0.01).is_some(), "-0.2: 0.1 is too little, 1 is not");
    assert!(Metric::new(of(9), 0.01).is_none(), "-1.4: more than 1 would be needed");
    // of a layer, whose experts share it
    let layer = |n: usize| {
        let (mut input, mut hidden) = (Moments::new(n), Moments::new(1));
        input.push(&of(n), 1.0);
        (0..2).for_each(|_| hidden.push(&Array2::ones((1, 1)), 1.0));
        let mut kept_out = [KeptOut::new(n), KeptOut::new(1)];
        kept_out.iter_mut().for_each(|kept| (0..2).for_each(|_| kept.end_expert()));
        let [input_kept_out, hidden_kept_out] = kept_out;
        let (uses, weights) = (vec![50; 2], vec![1.0; 2]);
        LayerMetrics::new(LayerCalibration { uses, weights, input, hidden, input_kept_out, hidden_kept_out })
    };
    assert!(!layer(5).is_without_input() && layer(5).of(1).input.is_some());
    assert!(layer(9).is_without_input() && layer(9).of(1).input.is_none());
}

#[test]
fn few_tokens_are_damped_more() {
    assert!([0.0, 4.9, 5.0, 19.0, 20.0].map(damping) == [0.1, 0.1, 0.03, 0.03, 0.01]);
}
