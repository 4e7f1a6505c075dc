use half::{bf16, f16};
use safetensors::Dtype;

use super::affine::check_finite;
use super::{BLOCK, Family, Fill, MOST_STREAMS, NotFinite, NotFiniteAt, ScaleType, WeightRows, split_mix};

/// Numbers, one after the other, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dense {
    /// 4 bytes an element.
    F32,
    /// 2 bytes an element, IEEE half.
    F16,
    /// 2 bytes an element, the upper half of an f32.
    Bf16,
}

impl Dense {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dense::F32 => 4,
            Dense::F16 | Dense::Bf16 => 2,
        }
    }

    /// Numbers to f32, as many as `out` has.
    #[inline(always)]
    pub fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        // loops, not iterator adaptors: see `affine`
        match self {
            Dense::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Dense::F16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = f16_to_f32(u16::from_le_bytes(*bytes));
                }
            }
            Dense::Bf16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
        }
    }

    /// Number `i`.
    #[inline(always)]
    pub fn at(self, bytes: &[u8], i: usize) -> f32 {
        let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self {
            Dense::Bf16 => f32::from_bits(u32::from(half(i)) << 16),
            Dense::F16 => f16_to_f32(half(i)),
            Dense::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
        }
    }

    /// A number in this format, to nearest.
    pub fn encode(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Dense::F32 => out.extend(value.to_le_bytes()),
            Dense::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
            Dense::Bf16 => out.extend(bf16::from_f32(value).to_le_bytes()),
        }
    }

    /// The first number that is NaN or infinite: all bits of its exponent are set.
    pub fn first_not_finite(self, bytes: &[u8]) -> Option<(usize, f32)> {
        let index = match self {
            Dense::Bf16 => first_with_bits(bytes, 0x7f80),
            Dense::F16 => first_with_bits(bytes, 0x7c00),
            Dense::F32 => {
                let is_bad = |b: &[u8; 4]| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000;
                let numbers = bytes.as_chunks::<4>().0;
                let any = numbers.iter().fold(false, |any, number| any | is_bad(number));
                if any { numbers.iter().position(is_bad) } else { None }
            }
        }?;
        Some((index, self.at(bytes, index)))
    }

    /// As safetensors files call it.
    pub fn dtype(self) -> Dtype {
        match self {
            Dense::F32 => Dtype::F32,
            Dense::F16 => Dtype::F16,
            Dense::Bf16 => Dtype::BF16,
        }
    }

    /// The format of tensors of a dtype; `None` for what is not computed with.
    pub fn of(dtype: Dtype) -> Option<Dense> {
        [Dense::F32, Dense::F16, Dense::Bf16].into_iter().find(|dense| dense.dtype() == dtype)
    }

    /// The type of scales that are such numbers.
    pub fn scale_type(self) -> ScaleType {
        match self {
            Dense::F32 => ScaleType::F32,
            Dense::F16 => ScaleType::F16,
            Dense::Bf16 => ScaleType::Bf16,
        }
    }
}

fn first_with_bits(bytes: &[u8], exponent: u16) -> Option<usize> {
    let is_bad = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent == exponent;
    let numbers = bytes.as_chunks::<2>().0;
    // a pass without a way out early is one that the compiler turns into vector instructions
    let any = numbers.iter().fold(false, |any, number| any | is_bad(number));
    if any { numbers.iter().position(is_bad) } else { None }
}

/// Exact, like the conversion of the `half` crate, which is a function call for each number.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    // the exponent's bias grows from 15 to 127; a product makes normal numbers of those that are not
    let number = (f32::from_bits(rest) * f32::from_bits((127 + 127 - 15) << 23)).to_bits();
    let special = if rest >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(sign | number | special)
}

impl Family for Dense {
    fn stream_names(&self) -> &'static [&'static str] {
        &["weight"]
    }

    fn stream_dtypes(&self) -> Vec<Dtype> {
        vec![self.dtype()]
    }

    fn stream_bytes(&self, cols: usize) -> [usize; MOST_STREAMS] {
        [cols * self.bytes(), 0, 0]
    }

    fn column_multiple(&self) -> usize {
        BLOCK
    }

    fn interleave(&self) -> Option<usize> {
        None
    }

    fn suffix(&self) -> &'static str {
        match self {
            Dense::F32 => "f32",
            Dense::F16 => "f16",
            Dense::Bf16 => "bf16",
        }
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    fn first_not_finite(&self, rows: &WeightRows<'_>) -> Option<NotFiniteAt> {
        rows.first_of_numbers(&[(0, self.scale_type(), 1)])
    }

    fn quantise_row(&self, weights: &[f32], [out, ..]: [&mut [u8]; MOST_STREAMS]) -> Result<(), NotFinite> {
        check_finite(weights)?;
        let mut bytes = Vec::with_capacity(out.len());
        weights.iter().for_each(|weight| self.encode(*weight, &mut bytes));
        out.copy_from_slice(&bytes);
        Ok(())
    }

    fn fills(&self, cols: usize, gain: f32, seed: u64) -> [Fill; MOST_STREAMS] {
        // a prime, so that rows begin at another number each
        const PERIOD: usize = 4093;
        let (mut state, mut bytes) = (seed, Vec::new());
        for _ in 0..PERIOD {
            // uniform in [-1.732, 1.732] has a deviation of 1
            let unit = (split_mix(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            self.encode(unit * 1.732 * gain / (cols as f32).sqrt(), &mut bytes);
        }
        [Fill::Repeat(bytes), Fill::Nothing, Fill::Nothing]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_converted_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:04x}");
        }
    }

    #[test]
    fn finds_the_first_nan_or_infinity() {
        let bytes = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let first = |dense: Dense, bytes: &[u8]| dense.first_not_finite(bytes).map(|(index, _)| index);
        assert_eq!(first(Dense::Bf16, &bytes(&[0x3f80, 0xbf80, 0x7f7f])), None);
        assert_eq!(first(Dense::Bf16, &bytes(&[0x3f80, 0xff80, 0x7fc0])), Some(1));
        assert_eq!(first(Dense::F16, &bytes(&[0x3c00, 0x7bff])), None);
        assert_eq!(first(Dense::F16, &bytes(&[0x3c00, 0x7bff, 0x7e00])), Some(2));
        let numbers = [1.0, f32::MAX, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
        assert_eq!(Dense::F32.first_not_finite(&numbers), Some((2, f32::NEG_INFINITY)));
    }
}
