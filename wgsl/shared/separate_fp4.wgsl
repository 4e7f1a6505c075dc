// MXFP4 of safetensors: numbers of 4 bits (E2M1), two a byte, and an exponent for 32. A word's low halves are columns 0, 2, 4
// and 6 of eight, its high halves the others, and so they are multiplied.
// Streams: numbers, exponents.

//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

const sixteens: bool = false; // whether numbers lie by 16 columns

fn numbers_at(matrix: Place, row: u32, block: u32) -> vec4<u32> {
    return weights[(matrix.stream_0 >> 2u) + row * params.blocks + block];
}

fn scale_at(matrix: Place, row: u32, block: u32) -> f32 {
    let index = row * params.blocks + block;
    return half_of_power((word(matrix.stream_1 + (index >> 2u)) >> ((index & 3u) * 8u)) & 0xffu);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let numbers = numbers_of_4_bits(numbers_at(matrix, row, block));
    return with_scale(numbers[0], numbers[1], scale_at(matrix, row, block));
}
