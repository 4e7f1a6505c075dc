// NVFP4: for each 16 columns a scale of 8 bits (E4M3), then 8 bytes each: numbers of 4 bits in the low halves, then in the high
// halves.

//import bytes
//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

const block_groups: u32 = 2u; // of 32 columns
const block_bytes: u32 = 36u;

// Half of the scales of a block, which have no sign; what would be NaN is 0.
fn half_of_scales(bytes: u32) -> vec4<f32> {
    let scales = bytes & 0x7f7f7f7fu;
    let is_nan = ((scales + 0x01010101u) >> 7u) & 0x01010101u;
    return four_e4m3(scales & ~(is_nan * 255u)) * 128.0;
}

// Blocks begin at whole words.
fn numbers_at(matrix: Place, row: u32, block: u32) -> vec4<u32> {
    let at = (first_byte(matrix, row, block) >> 2u) + 1u + 4u * (block & 1u);
    return vec4<u32>(word(at), word(at + 1u), word(at + 2u), word(at + 3u));
}

fn scales_at(matrix: Place, row: u32, block: u32) -> vec2<f32> {
    let scales = half_of_scales(word(first_byte(matrix, row, block) >> 2u));
    return select(scales.xy, scales.zw, (block & 1u) == 1u);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    return with_scales(numbers_of_4_bits(numbers_at(matrix, row, block)), scales_at(matrix, row, block));
}
