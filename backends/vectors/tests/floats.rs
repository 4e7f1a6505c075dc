//! Every set of instructions that this processor has against the definition, bit for bit, and the definition against f64.

use flashflood_vectors::{Attend, DeltaStep, Instructions, Seen};
use proptest::prelude::*;

/// The next of SplitMix64's numbers, from -1 to 1.
fn number(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((z ^ (z >> 29)) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn numbers(state: &mut u64, count: usize, largest: f32) -> Vec<f32> {
    (0..count).map(|_| largest * number(state)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// What `run` makes of `out`, the same with all instructions.
fn same(out: &[f32], run: impl Fn(Instructions, &mut [f32])) -> Vec<f32> {
    let of = |instructions| {
        let mut out = out.to_vec();
        run(instructions, &mut out);
        out
    };
    let expected = of(Instructions::Portable);
    for instructions in Instructions::available() {
        assert_eq!(bits(&of(instructions)), bits(&expected), "{instructions}");
    }
    expected
}

fn assert_close(found: f32, expected: f64, tolerance: f64) {
    assert!((f64::from(found) - expected).abs() <= tolerance, "{found} for {expected}, within {tolerance}");
}

fn silu(x: f32) -> f64 {
    f64::from(x) / (1.0 + (-f64::from(x)).exp())
}

/// Every 1000th number of the range, and its ends.
#[test]
fn exponentials_are_within_2_units_in_the_last_place() {
    let range = |from: f32, to: f32| (from.to_bits()..=to.to_bits()).step_by(1000).map(f32::from_bits);
    let x: Vec<f32> = range(1e-9, 88.0).flat_map(|x| [x, -x.min(87.2)]).chain([0.0, -0.0, 88.0, -87.3]).collect();
    for (x, found) in x.iter().zip(same(&x, |instructions, x| instructions.exp(x))) {
        let expected = f64::from(*x).exp();
        let unit = f64::from(f32::EPSILON) * 2f64.powi(expected.log2().floor() as i32);
        assert_close(found, expected, 2.0 * unit);
    }
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1000.0, -1000.0];
    let found = same(&odd, |instructions, x| instructions.exp(x));
    assert!(found[0].is_nan());
    assert_close(found[1], 88f64.exp(), 1e33);
    assert_eq!((found[1], found[2]), (found[3], found[4]));
    assert_close(found[2], 0.0, 2e-38);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn dots(n in 1usize..300, seed: u64) {
        let mut state = seed;
        let (a, b) = (numbers(&mut state, n, 1.0), numbers(&mut state, n, 1.0));
        let found = same(&[0.0], |instructions, out| out[0] = instructions.dot(&a, &b));
        let expected = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert_close(found[0], expected, 1e-6 * n as f64);
    }

    #[test]
    fn products_of_rows_are_dots(rows in 1usize..10, tokens in 1usize..8, blocks in 1usize..9, seed: u64) {
        let (mut state, cols) = (seed, 32 * blocks);
        let weights = numbers(&mut state, rows * cols, 1.0);
        let x: Vec<Vec<f32>> = (0..tokens).map(|_| numbers(&mut state, cols, 1.0)).collect();
        let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
        let out = vec![f32::NAN; rows * tokens];
        let found = same(&out, |instructions, out| instructions.product_of_rows(&weights, cols, &x, out));
        for (r, row) in weights.chunks_exact(cols).enumerate() {
            for (t, x) in x.iter().enumerate() {
                assert_eq!(found[r * tokens + t].to_bits(), Instructions::Portable.dot(row, x).to_bits());
            }
        }
    }

    #[test]
    fn codes_become_weights(group in prop::sample::select(vec![32usize, 64, 128]), groups in 1usize..5, seed: u64) {
        let mut state = seed;
        let codes: Vec<u8> = (0..group * groups).map(|_| (number(&mut state) * 127.0 + 128.0) as u8).collect();
        let scales: Vec<[f32; 2]> = (0..groups).map(|_| [number(&mut state), number(&mut state)]).collect();
        let out = vec![f32::NAN; codes.len()];
        let found = same(&out, |instructions, out| instructions.scale_codes(&codes, group, &scales, out));
        for (i, found) in found.iter().enumerate() {
            let [scale, bias] = scales[i / group];
            assert_eq!(*found, f32::from(codes[i]).mul_add(scale, bias));
        }
    }

    #[test]
    fn small_floats_become_weights(groups in 1usize..17, seed: u64) {
        let mut state = seed;
        // every number, in every place
        let numbers: Vec<u8> = (0..16 * groups).map(|i| (i as u64 ^ seed) as u8).collect();
        let scales: Vec<[f32; 2]> = (0..groups).map(|_| [number(&mut state), f32::NAN]).collect();
        let out = vec![f32::NAN; numbers.len()];
        let found = same(&out, |instructions, out| instructions.scale_small_floats(&numbers, &scales, out));
        for (i, found) in found.iter().enumerate() {
            let (exponent, mantissa) = (i32::from(numbers[i] >> 3 & 15), f32::from(numbers[i] & 7));
            let magnitude = match exponent {
                0 => mantissa * 2f32.powi(-9),
                _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
            };
            let value = if numbers[i] < 128 { magnitude } else { -magnitude };
            assert_eq!(*found, value * scales[i / 16][0]);
        }
    }

    #[test]
    fn gates(n in 1usize..100, seed: u64) {
        let mut state = seed;
        let (gate, up) = (numbers(&mut state, n, 20.0), numbers(&mut state, n, 3.0));
        let found = same(&vec![f32::NAN; n], |instructions, out| instructions.swiglu(&gate, &up, out));
        let sigmoid = same(&up, |instructions, out| instructions.times_sigmoid(out, &gate));
        let weight = numbers(&mut state, n, 1.0);
        let normed = same(&up, |instructions, out| instructions.gated_norm(out, 1e-6, &weight, &gate));
        let mean = up.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
        for i in 0..n {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            assert_close(found[i], silu(gate[i]) * u, 3e-6 * (g * u).abs() + 1e-30);
            assert_close(sigmoid[i], u / (1.0 + (-g).exp()), 1e-6 * u.abs());
            let expected = u / (mean + 1e-6).sqrt() * f64::from(weight[i]) * silu(gate[i]);
            assert_close(normed[i], expected, 1e-5 * expected.abs() + 1e-30);
        }
    }

    #[test]
    fn convolutions(n in 1usize..90, taps in 2usize..9, seed: u64) {
        let mut state = seed;
        let rows = |state: &mut u64| (0..taps).map(|_| numbers(state, n, 1.0)).collect::<Vec<_>>();
        let (weights, inputs) = (rows(&mut state), rows(&mut state));
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let out = vec![f32::NAN; n];
        let found = same(&out, |instructions, out| instructions.convolve(&weights, &inputs, out));
        for i in 0..n {
            let sum: f64 = (0..taps).map(|tap| f64::from(weights[tap][i]) * f64::from(inputs[tap][i])).sum();
            assert_close(found[i], silu(sum as f32), 2e-6 * taps as f64);
        }
    }

    #[test]
    fn delta_steps((keys, values, tokens) in (1usize..40, 1usize..300, 1usize..6), seed: u64) {
        let (mut state, stride) = (seed, values + 3);
        let mut rows = |n, largest| (0..tokens).map(|_| numbers(&mut state, n, largest)).collect::<Vec<_>>();
        let (k, q, v) = (rows(keys, 0.3), rows(keys, 0.3), rows(values, 1.0));
        let held = numbers(&mut state, keys * stride, 1.0);
        let step = |t: usize| DeltaStep { k: &k[t], q: &q[t], v: &v[t], decay: 0.9 - 0.1 * t as f32, beta: 0.7 };
        let steps: Vec<DeltaStep<'_>> = (0..tokens).map(step).collect();
        // the state, then what is read
        let all = [held.clone(), vec![f32::NAN; tokens * values]].concat();
        let found = same(&all, |instructions, all| {
            let (state, out) = all.split_at_mut(keys * stride);
            instructions.delta_steps(&steps, stride, state, out);
        });
        let one_by_one = same(&all, |instructions, all| {
            let (state, out) = all.split_at_mut(keys * stride);
            for (step, out) in steps.iter().zip(out.chunks_exact_mut(values)) {
                instructions.delta_steps(std::slice::from_ref(step), stride, state, out);
            }
        });
        assert_eq!(found, one_by_one);
        let (found, read) = found.split_at(keys * stride);
        let mut expected: Vec<f64> = held.iter().map(|v| f64::from(*v)).collect();
        for (t, step) in steps.iter().enumerate() {
            let (k, q) = (step.k, step.q);
            for c in 0..values {
                let at = |i: usize| i * stride + c;
                (0..keys).for_each(|i| expected[at(i)] *= f64::from(step.decay));
                let kept: f64 = (0..keys).map(|i| f64::from(k[i]) * expected[at(i)]).sum();
                let correction = f64::from(step.beta) * (f64::from(step.v[c]) - kept);
                (0..keys).for_each(|i| expected[at(i)] += f64::from(k[i]) * correction);
                assert_close(read[t * values + c], (0..keys).map(|i| f64::from(q[i]) * expected[at(i)]).sum(), 3e-4);
            }
        }
        for (i, row) in found.chunks_exact(stride).enumerate() {
            (0..values).for_each(|c| assert_close(row[c], expected[i * stride + c], 1e-4));
            assert_eq!(row[values..], held[i * stride..][values..stride], "what lies between rows");
        }
    }

    #[test]
    fn attention(
        dim in prop::sample::select(vec![4usize, 20, 64, 128, 256]),
        (first, positions) in (0usize..40, 1usize..60),
        sink in prop::option::of(-1.0f32..1.0),
        seed: u64,
    ) {
        let (mut state, stride, end) = (seed, dim + 8, first + positions);
        let q = numbers(&mut state, dim, 2.0);
        let (keys, values) = (numbers(&mut state, end * stride, 2.0), numbers(&mut state, end * stride, 1.0));
        let scale = 1.0 / (dim as f32).sqrt();
        let a = Attend { q: &q, keys: &keys, values: &values, stride, first, end, scale };
        let found = same(&vec![f32::NAN; dim], |instructions, out| whole(instructions, &[a], &[sink], out));
        // others beside it, which see more and less, change nothing
        let longer = Attend { first: 0, q: &values[..dim], ..a };
        let shorter = Attend { end: first + 1, ..longer };
        let beside = same(&vec![f32::NAN; 3 * dim], |instructions, out| {
            whole(instructions, &[longer, a, shorter], &[None, sink, None], out)
        });
        assert_eq!(beside[dim..2 * dim], found);
        // nor do pieces
        let pieces = same(&vec![0.0; dim], |instructions, out| {
            let mut seen = [Seen::begin(sink)];
            for from in (first / 16 * 16..end).step_by(16) {
                let (keys, values) = (&keys[from * stride..], &values[from * stride..]);
                let (first, end) = (first.saturating_sub(from), (end - from).min(16));
                instructions.attend(&[Attend { keys, values, first, end, ..a }], &mut seen, out);
            }
            Seen::end(&seen, out);
        });
        assert_eq!(pieces, found);
        let score = |p: usize| {
            let key = &keys[p * stride..];
            (0..dim).map(|i| f64::from(q[i]) * f64::from(key[i])).sum::<f64>() * f64::from(scale)
        };
        let weights: Vec<f64> = (first..end).map(|p| score(p).exp()).collect();
        let total: f64 = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| f64::from(sink).exp());
        for (i, found) in found.iter().enumerate() {
            let sum: f64 = weights.iter().enumerate().map(|(p, w)| w * f64::from(values[(first + p) * stride + i])).sum();
            assert_close(*found, sum / total, 1e-5);
        }
    }
}

/// Attention to all positions at once.
fn whole(instructions: Instructions, queries: &[Attend<'_>], sinks: &[Option<f32>], out: &mut [f32]) {
    let mut seen: Vec<Seen> = sinks.iter().map(|sink| Seen::begin(*sink)).collect();
    out.fill(0.0);
    instructions.attend(queries, &mut seen, out);
    Seen::end(&seen, out);
}

/// Scores far apart, and what is no number.
#[test]
fn attention_to_odd_scores() {
    let values = numbers(&mut 5, 32 * 8, 1.0);
    let mut keys = vec![0.0; 32 * 8];
    keys[20 * 8] = 500.0;
    let q = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let of = |keys: &[f32]| {
        let a = Attend { q: &q, keys, values: &values, stride: 8, first: 0, end: 32, scale: 1.0 };
        same(&[0.0; 8], |instructions, out| whole(instructions, &[a], &[None], out))
    };
    assert_eq!(of(&keys), values[20 * 8..21 * 8]);
    keys[3 * 8] = f32::NAN;
    assert!(of(&keys).iter().all(|out| out.is_nan()));
}
