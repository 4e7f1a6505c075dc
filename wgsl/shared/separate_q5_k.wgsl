// Q5_K: what scales and minima are multiplied with (f16), 12 bytes: 8 of both, of 6 bits; 32 bytes of fifth bits; 128 bytes, of
// each 32 the low halves first. Blocks are whole 16 bytes.

//import bytes
//import place
//import scales_of_6_bits
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 176u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let first = at >> 4u;
    let part = block & 7u;
    let scales = scale_and_bias(weights[first], part);
    let shift = vec4<u32>(4u * (part & 1u));
    let mask = vec4<u32>(0x0f0f0f0fu);
    let ones = vec4<u32>(0x01010101u);
    let codes = first + 3u + (part / 2u) * 2u;
    let a = ((weights[codes] >> shift) & mask) | (((weights[first + 1u] >> vec4<u32>(part)) & ones) << vec4<u32>(4u));
    let b = ((weights[codes + 1u] >> shift) & mask) | (((weights[first + 2u] >> vec4<u32>(part)) & ones) << vec4<u32>(4u));
    return Separated(array<vec4<u32>, 2>(a, b), vec2<f32>(scales.x), vec2<f32>(scales.y));
}
