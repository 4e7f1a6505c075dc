#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn numbers(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_fn((rows, cols), |_| {
        let mut unit = || (flashflood_formats::split_mix(&mut state) >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (0..6).map(|_| unit()).sum()
    })
}

/// Second moments of inputs that hang together, as those of a model do.
fn moments(seed: u64, cols: usize) -> Array2<f32> {
    let x = numbers(seed, 3 * cols, cols / 4).dot(&numbers(seed + 1, cols / 4, cols))
        + 0.1 * numbers(seed + 2, 3 * cols, cols);
    x.t().dot(&x) / (3 * cols) as f32
}

/// `(w - q) h transpose(w - q)` of all rows, in f64.
fn error(h: &Array2<f32>, weights: &Array2<f32>, values: &Array2<f32>) -> f64 {
    let off = (weights - values).mapv(f64::from);
    (off.dot(&h.mapv(f64::from)) * &off).sum()
}

fn plain(bits: u8, group: usize, weights: &Array2<f32>) -> Array2<f32> {
    let format = flashflood_formats::WeightFormat::affine(bits, group as u16);
    let bytes = format.stream_bytes(weights.ncols());
    let mut all = weights.clone();
    for mut row in all.rows_mut() {
        let mut streams = bytes.map(|bytes| vec![0; bytes]);
        format.quantise_row(&row.to_vec(), streams.each_mut().map(|stream| &mut stream[..])).unwrap();
        let streams = streams.each_ref().map(|stream| &stream[..]);
        let rows = flashflood_formats::WeightRows { format, cols: weights.ncols(), streams };
        rows.unpack(0, row.as_slice_mut().unwrap());
    }
    all
}

/// What a column leaves to those behind it, found without a factor: the best that they can become is the solution of the
/// normal equations in f64.
#[test]
fn feedback_is_what_makes_good_most() {
    let (cols, group) = (64, 32);
    let (h, weights) = (moments(5, cols), numbers(8, 3, cols));
    let metric = Metric::new(h, 0.02).unwrap();
    let coded = feed_back(&metric, 2, group, weights.view());
    let h = metric.h.mapv(f64::from);
    for row in 0..3 {
        let original = weights.row(row).mapv(f64::from);
        for column in 0..cols {
            // columns so far are as they are coded, and those from here on as is best with them
            let (done, left) = (0..column, column..cols);
            let mut wanted: Vec<f64> = left
                .clone()
                .map(|i| done.clone().map(|j| h[[i, j]] * (original[j] - f64::from(coded.value(row, j, group)))).sum())
                .collect();
            let inner = Array2::from_shape_fn((left.len(), left.len()), |(i, j)| h[[column + i, column + j]]);
            assert!(solve(inner, &mut wanted));
            let best = original[column] + wanted[0];
            let (scale, bias) = (coded.scales[[row, column / group]], coded.biases[[row, column / group]]);
            let position = (best - f64::from(bias)) / f64::from(scale);
            let off = (position.clamp(0.0, 3.0) - f64::from(coded.codes[[row, column]])).abs();
            assert!(off < 0.501, "row {row}, column {column}: {position} became {}", coded.codes[[row, column]]);
        }
    }
}

#[test]
fn refinement_never_loses_what_is_gained() {
    for (bits, group, cols) in [(2, 64, 192), (3, 32, 96), (4, 128, 128)] {
        let (h, weights) = (moments(u64::from(bits), cols), numbers(3, 20, cols));
        let metric = Metric::new(h, 0.01).unwrap();
        let coded = feed_back(&metric, bits, group, weights.view());
        let fed_back = error(&metric.h, &weights, &coded.values(group));
        let mut rows = Rows::new(&metric, bits, group, weights.view(), coded);
        let mut before = fed_back;
        for step in 0..4 {
            if step % 2 == 0 {
                rows.refit()
            } else {
                rows.descend()
            }
            let now = error(&metric.h, &weights, &rows.coded.values(group));
            let known: f64 = rows.errors.iter().sum();
            assert!(now <= before * (1.0 + 1e-6), "{bits} bits, step {step}: {before} became {now}");
            assert!((now - known).abs() < 1e-3 * now, "{bits} bits, step {step}: {known} is kept, and it is {now}");
            before = now;
        }
        let without = error(&metric.h, &weights, &plain(bits, group, &weights));
        assert!(fed_back < without && before < 0.9 * fed_back, "{bits} bits: {without}, {fed_back}, {before}");
    }
}

/// Of the codes of a row, the scales and biases that least squares in f64 finds.
#[test]
fn scales_are_the_best_for_their_codes() {
    let (cols, group, groups) = (96, 32, 3);
    let (h, weights) = (moments(4, cols), numbers(2, 4, cols));
    let metric = Metric::new(h, 0.01).unwrap();
    let coded = feed_back(&metric, 3, group, weights.view());
    let mut rows = Rows::new(&metric, 3, group, weights.view(), coded);
    rows.refit();
    let h = metric.h.mapv(f64::from);
    for row in 0..4 {
        let basis = Array2::from_shape_fn((cols, 2 * groups), |(c, k)| match (k < groups, c / group == k % groups) {
            (_, false) => 0.0,
            (true, true) => f64::from(rows.coded.codes[[row, c]]),
            (false, true) => 1.0,
        });
        let normal = basis.t().dot(&h).dot(&basis);
        let mut best = basis.t().dot(&h).dot(&weights.row(row).mapv(f64::from)).to_vec();
        assert!(solve(normal, &mut best));
        let found = rows.coded.scales.row(row).iter().chain(rows.coded.biases.row(row)).copied().collect::<Vec<f32>>();
        for (k, (best, found)) in best.iter().zip(&found).enumerate() {
            assert!((best - f64::from(*found)).abs() <= best.abs() * 5e-3 + 1e-4, "row {row}, {k}: {found} for {best}");
        }
    }
}

#[test]
fn what_is_odd_is_coded_all_the_same() {
    let metric = Metric::new(moments(1, 64), 0.1).unwrap();
    let mut weights = Array2::zeros((4, 64));
    weights.row_mut(1).fill(0.25);
    weights[[2, 5]] = 1e30;
    weights[[3, 0]] = -1e-30;
    let coded = quantise(&metric, 2, 64, weights.view());
    let values = coded.values(64);
    assert!(values.row(0).iter().all(|v| *v == 0.0), "{values}");
    assert!(values.row(1).iter().all(|v| (v - 0.25).abs() < 0.01), "{values}");
    assert!(Metric::new(Array2::zeros((64, 64)), 0.1).is_none());
    assert!(Metric::new(Array2::from_elem((64, 64), f32::NAN), 0.1).is_none());
}
