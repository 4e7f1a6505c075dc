//! How near an output of a kernel is to that of its CPU twin, as a share of what the number formats allow.
//!
//! The inputs of a check have the sizes of a real model's, so what is allowed grows with them: `of_rms` times the root
//! mean square of the twin's output takes the place of an absolute number.

use flashflood_formats::CacheFormat;

use crate::compute::ops::Quantised;

/// How far an element may be from the twin's: `of_rms * rms(twin) + rtol * |twin|`. Nothing where both are 0: equal to the
/// bit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bound {
    /// Of the root mean square of all elements.
    pub(super) of_rms: f32,
    /// Of the element.
    pub(super) rtol: f32,
}

impl Bound {
    /// Equal to the bit.
    pub(super) const EXACT: Bound = Bound { of_rms: 0.0, rtol: 0.0 };

    /// Of a product of `cols` columns: the sums of two orders of additions are apart by the roundings that do not cancel,
    /// whose number grows with the root of the columns, as the sum itself does. The codes of affine weights are not
    /// centred, so their partial sums are about twice as large as what is left after the bias.
    pub(super) fn product(cols: usize) -> Bound {
        Bound { of_rms: 4.0 * f32::EPSILON * (cols as f32).sqrt() + 2e-6, rtol: 1e-6 }
    }

    /// Of a product onto other numbers, the norm of the sum, and sums of its squares, whose errors are twice as large.
    pub(super) fn product_and_norm(cols: usize) -> Bound {
        let Bound { of_rms, rtol } = Bound::product(cols);
        Bound { of_rms: 4.0 * of_rms, rtol: rtol + 1e-5 }
    }

    /// Of a product by matrix units, or of two of them with exponentials between, which round both factors to f16: 2^-11 at
    /// most for each, and as roundings cancel in a sum, 3e-4 of its deviation. Six of those, twice for codes that are not centred, and some more.
    pub(super) const COOPERATIVE: Bound = Bound { of_rms: 5e-3, rtol: 1e-3 };

    /// Of several such products one after the other, as in an expert and in a delta net: 7e-3 of the root mean square was seen
    /// on an H200.
    pub(super) const COOPERATIVE_CHAIN: Bound = Bound { of_rms: 1e-2, rtol: 2e-3 };

    /// Of two products one after the other with SwiGLU between them: errors of the first are multiplied by numbers up
    /// to 5. With `packed` hidden values one between two codes may get either, a step of 1/127 of its group's largest: with
    /// the largest weights of Q3_K, whose scales differ most, 3e-2 were seen among 72 tokens.
    pub(super) fn experts(cols: usize, packed: bool) -> Bound {
        let steps = if packed { 5e-2 } else { 0.0 };
        Bound { of_rms: 20.0 * f32::EPSILON * (cols as f32).sqrt() + steps, rtol: 1e-5 }
    }

    /// What allows as much as both.
    pub(super) fn or(self, other: Bound) -> Bound {
        Bound { of_rms: self.of_rms.max(other.of_rms), rtol: self.rtol.max(other.rtol) }
    }

    /// Of what is kept by the same codes: scales are made of sums in another order.
    pub(super) const SAME_CODES: Bound = Bound { of_rms: 3e-6, rtol: 1e-5 };

    /// Of what is kept of keys, or of values, which are copied. What lies between two codes may get either.
    pub(super) fn of_cache(format: CacheFormat, is_values: bool) -> Bound {
        let (of_rms, rtol) = match format {
            CacheFormat::F32 if is_values => (0.0, 0.0),
            CacheFormat::F32 => (3e-6, 3e-6),
            // a unit in the last place of a half
            CacheFormat::F16 => (3e-6, 1e-3),
            // a step of the largest of 32, some four times their root mean square, / 127
            CacheFormat::Q8 { .. } => (5e-2, 1e-2),
            // the levels that are farthest from each other
            CacheFormat::Tq4 { .. } => (0.7, 1e-3),
        };
        Bound { of_rms, rtol }
    }

    /// Of attention where a number of the cache got the next code.
    pub(super) fn attention_to_other_codes(formats: [CacheFormat; 2]) -> Bound {
        let own = Bound::of_op("attention");
        let of = |format| match format {
            CacheFormat::F32 => own.of_rms,
            CacheFormat::F16 => 1e-3,
            CacheFormat::Q8 { .. } => 2e-2,
            // one level of a key moves a score by a tenth or so
            CacheFormat::Tq4 { .. } => 0.5,
        };
        Bound { of_rms: formats.map(of).into_iter().fold(0.0, f32::max), ..own }
    }

    /// Of all other kernels, by the op.
    pub(super) fn of_op(op: &str) -> Bound {
        let (of_rms, rtol) = match op {
            // a sum of squares has no cancellation
            "rms_norm" => (1e-6, 5e-6),
            // a dozen terms around 1 and a norm
            "combine_norm" => (2e-5, 1e-5),
            "combine" => (4e-6, 1e-6),
            "router_top_k" | "swiglu" => (2e-6, 1e-5),
            // scores have errors of some units in the last place of 40; exp makes them relative errors
            "attention" => (1e-4, 2e-5),
            // a head whose outputs are all small is made large by the norm, and its errors with it
            "delta_net" => (1e-4, 5e-5),
            _ => (0.0, 0.0),
        };
        Bound { of_rms, rtol }
    }
}

/// The worst of some elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Apart {
    /// As a share of what is allowed: above 1 is a mismatch; infinite for NaN.
    pub(super) share: f32,
    /// The largest difference.
    pub(super) most: f32,
}

impl Apart {
    /// The worse of two.
    pub(super) fn and(self, other: Apart) -> Apart {
        Apart { share: self.share.max(other.share), most: self.most.max(other.most) }
    }

    /// Something that no tolerance allows.
    const WRONG: Apart = Apart { share: f32::INFINITY, most: f32::INFINITY };
}

/// Root mean square of what is a number.
fn rms(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.filter(|v| v.is_finite()).fold((0.0f64, 0u32), |(sum, count), v| {
        let v = f64::from(v);
        (sum + v * v, count + 1)
    });
    (sum / f64::from(count.max(1))).sqrt() as f32
}

/// Compares elements one by one. NaN is a mismatch, even where both have it: nothing in a check may be NaN.
pub(super) fn numbers<'a>(
    bound: Bound,
    expected: impl Iterator<Item = &'a f32> + Clone,
    found: impl Iterator<Item = &'a f32>,
) -> Apart {
    let atol = if bound.of_rms > 0.0 { bound.of_rms * rms(expected.clone().copied()) } else { 0.0 };
    let one = |(e, f): (&f32, &f32)| {
        // ids and packed words hold bits that need not be numbers
        if bound == Bound::EXACT {
            return if e.to_bits() == f.to_bits() { Apart::default() } else { Apart::WRONG };
        }
        let most = (e - f).abs();
        if !most.is_finite() {
            return Apart::WRONG;
        }
        let allowed = atol + bound.rtol * e.abs();
        let share = if most == 0.0 { 0.0 } else { most / allowed };
        Apart { share, most }
    };
    expected.zip(found).map(one).fold(Apart::default(), Apart::and)
}

/// Of codes in 8 bits so many may be the next one, where numbers are equal but for roundings.
const NEXT_CODES: f32 = 0.05;

/// The same, where numbers are apart by a third of what is allowed in the mean: a step is the largest of 32, some twice their
/// root mean square, / 127. (Codes that are cut off instead of rounded are half of them the next one.)
fn next_codes(bound: Bound) -> f32 {
    NEXT_CODES + bound.of_rms / 3.0 * 127.0 / 2.0
}

/// The numbers that a row of packed activations stands for.
fn unpacked(cols: usize, row: &[f32]) -> Vec<f32> {
    let codes_of = |group: usize| row[group * 8..][..8].iter().flat_map(|word| word.to_bits().to_le_bytes());
    let groups = row[cols / 4..Quantised::words(cols)].chunks_exact(2).enumerate();
    groups.flat_map(|(group, pair)| codes_of(group).map(|code| f32::from(code as i8) * pair[0])).collect()
}

/// Compares rows of packed activations made of numbers that are farther apart than codes are from each other: as numbers,
/// which packing has moved by half a step, a hundredth of the root mean square or so.
pub(super) fn packed_far(bound: Bound, words: usize, expected: &[f32], found: &[f32]) -> Apart {
    let [expected, found] = [expected, found].map(|row| unpacked(columns_of(words), row));
    numbers(Bound { of_rms: bound.of_rms + 5e-2, ..bound }, expected.iter(), found.iter())
}

/// Compares rows of packed activations made of numbers that agree within `bound`: a code that is between two may be the
/// next one, scales agree as the numbers do, and the sums that come with them belong to the codes that are there.
pub(super) fn packed(bound: Bound, words: usize, expected: &[f32], found: &[f32]) -> Apart {
    let cols = columns_of(words);
    let (codes, end) = (cols / 4, Quantised::words(cols));
    let of_rms = rms(unpacked(cols, expected).into_iter());
    let (mut worst, mut next) = (Apart::default(), 0u32);
    for (e, f) in expected[..codes].iter().zip(&found[..codes]) {
        for (e, f) in e.to_bits().to_le_bytes().into_iter().zip(f.to_bits().to_le_bytes()) {
            match (e as i8).abs_diff(f as i8) {
                0 => {}
                1 => next += 1,
                _ => return Apart::WRONG,
            }
        }
    }
    worst.share = worst.share.max(next as f32 / cols as f32 / next_codes(bound));
    let pairs = expected[codes..end].chunks_exact(2).zip(found[codes..end].chunks_exact(2));
    for (group, (e, f)) in pairs.enumerate() {
        // a scale is the largest number of its group / 127
        let most = (e[0] - f[0]).abs() * 127.0;
        let allowed = bound.of_rms * of_rms + bound.rtol * e[0].abs() * 127.0;
        let bytes = found[group * 8..][..8].iter().flat_map(|word| word.to_bits().to_le_bytes());
        let sum = f[0] * bytes.map(|code| i32::from(code as i8)).sum::<i32>() as f32;
        if !most.is_finite() || (sum - f[1]).abs() > 2.0 * f32::EPSILON * sum.abs() {
            return Apart::WRONG;
        }
        let share = if most == 0.0 { 0.0 } else { most / allowed };
        worst = worst.and(Apart { share, most });
    }
    worst
}

/// Activations in a packed row of so many words: a quarter, and a sixteenth for scales.
pub(super) fn columns_of(words: usize) -> usize {
    words * 16 / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bound: Bound, expected: &[f32], found: &[f32]) -> f32 {
        numbers(bound, expected.iter(), found.iter()).share
    }

    #[test]
    fn shares_of_what_is_allowed() {
        let bound = Bound { of_rms: 1e-3, rtol: 0.0 };
        assert_eq!(of(bound, &[1.0, -1.0], &[1.0, -1.0]), 0.0);
        let share = of(bound, &[1.0, -1.0], &[1.0, -1.0005]);
        assert!((0.49..0.51).contains(&share), "{share}");
        assert!(of(bound, &[1.0, -1.0], &[1.0, -1.002]) > 1.0);
        assert!(of(bound, &[100.0, -100.0], &[100.0, -100.05]) < 1.0, "what is allowed grows with the numbers");
        assert!(of(Bound::EXACT, &[1.0], &[1.0 + f32::EPSILON]) > 1.0);
    }

    #[test]
    fn what_is_no_number_is_wrong() {
        let bound = Bound { of_rms: 1.0, rtol: 1.0 };
        for (e, f) in [(1.0, f32::NAN), (f32::NAN, 1.0), (f32::NAN, f32::NAN), (1.0, f32::INFINITY)] {
            assert_eq!(of(bound, &[e, 1.0], &[f, 1.0]), f32::INFINITY, "{e} and {f}");
        }
        // one NaN among the twin's does not hide what the others are
        assert!(of(bound, &[f32::NAN, 0.0], &[f32::NAN, 0.0]) > 1.0);
        // ids have bits of numbers that are nearly 0
        let id = f32::from_bits;
        assert_eq!(of(Bound::EXACT, &[id(3), id(u32::MAX)], &[id(3), id(u32::MAX)]), 0.0);
        assert!(of(Bound::EXACT, &[id(3)], &[id(4)]) > 1.0);
    }

    #[test]
    fn packed_rows() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let row = |x: &[f32]| {
            let mut out = vec![0.0; Quantised::words(64)];
            flashflood_formats::pack_row(x, 2, &mut out);
            out
        };
        let (right, bound) = (row(&x), Bound { of_rms: 1e-5, rtol: 1e-5 });
        assert_eq!(packed(bound, right.len(), &right, &right), Apart::default());
        let with_code = |at: usize, by: i8| {
            let mut words = right.clone();
            let mut bytes = words[at].to_bits().to_le_bytes();
            bytes[0] = (bytes[0] as i8).wrapping_add(by) as u8;
            words[at] = f32::from_bits(u32::from_le_bytes(bytes));
            let group = 16 + 2 * (at / 8);
            words[group + 1] += words[group] * f32::from(by);
            words
        };
        let one = packed(bound, right.len(), &right, &with_code(3, 1)).share;
        assert!(one > 0.0 && one < 1.0, "a code may be the next: {one}");
        assert!(packed(bound, right.len(), &right, &with_code(3, 2)).share > 1.0);
        let mut words = right.clone();
        words[17] *= 1.01;
        assert!(packed(bound, right.len(), &right, &words).share > 1.0, "the sum is not that of the codes");
        let mut words = right.clone();
        words[16] *= 1.001;
        words[17] *= 1.001;
        assert!(packed(bound, right.len(), &right, &words).share > 1.0, "the scale is another");
        assert!(packed(bound, right.len(), &right, &row(&vec![f32::NAN; 64])).share > 1.0);
    }

    /// Errors of matrix units move some codes; a kernel that cuts off what it should round moves half of them.
    #[test]
    fn codes_of_matrix_units() {
        let x: Vec<f32> = (0..2048).map(|i| (i as f32 * 0.7).sin() * 3.0 + (i as f32 * 1.3).cos()).collect();
        let mut right = vec![0.0; Quantised::words(x.len())];
        flashflood_formats::pack_row(&x, 2, &mut right);
        let with_next = |every: usize| {
            let mut row = right.clone();
            for code in (0..x.len()).step_by(every) {
                let mut bytes = row[code / 4].to_bits().to_le_bytes();
                let by = if bytes[code % 4] as i8 > 0 { -1 } else { 1 };
                bytes[code % 4] = (bytes[code % 4] as i8 + by) as u8;
                row[code / 4] = f32::from_bits(u32::from_le_bytes(bytes));
            }
            for group in 0..x.len() / 32 {
                let codes = row[8 * group..][..8].iter().flat_map(|word| word.to_bits().to_le_bytes());
                let sum: i32 = codes.map(|code| i32::from(code as i8)).sum();
                let pair = x.len() / 4 + 2 * group;
                row[pair + 1] = row[pair] * sum as f32;
            }
            row
        };
        let share = |bound, every| packed(bound, right.len(), &right, &with_next(every)).share;
        let few = share(Bound::COOPERATIVE, 10);
        assert!(few > 0.5 && few < 1.0, "{few}");
        assert!(share(Bound::product(2048), 10) > 1.0);
        assert!(share(Bound::COOPERATIVE_CHAIN, 2) > 1.0, "what is cut off is seen");
    }
}
