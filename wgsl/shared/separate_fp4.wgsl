// MXFP4 of safetensors: numbers of 4 bits (E2M1), two a byte, and an exponent for 32. A word's low halves are columns 0, 2, 4
// and 6 of eight, its high halves the others, and so they are multiplied.
// Streams: numbers, exponents.

//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let index = row * params.blocks + block;
    let words = weights[(matrix.stream_0 >> 2u) + index];
    let exponent = (word(matrix.stream_1 + (index >> 2u)) >> ((index & 3u) * 8u)) & 0xffu;
    return with_scale(numbers_of_4_bits(low(words)), numbers_of_4_bits(high(words)), half_of_power(exponent));
}
