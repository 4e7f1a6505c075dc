// MXFP4: an exponent, 16 bytes: numbers of 4 bits in the low halves, then in the high halves.

//import bytes
//import numbers_of_4_bits
//import numbers_of_8_bits
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 17u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let bytes = words_at(at + 1u);
    let exponent = byte_at(at);
    return with_scale(numbers_of_4_bits(low(bytes)), numbers_of_4_bits(high(bytes)), half_of_power(exponent));
}
