// 32 weights of a row as FP8 (E4M3), one a byte, with a scale for some columns or for the row.
// Streams: numbers, scales.

//import activations
//import numbers_of_8_bits
//import place
//import scales

// The scale of a block. `group_blocks` may be 0, for the whole row, and `scale_type` 3, exponents of 1 byte.
fn scale_of(matrix: Place, row: u32, block: u32) -> f32 {
    var index = row;
    if group_blocks != 0u {
        // the last group of a row may be shorter
        let group = max(group_blocks, 1u);
        index = row * ((params.blocks + group - 1u) / group) + block / group;
    }
    if scale_type == 3u {
        return 2.0 * half_of_power((word(matrix.stream_1 + index / 4u) >> ((index & 3u) * 8u)) & 0xffu);
    }
    return scale_at(matrix.stream_1, index);
}

fn block_of(matrix: Place, row: u32, block: u32) -> Weights {
    let at = (matrix.stream_0 >> 2u) + (row * params.blocks + block) * 2u;
    let a = weights[at];
    let b = weights[at + 1u];
    let s = scale_of(matrix, row, block);
    return Weights(array<vec4<f32>, 8>(
        four_e4m3(a.x) * s, four_e4m3(a.y) * s, four_e4m3(a.z) * s, four_e4m3(a.w) * s,
        four_e4m3(b.x) * s, four_e4m3(b.y) * s, four_e4m3(b.z) * s, four_e4m3(b.w) * s,
    ));
}
