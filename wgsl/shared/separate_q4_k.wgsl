// Q4_K: what scales and minima are multiplied with (f16), 12 bytes: 8 of both, of 6 bits; 128 bytes, of each 32 the low
// halves first. Blocks are whole 16 bytes.

//import bytes
//import place
//import scales_of_6_bits
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 144u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let first = at >> 4u;
    let part = block & 7u;
    let scales = scale_and_bias(weights[first], part);
    let shift = vec4<u32>(4u * (part & 1u));
    let mask = vec4<u32>(0x0f0f0f0fu);
    let codes = first + 1u + (part / 2u) * 2u;
    return Separated(
        array<vec4<u32>, 2>((weights[codes] >> shift) & mask, (weights[codes + 1u] >> shift) & mask),
        vec2<f32>(scales.x),
        vec2<f32>(scales.y),
    );
}
