/// Elements that share a scale.
const GROUP: usize = 32;
const LARGEST: f32 = 127.0;

/// The upper half of the nearest number that has no lower half; what is halfway goes up. Its range is that of an f32: scales
/// of small keys are no subnormal halves, which a GPU may flush. No division is in it, so every device makes the same of the
/// same numbers; codes are found by a division, and one between two may get either.
fn upper_half(x: f32) -> u32 {
    // of NaN the addition could make a zero
    if x.is_nan() { 0x7fc0 } else { (x.to_bits() + 0x8000) >> 16 }
}

pub(super) fn pack(elements: &[f32], words: &mut [u32]) {
    let (codes, scales) = words.split_at_mut(elements.len().div_ceil(4));
    scales.fill(0);
    for (g, group) in elements.chunks(GROUP).enumerate() {
        let mut largest = 0.0f32;
        let mut has_nan = false;
        for x in group {
            largest = largest.max(x.abs());
            has_nan |= x.is_nan();
        }
        let scale = upper_half(if has_nan { f32::NAN } else { largest * (1.0 / LARGEST) });
        scales[g / 2] |= scale << (16 * (g % 2));
        let scale = f32::from_bits(scale << 16);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (word, four) in codes[g * GROUP / 4..].iter_mut().zip(group.chunks(4)) {
            *word = 0;
            for (i, x) in four.iter().enumerate() {
                let code = (x * inverse).round_ties_even().clamp(-LARGEST, LARGEST) as i8;
                *word |= u32::from(code as u8) << (8 * i);
            }
        }
    }
}

pub(super) fn unpack(words: &[u32], elements: &mut [f32]) {
    let (codes, scales) = words.split_at(elements.len().div_ceil(4));
    let codes: &[i8] = bytemuck::cast_slice(codes);
    for (g, (elements, codes)) in elements.chunks_mut(GROUP).zip(codes.chunks(GROUP)).enumerate() {
        let scale = f32::from_bits(scales[g / 2] >> (16 * (g % 2)) << 16);
        for (x, code) in elements.iter_mut().zip(codes) {
            *x = f32::from(*code) * scale;
        }
    }
}
