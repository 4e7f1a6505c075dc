// NVFP4 of safetensors: numbers of 4 bits (E2M1), two a byte, a scale of 8 bits (E4M3) for 16 and, where the matrix has one, a
// scale for the row. Of 16 columns the even ones come first, as `paired` says of activations.
// Streams: numbers, scales, scales of rows.

//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

override row_scales: u32 = 0u; // 1: there are scales of rows

const sixteens: bool = true; // whether numbers lie by 16 columns

fn numbers_at(matrix: Place, row: u32, block: u32) -> vec4<u32> {
    return weights[(matrix.stream_0 >> 2u) + row * params.blocks + block];
}

fn scales_at(matrix: Place, row: u32, block: u32) -> vec2<f32> {
    let index = row * params.blocks + block;
    let scales = word(matrix.stream_1 + (index >> 1u)) >> ((index & 1u) * 16u);
    var half = 0.5;
    if row_scales == 1u {
        half *= bitcast<f32>(word(matrix.stream_2 + row));
    }
    return vec2<f32>(e4m3(scales & 0xffu), e4m3((scales >> 8u) & 0xffu)) * half;
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    return with_scales(numbers_of_4_bits(numbers_at(matrix, row, block)), scales_at(matrix, row, block));
}
