use half::f16;
use half::slice::HalfFloatSliceExt;

/// Larger numbers would be infinite.
const LARGEST: f32 = 65_504.0;

pub(super) fn pack(elements: &[f32], words: &mut [u32]) {
    for (pair, word) in elements.chunks(2).zip(words) {
        let half = |x: f32| u32::from(f16::from_f32(x.clamp(-LARGEST, LARGEST)).to_bits());
        *word = half(pair[0]) | pair.get(1).map_or(0, |x| half(*x) << 16);
    }
}

pub(super) fn unpack(words: &[u32], elements: &mut [f32]) {
    let halves: &[f16] = bytemuck::cast_slice(words);
    halves[..elements.len()].convert_to_f32_slice(elements);
}
