//! How near two results are.

/// `atol + rtol * |expected|`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tolerance {
    pub(crate) atol: f32,
    pub(crate) rtol: f32,
}

impl Tolerance {
    /// Nothing, or still anything: what has an infinite tolerance is not compared at all.
    pub(crate) fn to_the_bit(self) -> Self {
        if self.atol == f32::INFINITY { self } else { Tolerance::default() }
    }
}

/// Whether two runs of a tensor agree; NaN is equal to NaN.
pub(crate) fn close(tolerance: Tolerance, stride: usize, expected: &[u32], found: &[u32]) -> Result<(), String> {
    assert_eq!(expected.len(), found.len());
    let mut worst: Option<(f32, usize)> = None;
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        if e == f {
            continue;
        }
        if tolerance.atol == f32::INFINITY {
            continue;
        }
        let (e, f) = (f32::from_bits(*e), f32::from_bits(*f));
        if e.is_nan() && f.is_nan() {
            // which NaN is the compiler's affair
            continue;
        }
        let beyond = (e - f).abs() - (tolerance.atol + tolerance.rtol * e.abs());
        // NaN on one side only is worse than any number; without a tolerance all bits count
        let beyond = if beyond.is_nan() || tolerance.atol == 0.0 { f32::INFINITY } else { beyond };
        if beyond > 0.0 && worst.is_none_or(|(most, _)| beyond > most) {
            worst = Some((beyond, i));
        }
    }
    let Some((_, i)) = worst else { return Ok(()) };
    let (e, f) = (f32::from_bits(expected[i]), f32::from_bits(found[i]));
    let place = format!("row {}, column {}", i / stride, i % stride);
    Err(format!("{place}: expected {e} ({:#010x}), found {f} ({:#010x}), {tolerance:?}", expected[i], found[i]))
}

/// Packed activations, made of numbers that agree within a tolerance: a code may be the next one.
pub(crate) fn close_packed(
    tolerance: Tolerance,
    stride: usize,
    cols: usize,
    expected: &[u32],
    found: &[u32],
) -> Result<(), String> {
    for (r, (expected, found)) in expected.chunks(stride).zip(found.chunks(stride)).enumerate() {
        let (codes, pairs) = (..cols / 4, cols / 4..cols / 4 + cols / 16);
        for (i, (e, f)) in expected[codes].iter().zip(&found[codes]).enumerate() {
            let bytes = e.to_le_bytes().into_iter().zip(f.to_le_bytes());
            if bytes.into_iter().any(|(e, f)| (e as i8).abs_diff(f as i8) > 1) {
                return Err(format!("row {r}, word {i}: expected codes {e:#010x}, found {f:#010x}"));
            }
        }
        let (expected, found) = (&expected[pairs.clone()], &found[pairs]);
        for (e, f) in expected.chunks(2).zip(found.chunks(2)) {
            // codes that are the next ones change the sum by as many scales
            let sum = Tolerance { atol: tolerance.atol + 2.0 * f32::from_bits(e[0]), ..tolerance };
            close(tolerance, 1, &e[..1], &f[..1])
                .and(close(sum, 1, &e[1..], &f[1..]))
                .map_err(|e| format!("row {r}, pair: {e}"))?;
        }
    }
    Ok(())
}
