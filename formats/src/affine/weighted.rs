//! The search for one group's scale and bias where weights differ in importance: least squares with a factor for each.
//!
//! As `group.rs` does for equal weights: the best codes for a scale and bias, then the best scale and bias for those codes, in
//! turn, from several starts about the weighted mean.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};

use super::group::{LANES, code, neighbours, total};

/// A scale above 0 and a bias, both of bf16, for a group of 32, 64 or 128 weights that codes of `bits` bits stand for, such
/// that the sum of `importance * (weight - (scale * code + bias))^2` is small. Weights are finite, importances above 0.
///
/// # Panics
/// When the slices differ in length or that is none of the above: callers have checked formats.
pub fn fit_group(bits: u8, weights: &[f32], importance: &[f32]) -> (f32, f32) {
    assert_eq!(weights.len(), importance.len(), "weights and their importances");
    match weights.len() {
        32 => Arch::new().dispatch(Fit::<32> { bits, weights, importance }),
        64 => Arch::new().dispatch(Fit::<64> { bits, weights, importance }),
        128 => Arch::new().dispatch(Fit::<128> { bits, weights, importance }),
        other => panic!("groups of {other}"),
    }
}

struct Fit<'a, const N: usize> {
    bits: u8,
    weights: &'a [f32],
    importance: &'a [f32],
}

/// What does not depend on codes.
struct Group<'a, const N: usize> {
    weights: &'a [f32; N],
    importance: &'a [f32; N],
    levels: f32,
    /// Sums of importance, of it times weights, and times their squares.
    all: f32,
    first: f32,
    second: f32,
}

impl<const N: usize> WithSimd for Fit<'_, N> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (f32, f32) {
        let [weights] = self.weights.as_chunks::<N>().0 else { unreachable!("the length was matched") };
        let [importance] = self.importance.as_chunks::<N>().0 else { unreachable!("the length was matched") };
        let levels = f32::from((1u16 << self.bits) - 1);
        let [mut all, mut first, mut second] = [[0.0; LANES]; 3];
        for i in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let (w, h) = (weights[i + lane], importance[i + lane]);
                all[lane] += h;
                first[lane] += h * w;
                second[lane] += h * w * w;
            }
        }
        let (all, first, second) = (total(all), total(first), total(second));
        Group { weights, importance, levels, all, first, second }.fit(self.bits)
    }
}

impl<const N: usize> Group<'_, N> {
    #[inline(always)]
    fn fit(&self, bits: u8) -> (f32, f32) {
        // the fewer the levels, the further the best range is from that of the weights
        let (ratios, rounds): (&[f32], _) = match bits {
            2 => (&[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 3),
            3 => (&[1.0, 0.95, 0.87, 0.78, 0.7], 3),
            4 => (&[1.0, 0.93, 0.87, 0.8], 3),
            5 => (&[1.0, 0.96, 0.92], 2),
            _ => (&[1.0], 2),
        };
        let low = self.weights.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self.weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if high <= low {
            // one level is enough; any scale keeps the codes at it
            return (1.0, nearest(low));
        }
        let mean = self.first / self.all;
        let (mut best, mut best_error) = (((high - low) / self.levels, low), f32::INFINITY);
        for low_ratio in ratios {
            for high_ratio in ratios {
                let from = mean + (low - mean) * low_ratio;
                let mut fit = ((mean + (high - mean) * high_ratio - from) / self.levels, from);
                let mut error = f32::INFINITY;
                if fit.0 <= 0.0 {
                    continue;
                }
                for _ in 0..rounds {
                    (fit, error) = self.refit(fit);
                }
                if error < best_error {
                    (best, best_error) = (fit, error);
                }
            }
        }
        for _ in 0..8 {
            let (fit, error) = self.refit(best);
            if error >= best_error {
                break;
            }
            (best, best_error) = (fit, error);
        }
        self.round(best, (low, high))
    }

    /// Weighted sums of codes, their squares, and their products with the weights.
    #[inline(always)]
    fn sums(&self, (scale, bias): (f32, f32)) -> (f32, f32, f32) {
        let inverse = 1.0 / scale;
        let [mut q, mut qq, mut qx] = [[0.0; LANES]; 3];
        for i in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let (w, h) = (self.weights[i + lane], self.importance[i + lane]);
                let code = code(w, inverse, bias, self.levels);
                q[lane] += h * code;
                qq[lane] += h * code * code;
                qx[lane] += h * code * w;
            }
        }
        (total(q), total(qq), total(qx))
    }

    /// The best codes for `fit` = (scale, bias), then the best scale and bias for them, and their error.
    #[inline(always)]
    fn refit(&self, fit: (f32, f32)) -> ((f32, f32), f32) {
        let (q, qq, qx) = self.sums(fit);
        let (mean_code, mean) = (q / self.all, self.first / self.all);
        let (variance, covariance) = (qq - q * mean_code, qx - q * mean);
        let scale = covariance / variance;
        if !(variance > 0.0 && scale > 0.0) {
            return (fit, f32::INFINITY);
        }
        ((scale, mean - scale * mean_code), self.second - self.first * mean - scale * covariance)
    }

    #[inline(always)]
    fn error(&self, scale: f32, bias: f32) -> f32 {
        let inverse = 1.0 / scale;
        let mut lanes = [0.0; LANES];
        let (weights, importance) = (self.weights.as_chunks::<LANES>().0, self.importance.as_chunks::<LANES>().0);
        for (weights, importance) in weights.iter().zip(importance) {
            for lane in 0..LANES {
                let off = weights[lane] - (scale * code(weights[lane], inverse, bias, self.levels) + bias);
                lanes[lane] += importance[lane] * off * off;
            }
        }
        total(lanes)
    }

    /// The best pair of neighbouring bf16 values; min-max is a candidate too.
    #[inline(always)]
    fn round(&self, (scale, bias): (f32, f32), (low, high): (f32, f32)) -> (f32, f32) {
        let mut best = (nearest((high - low) / self.levels).max(f32::MIN_POSITIVE), nearest(low));
        let mut best_error = self.error(best.0, best.1);
        for bias in neighbours(bias) {
            let (q, qq, qx) = self.sums((scale, bias));
            if qq <= 0.0 {
                continue;
            }
            for scale in neighbours((qx - bias * q) / qq) {
                let error = self.error(scale, bias);
                if scale > 0.0 && error < best_error {
                    (best, best_error) = ((scale, bias), error);
                }
            }
        }
        best
    }
}

fn nearest(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bits: u8, weights: &[f32], importance: &[f32], (scale, bias): (f32, f32)) -> f64 {
        let top = f32::from((1u16 << bits) - 1);
        let off = |w: f32| f64::from(w - (scale * ((w - bias) / scale).round().clamp(0.0, top) + bias));
        weights.iter().zip(importance).map(|(w, h)| f64::from(*h) * off(*w) * off(*w)).sum()
    }

    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut unit = || (crate::split_mix(&mut state) >> 40) as f32 / (1 << 24) as f32;
        (0..count).map(|_| (0..6).map(|_| unit()).sum::<f32>() - 3.0).collect()
    }

    #[test]
    fn with_equal_importance_it_is_as_good_as_the_plain_search() {
        for bits in [2, 3, 4] {
            let (mut plain, mut weighted) = (0.0, 0.0);
            for seed in 0..50 {
                let (weights, ones) = (numbers(seed, 64), [1.0; 64]);
                let (mut codes, mut scales, mut biases) = (vec![0; 8 * usize::from(bits)], [0; 2], [0; 2]);
                super::super::quantise_row(bits, 64, &weights, &mut codes, &mut scales, &mut biases)
                    .expect("finite weights");
                let fit = [scales, biases].map(|bytes| bf16::from_le_bytes(bytes).to_f32());
                plain += error(bits, &weights, &ones, (fit[0], fit[1]));
                weighted += error(bits, &weights, &ones, fit_group(bits, &weights, &ones));
            }
            assert!(weighted < plain * 1.02, "{bits} bits: {weighted} where the plain search has {plain}");
        }
    }

    #[test]
    fn what_is_important_is_fitted_better() {
        for seed in 0..20 {
            let weights = numbers(seed, 64);
            let importance: Vec<f32> = (0..64).map(|i| if i % 16 == 0 { 100.0 } else { 1.0 }).collect();
            let fit = fit_group(2, &weights, &importance);
            let plain = fit_group(2, &weights, &[1.0; 64]);
            let of = |fit| error(2, &weights, &importance, fit);
            assert!(of(fit) <= of(plain) * 1.001, "seed {seed}: {} where equal importance has {}", of(fit), of(plain));
            assert!(fit.0 > 0.0 && [fit.0, fit.1].iter().all(|v| nearest(*v) == *v), "{fit:?}");
        }
        assert_eq!(fit_group(2, &[0.5; 32], &[1.0; 32]), (1.0, 0.5));
    }
}
