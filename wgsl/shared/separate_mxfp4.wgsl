// MXFP4: an exponent, 16 bytes: numbers of 4 bits in the low halves, then in the high halves.

//import bytes
//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 17u;

fn numbers_at(matrix: Place, row: u32, block: u32) -> vec4<u32> {
    return words_at(first_byte(matrix, row, block) + 1u);
}

fn scale_at(matrix: Place, row: u32, block: u32) -> f32 {
    return half_of_power(byte_at(first_byte(matrix, row, block)));
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let numbers = numbers_of_4_bits(numbers_at(matrix, row, block));
    return with_scale(numbers[0], numbers[1], scale_at(matrix, row, block));
}
