use std::sync::LazyLock;

/// The levels of 16 for N(0, 1) that have the least mean square error (Lloyd and Max): these and their negatives.
const LEVELS: [f32; 8] = [0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259];

/// What lies above the nth is nearer to the next level.
const THRESHOLDS: [f32; 7] = [0.258225, 0.522405, 0.79955, 1.099285, 1.43714, 1.843535, 2.400805];

/// Which elements change their sign, the first in the lowest bit: the first digits of pi after the point.
const SIGNS: [u32; 8] =
    [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344, 0xa409_3822, 0x299f_31d0, 0x082e_fa98, 0xec4e_6c89];

fn change_signs(head: &mut [f32]) {
    for (i, x) in head.iter_mut().enumerate() {
        *x = if SIGNS[i / 32 % 8] >> (i % 32) & 1 == 1 { -*x } else { *x };
    }
}

/// Walsh-Hadamard transforms of all tiles, whose elements are the largest power of two that divides those of the head; their
/// own inverse.
fn transform(head: &mut [f32]) {
    let tile = 1 << head.len().trailing_zeros();
    let scale = 1.0 / (tile as f32).sqrt();
    for tile in head.chunks_exact_mut(tile) {
        let mut half = 1;
        while half < tile.len() {
            for pair in tile.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        tile.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Turns a head, of keys, values or queries.
pub fn turn(head: &mut [f32]) {
    change_signs(head);
    transform(head);
}

/// Turns it back.
pub fn turn_back(head: &mut [f32]) {
    transform(head);
    change_signs(head);
}

fn code(x: f32) -> u32 {
    let size = x.abs();
    let level = THRESHOLDS.iter().filter(|threshold| size > **threshold).count() as u32;
    level | u32::from(x < 0.0) << 3
}

fn level(code: u32) -> f32 {
    let size = LEVELS[(code & 7) as usize];
    if code & 8 == 8 { -size } else { size }
}

pub(super) fn pack(head: &[f32], words: &mut [u32]) {
    let (codes, factor) = words.split_at_mut(head.len() / 8);
    let squares: f32 = head.iter().map(|x| x * x).sum();
    let inverse = if squares > 0.0 { (head.len() as f32).sqrt() / squares.sqrt() } else { 0.0 };
    let mut of_levels = 0.0;
    for (word, eight) in codes.iter_mut().zip(head.chunks_exact(8)) {
        *word = 0;
        for (i, x) in eight.iter().enumerate() {
            let code = code(x * inverse);
            of_levels += level(code) * level(code);
            *word |= code << (4 * i);
        }
    }
    // levels are shorter than what they stand for: the factor gives a head its own length. NaN stays what it is.
    factor[0] = (squares / of_levels).sqrt().to_bits();
}

/// The levels of the two codes of a byte.
static PAIRS: LazyLock<[[f32; 2]; 256]> = LazyLock::new(|| {
    let mut pairs = [[0.0; 2]; 256];
    (0..).zip(&mut pairs).for_each(|(byte, pair)| *pair = [level(byte & 15), level(byte >> 4)]);
    pairs
});

pub(super) fn unpack(words: &[u32], head: &mut [f32]) {
    let (codes, factor) = words.split_at(head.len() / 8);
    let (factor, pairs) = (f32::from_bits(factor[0]), &*PAIRS);
    let codes: &[u8] = bytemuck::cast_slice(codes);
    for (two, byte) in head.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        let [a, b] = pairs[usize::from(*byte)];
        *two = [a * factor, b * factor];
    }
}
