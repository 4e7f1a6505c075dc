// Where FP8 (E4M3) lies: 32 columns of a row, one a byte, with a scale for some columns or for the row.
// Streams: numbers, scales.

//import numbers_of_8_bits
//import place
//import scales

// 256 times the scale of a block: numbers are four_e4m3's. No scale of weights is near 2^119, where that would be infinite.
// `group_blocks` may be 0, for the whole row, and `scale_type` 3, exponents of 1 byte.
fn scale_of(matrix: Place, row: u32, block: u32) -> f32 {
    var index = row;
    if group_blocks != 0u {
        // the last group of a row may be shorter
        let group = max(group_blocks, 1u);
        index = row * ((params.blocks + group - 1u) / group) + block / group;
    }
    if scale_type == 3u {
        return 512.0 * half_of_power((word(matrix.stream_1 + index / 4u) >> ((index & 3u) * 8u)) & 0xffu);
    }
    return 256.0 * scale_at(matrix.stream_1, index);
}

fn numbers_of(matrix: Place, row: u32, block: u32) -> array<vec4<u32>, 2> {
    let at = (matrix.stream_0 >> 2u) + (row * params.blocks + block) * 2u;
    return array<vec4<u32>, 2>(weights[at], weights[at + 1u]);
}
