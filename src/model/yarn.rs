//! YaRN: rotary positions for contexts longer than those that a model was trained with. Slow rotations are stretched, fast
//! ones stay as they are, with a ramp between them; all of it happens to the table of cosines and sines.

/// What a configuration says of it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Yarn {
    /// How many times longer.
    pub factor: f64,
    /// Positions that the model was trained with.
    pub original: usize,
    /// Rotations within them from which on an element stays as it is.
    pub beta_fast: f64,
    /// Rotations within them up to which an element is stretched.
    pub beta_slow: f64,
    /// The ends of the ramp are whole elements.
    pub truncate: bool,
    /// Cosines and sines are multiplied by it.
    pub attention_factor: f64,
}

impl Yarn {
    /// With the constants of the paper.
    pub(crate) fn new(factor: f64, original: usize) -> Yarn {
        let attention_factor = Yarn::attention_factor(factor, None);
        Yarn { factor, original, beta_fast: 32.0, beta_slow: 1.0, truncate: true, attention_factor }
    }

    /// What cosines and sines are multiplied by where it is not said, with two settings that some releases have.
    pub(crate) fn attention_factor(factor: f64, mscales: Option<[f64; 2]>) -> f64 {
        let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        mscales.map_or_else(|| of(1.0), |[scale, of_all]| of(scale) / of(of_all))
    }

    /// Radians of a position for each pair of `dim` rotated elements, where `theta` is the base.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "f32 as in the reference")]
    pub(crate) fn frequencies(&self, theta: f64, dim: usize) -> Vec<f32> {
        // the element that rotates so often within the positions that are known
        let element = |rotations: f64| {
            let positions = self.original as f64 / (rotations * std::f64::consts::TAU);
            dim as f64 * positions.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (element(self.beta_fast), element(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequency = |i: usize| {
            let plain = 1.0 / theta.powf(2.0 * i as f64 / dim as f64);
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            (plain / self.factor * stretched + plain * (1.0 - stretched)) as f32
        };
        (0..dim / 2).map(frequency).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `_compute_yarn_parameters` of transformers 5, for 64 elements, base 1e7, factor 4 of 262,144 positions.
    #[test]
    fn frequencies_of_transformers() {
        let attention_factor = Yarn::attention_factor(4.0, None);
        let yarn = Yarn::new(4.0, 262_144);
        assert_eq!(yarn.attention_factor, attention_factor);
        assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
        let found = yarn.frequencies(1e7, 64);
        REFERENCE.iter().for_each(|&(i, expected)| {
            assert!((found[i] / expected - 1.0).abs() < 2e-6, "{i}: {} instead of {expected}", found[i]);
        });
        assert_eq!(found.len(), 32);
        let same = Yarn { factor: 1.0, ..yarn }.frequencies(1e7, 64);
        assert!((same[7] / (1e7f32).powf(-14.0 / 64.0) - 1.0).abs() < 1e-6);
        assert_eq!(Yarn::attention_factor(0.5, None), 1.0);
        assert_eq!(Yarn::attention_factor(40.0, Some([0.707, 0.707])), 1.0);
    }

    const REFERENCE: [(usize, f32); 9] = [
        (0, 1.0),
        (5, 0.080_584_21),
        (14, 0.000_865_964_34),
        (15, 0.000_474_239_82),
        (17, 0.000_137_349_75),
        (19, 3.707_225e-5),
        (21, 8.759_77e-6),
        (22, 3.849_816e-6),
        (31, 4.137_042_7e-8),
    ];
}
