//! How rows of a KV cache are stored.
//!
//! A row is heads, one after the other, and a head is whole words of 32 bits, so that kernels may write heads side by side.
//! Words of a head of `n` elements:
//!
//! | format | words | holds |
//! | --- | --- | --- |
//! | `F32` | n | the elements |
//! | `F16` | n / 2 | pairs, the first in the lower half; at most 65,504 |
//! | `Q8` | n / 4, and one for each 64 elements | codes of 8 bits; then a scale for each 32 elements in bf16, two in a word |
//! | `Tq4` | n / 8 + 1 | codes of 4 bits of the turned head; then a factor in f32 |
//!
//! `Tq4` is TurboQuant (arXiv 2504.19874) without its second stage, which makes answers worse: a fixed rotation makes the
//! elements of any head look like those of a Gaussian, for which the best sixteen levels are known. A rotation changes no
//! product of a query and a key that are both turned, so keys are never turned back, and of values only their weighted sum.
//! The factor is of a word of its own because two heads are written by two workgroups.

mod halves;
mod integers;
mod turned;

use std::fmt;

pub use turned::{turn, turn_back};

/// How the elements of a row are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// As they are computed.
    F32,
    /// IEEE half.
    F16,
    /// Codes of 8 bits, with a scale for each 32 elements of a head.
    Q8 {
        /// Elements of a head, a multiple of 4.
        head: usize,
    },
    /// Codes of 4 bits of turned heads, each with a factor.
    Tq4 {
        /// Elements of a head, a multiple of 32.
        head: usize,
    },
}

impl CacheFormat {
    /// Words of a head of `elements` elements. Saturates.
    pub fn words(self, elements: usize) -> usize {
        match self {
            CacheFormat::F32 => elements,
            CacheFormat::F16 => elements.div_ceil(2),
            CacheFormat::Q8 { .. } => elements.div_ceil(4).saturating_add(elements.div_ceil(64)),
            CacheFormat::Tq4 { .. } => elements.div_ceil(8).saturating_add(1),
        }
    }

    /// Bytes of a row of `width` elements: a multiple of 4. Saturates.
    pub fn row_bytes(self, width: usize) -> usize {
        let words = match self {
            CacheFormat::F32 | CacheFormat::F16 => self.words(width),
            CacheFormat::Q8 { head } | CacheFormat::Tq4 { head } => {
                self.words(head).saturating_mul(width / head.max(1))
            }
        };
        words.saturating_mul(4)
    }

    /// Whether heads are turned before they are stored, and come out turned.
    pub fn is_turned(self) -> bool {
        matches!(self, CacheFormat::Tq4 { .. })
    }

    /// Whether it is for heads of so many elements.
    pub fn takes(self, head: usize) -> bool {
        // whole words of codes; kernels have 256 elements
        !self.is_turned() || head > 0 && head.is_multiple_of(32) && head <= 256
    }

    /// Stores one head, which is turned already where that is the format's.
    ///
    /// # Panics
    /// Unless `words` are those of so many elements.
    pub fn pack(self, elements: &[f32], words: &mut [u32]) {
        assert_eq!(words.len(), self.words(elements.len()), "the words of a head");
        match self {
            CacheFormat::F32 => words.iter_mut().zip(elements).for_each(|(word, x)| *word = x.to_bits()),
            CacheFormat::F16 => halves::pack(elements, words),
            CacheFormat::Q8 { .. } => integers::pack(elements, words),
            CacheFormat::Tq4 { .. } => turned::pack(elements, words),
        }
    }

    /// The elements of one head, turned where that is the format's.
    ///
    /// # Panics
    /// Unless `words` are those of so many elements.
    pub fn unpack(self, words: &[u32], elements: &mut [f32]) {
        assert_eq!(words.len(), self.words(elements.len()), "the words of a head");
        match self {
            CacheFormat::F32 => elements.copy_from_slice(bytemuck::cast_slice(words)),
            CacheFormat::F16 => halves::unpack(words, elements),
            CacheFormat::Q8 { .. } => integers::unpack(words, elements),
            CacheFormat::Tq4 { .. } => turned::unpack(words, elements),
        }
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CacheFormat::F32 => "f32",
            CacheFormat::F16 => "f16",
            CacheFormat::Q8 { .. } => "q8",
            CacheFormat::Tq4 { .. } => "tq4",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_mix;

    /// Numbers of a normal distribution.
    fn gaussian(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || (split_mix(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
        let number = |_| {
            let (a, b) = (1.0 - uniform(), uniform());
            ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
        };
        (0..count).map(number).collect()
    }

    /// Mean square error of heads as a share of their mean square.
    fn error(format: CacheFormat, heads: &[f32], dim: usize) -> f64 {
        let (mut error, mut all) = (0.0, 0.0);
        for head in heads.chunks_exact(dim) {
            let mut turned = head.to_vec();
            if format.is_turned() {
                turn(&mut turned);
            }
            let mut words = vec![0; format.words(dim)];
            format.pack(&turned, &mut words);
            let mut found = vec![f32::NAN; dim];
            format.unpack(&words, &mut found);
            if format.is_turned() {
                turn_back(&mut found);
            }
            for (expected, found) in head.iter().zip(&found) {
                error += f64::from(expected - found).powi(2);
                all += f64::from(*expected).powi(2);
            }
        }
        error / all
    }

    /// Of 16 uniform levels from the smallest to the largest of each 32, as plain groups of 4 bits have them.
    fn error_of_groups(heads: &[f32]) -> f64 {
        let (mut error, mut all) = (0.0, 0.0);
        for group in heads.chunks_exact(32) {
            let least = group.iter().copied().fold(f32::INFINITY, f32::min);
            let step = (group.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 15.0;
            for x in group {
                error += f64::from(x - (((x - least) / step).round() * step + least)).powi(2);
                all += f64::from(*x).powi(2);
            }
        }
        error / all
    }

    /// Of steps of the largest of 32 / 127, a twelfth of the square of each.
    fn error_of_steps(heads: &[f32]) -> f64 {
        let (mut error, mut all) = (0.0, 0.0);
        for group in heads.chunks_exact(32) {
            let largest = group.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
            error += 32.0 / 12.0 * f64::from(largest / 127.0).powi(2);
            all += group.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        error / all
    }

    /// Keys as models have them: some channels are ten times as large as the others.
    fn with_outliers(mut heads: Vec<f32>, dim: usize) -> Vec<f32> {
        heads.chunks_exact_mut(dim).for_each(|head| head.iter_mut().step_by(37).for_each(|x| *x *= 10.0));
        heads
    }

    #[test]
    fn levels_are_the_best_of_a_gaussian() {
        let found = error(CacheFormat::Tq4 { head: 256 }, &gaussian(4096 * 256, 5), 256);
        assert!((found / 0.009_501 - 1.0).abs() < 0.03, "{found}");
    }

    #[test]
    fn errors_are_those_of_the_distribution() {
        for dim in [64, 128, 256] {
            let heads = gaussian(4096 * dim, 7);
            for heads in [heads.clone(), with_outliers(heads, dim)] {
                // at most the levels' own error, 0.0095 of the variance: elements of a head of one length have shorter
                // tails, the shorter the smaller it is, and those of few outliers shorter ones still
                let found = error(CacheFormat::Tq4 { head: dim }, &heads, dim) / 0.009_501;
                assert!((0.7..1.0).contains(&found), "{dim}: {found}");
                let found = error(CacheFormat::Q8 { head: dim }, &heads, dim) / error_of_steps(&heads);
                assert!((0.9..1.1).contains(&found), "{dim}: {found}");
                assert!(error(CacheFormat::F16, &heads, dim) < 5e-8, "{dim}");
                assert_eq!(error(CacheFormat::F32, &heads, dim), 0.0, "{dim}");
            }
        }
    }

    /// What a rotation is for: groups lose what lies beside an outlier. `cargo test -p flashflood-formats -- --nocapture
    /// outliers` prints the figures.
    #[test]
    fn outliers_cost_groups_more() {
        for dim in [64, 128, 256] {
            let heads = gaussian(1024 * dim, 9);
            let (plain, spiky) = (heads.clone(), with_outliers(heads, dim));
            let tq4 = CacheFormat::Tq4 { head: dim };
            let found = [&plain, &spiky].map(|heads| (error(tq4, heads, dim), error_of_groups(heads)));
            println!("head of {dim}: (tq4, groups of 32) {:.5?} Gaussian, {:.5?} with outliers", found[0], found[1]);
            // of what is not an outlier, next to nothing is left by groups
            let small = |error: f64| error * 38.0;
            assert!(small(found[1].1) > 0.2 && found[1].0 < found[1].1 * 1.3, "{found:?}");
        }
    }

    #[test]
    fn odd_heads() {
        for dim in [4, 8, 36, 44, 96] {
            let heads = gaussian(64 * dim, dim as u64);
            assert!(error(CacheFormat::Q8 { head: dim }, &heads, dim) < 6e-5, "{dim}");
            assert!(error(CacheFormat::F16, &heads, dim) < 5e-8, "{dim}");
        }
        // three tiles of 32
        assert!(error(CacheFormat::Tq4 { head: 96 }, &gaussian(960, 1), 96) < 0.012);
        for format in [CacheFormat::F16, CacheFormat::Q8 { head: 32 }, CacheFormat::Tq4 { head: 32 }] {
            let pack = |x: f32| {
                let (mut words, mut found) = (vec![0; format.words(32)], vec![f32::NAN; 32]);
                format.pack(&[x; 32], &mut words);
                format.unpack(&words, &mut found);
                found
            };
            assert_eq!(pack(0.0), [0.0; 32], "{format}");
            // what is no number stays none
            assert!(pack(f32::NAN).iter().all(|x| x.is_nan()), "{format}");
            // numbers that no half holds
            let expected = if format == CacheFormat::F16 { 65_504.0 } else { 1e15 };
            assert!(pack(1e15).iter().all(|x| (x / expected - 1.0).abs() < 0.2), "{format}: {:?}", pack(1e15));
            if format != CacheFormat::F16 {
                assert!(pack(1e-15).iter().all(|x| (x / 1e-15 - 1.0).abs() < 0.2), "{format}: {:?}", pack(1e-15));
            }
        }
    }

    #[test]
    fn rows_are_whole_words() {
        assert_eq!(CacheFormat::F32.row_bytes(512), 2048);
        assert_eq!(CacheFormat::F16.row_bytes(512), 1024);
        assert_eq!(CacheFormat::Q8 { head: 256 }.row_bytes(512), 544);
        assert_eq!(CacheFormat::Tq4 { head: 256 }.row_bytes(512), 264);
        // keys and values of the 15 layers of Qwen3.5-397B-A17B
        assert_eq!(CacheFormat::Tq4 { head: 256 }.row_bytes(512) * 2 * 15, 7920);
        assert_eq!(CacheFormat::Tq4 { head: usize::MAX }.row_bytes(0), 0);
    }
}
