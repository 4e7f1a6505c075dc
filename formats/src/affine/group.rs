//! The search for one group's scale and bias: everything that runs once per 32, 64 or 128 weights.
//!
//! All of it is `inline(always)`, because only what is inlined into the caller is compiled for its vector instructions.

use half::bf16;

/// How hard to look for the best scale and bias of a group.
pub(super) struct Search {
    /// The largest code.
    levels: f32,
    /// Starts: the lowest and the highest weight, each times each of these.
    ratios: &'static [f32],
    /// Alternations from each start.
    rounds: usize,
    /// Most alternations from the best of them.
    polish: usize,
}

impl Search {
    pub(super) fn for_bits(bits: u8) -> Self {
        // The fewer the levels, the further the best range is from min-max. Shrinking both ends on their own matters
        // more than many starts: 200 starts about the mean reach 21.70 dB at 4 bits, these 16 reach 21.79 (24 x 24
        // starts with 20 rounds: 21.84).
        let (ratios, rounds, polish): (&[f32], _, _) = match bits {
            2 => (&[0.9, 0.7, 0.5], 2, 6),
            3 => (&[0.95, 0.87, 0.78, 0.7], 1, 6),
            4 => (&[1.0, 0.93, 0.87, 0.8], 1, 4),
            5 => (&[1.0, 0.96, 0.92, 0.88], 1, 3),
            6 => (&[1.0, 0.97, 0.94], 1, 2),
            _ => (&[1.0], 1, 1),
        };
        Search { levels: f32::from((1u16 << bits) - 1), ratios, rounds, polish }
    }
}

/// A group shifted to mean 0 and scaled by a power of two to about 1, which keeps every sum far from overflow.
struct Centred<const N: usize> {
    weights: [f32; N],
    mean: f32,
    squares: f32,
    levels: f32,
}

/// What least squares needs to know of codes `q` for weights `x`.
struct Sums {
    q: f32,
    qq: f32,
    qx: f32,
}

/// Independent partial sums: float addition is not reordered by the compiler, and one chain would not vectorise.
pub(super) const LANES: usize = 16;

/// Picks scale, bias and codes of one group of finite weights.
#[inline(always)]
pub(super) fn quantise_group<const N: usize>(weights: &[f32; N], search: &Search, codes: &mut [u8; N]) -> (bf16, bf16) {
    let (low, high) = range(weights);
    let magnitude = high.abs().max(low.abs());
    if low == high || magnitude < 2f32.powi(-100) {
        return constant_group(if low == high { low } else { 0.0 }, codes);
    }
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).clamp(-100, 100);
    let unit = power_of_two(-exponent);
    let mut group = Centred { weights: *weights, mean: 0.0, squares: 0.0, levels: search.levels };
    group.weights.iter_mut().for_each(|w| *w *= unit);
    group.mean = sum(&group.weights, |w| w) / N as f32;
    let mean = group.mean;
    group.weights.iter_mut().for_each(|w| *w -= mean);
    group.squares = sum(&group.weights, |w| w * w);
    let (low, high) = (low * unit - mean, high * unit - mean);

    let (mut best, mut best_error) = (((high - low) / search.levels, low), f32::INFINITY);
    for low_ratio in search.ratios {
        for high_ratio in search.ratios {
            let from = low * low_ratio;
            let mut fit = ((high * high_ratio - from) / search.levels, from);
            let mut error = f32::INFINITY;
            for _ in 0..search.rounds {
                (fit, error) = group.refit(fit);
            }
            if error < best_error {
                (best, best_error) = (fit, error);
            }
        }
    }
    for _ in 0..search.polish {
        let (fit, error) = group.refit(best);
        if error >= best_error {
            break;
        }
        (best, best_error) = (fit, error);
    }

    let (scale, bias) = group.round(best, (low, high));
    group.codes(scale, bias - mean, codes);
    let back = power_of_two(exponent);
    (to_bf16(scale * back), to_bf16(bias * back))
}

/// All weights are `value`: the bias takes its upper bits and the scale, with code 1, the rest.
#[inline(always)]
fn constant_group<const N: usize>(value: f32, codes: &mut [u8; N]) -> (bf16, bf16) {
    let bias = f32::from_bits(value.to_bits() & 0xffff_0000);
    let rest = value - bias;
    codes.fill(u8::from(rest != 0.0));
    (to_bf16(rest), to_bf16(bias))
}

/// The code of weight `w`, from 0 to `levels`, as an f32: adding 2^23 leaves no room for a fraction, so it rounds to nearest
/// even.
#[inline(always)]
pub(super) fn code(w: f32, inverse: f32, bias: f32, levels: f32) -> f32 {
    const ROUND: f32 = 8_388_608.0;
    let v = (w - bias) * inverse;
    let v = if v > 0.0 { v } else { 0.0 };
    let v = if v < levels { v } else { levels };
    (v + ROUND) - ROUND
}

impl<const N: usize> Centred<N> {
    #[inline(always)]
    fn sums(&self, (scale, bias): (f32, f32)) -> Sums {
        let inverse = 1.0 / scale;
        let (mut q, mut qq, mut qx) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for chunk in self.weights.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let code = code(chunk[lane], inverse, bias, self.levels);
                q[lane] += code;
                qq[lane] += code * code;
                qx[lane] += code * chunk[lane];
            }
        }
        Sums { q: total(q), qq: total(qq), qx: total(qx) }
    }

    /// One alternation: the best codes for `fit` = (scale, bias), then the best scale and bias for them, and their
    /// squared error. Infinite when all codes are equal.
    #[inline(always)]
    fn refit(&self, fit: (f32, f32)) -> ((f32, f32), f32) {
        let Sums { q, qq, qx } = self.sums(fit);
        let mean = q / N as f32;
        let variance = qq - q * mean;
        let scale = qx / variance;
        if !(variance > 0.0 && scale > 0.0) {
            return (fit, f32::INFINITY);
        }
        ((scale, -scale * mean), self.squares - qx * scale)
    }

    /// Squared error of a scale and bias with the best codes for them.
    #[inline(always)]
    fn error(&self, scale: f32, bias: f32) -> f32 {
        let inverse = 1.0 / scale;
        let mut lanes = [0.0; LANES];
        for chunk in self.weights.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let w = chunk[lane];
                let off = w - (scale * code(w, inverse, bias, self.levels) + bias);
                lanes[lane] += off * off;
            }
        }
        total(lanes)
    }

    /// The best neighbouring pair of bf16 values. `bias` in the result is not centred.
    #[inline(always)]
    fn round(&self, (scale, bias): (f32, f32), (low, high): (f32, f32)) -> (f32, f32) {
        let nearest = |v: f32| bf16::from_f32(v).to_f32();
        // min-max is a candidate, so that no group is ever worse than with it
        let mut best = (nearest((high - low) / self.levels), nearest(low + self.mean));
        let mut best_error = self.error(best.0, best.1 - self.mean);
        for bias in neighbours(bias + self.mean) {
            // a rounded bias wants another scale: all the more when the mean is far larger than the spread
            let from_bias = bias - self.mean;
            let Sums { q, qq, qx } = self.sums((scale, from_bias));
            if qq == 0.0 {
                continue;
            }
            for scale in neighbours((qx - from_bias * q) / qq) {
                let error = self.error(scale, from_bias);
                if scale > 0.0 && error < best_error {
                    (best, best_error) = ((scale, bias), error);
                }
            }
        }
        best
    }

    #[inline(always)]
    fn codes(&self, scale: f32, bias: f32, codes: &mut [u8; N]) {
        let inverse = 1.0 / scale;
        for (out, w) in codes.iter_mut().zip(&self.weights) {
            *out = code(*w, inverse, bias, self.levels) as u8;
        }
    }
}

/// The bf16 values on both sides of `value` (the second one off by one step when it is a bf16 itself).
#[inline(always)]
pub(super) fn neighbours(value: f32) -> [f32; 2] {
    let inner = value.to_bits() & 0xffff_0000;
    [f32::from_bits(inner), f32::from_bits(inner + 0x1_0000)]
}

/// To nearest, and to the largest finite value instead of infinity.
#[inline(always)]
fn to_bf16(value: f32) -> bf16 {
    let rounded = bf16::from_f32(value);
    if rounded.is_infinite() { bf16::from_bits(rounded.to_bits() - 1) } else { rounded }
}

/// `2^exponent`, exponent in -126..=127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[inline(always)]
fn sum<const N: usize>(weights: &[f32; N], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += of(chunk[lane]);
        }
    }
    total(lanes)
}

#[inline(always)]
pub(super) fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

#[inline(always)]
fn range<const N: usize>(weights: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for chunk in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let w = chunk[lane];
            low[lane] = if w < low[lane] { w } else { low[lane] };
            high[lane] = if w > high[lane] { w } else { high[lane] };
        }
    }
    (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max))
}
