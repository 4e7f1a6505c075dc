// MXFP4: an exponent, 16 bytes: numbers of 4 bits in the low halves, then in the high halves.

//import bytes
//import numbers_of_4_bits
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 17u;

fn separate(at: u32, block: u32) -> Separated {
    let bytes = words_at(at + 1u);
    let exponent = byte_at(at);
    let half = bitcast<f32>(select((exponent - 1u) << 23u, 0x00200000u << min(exponent, 1u), exponent < 2u));
    return with_scale(numbers_of_4_bits(low(bytes)), numbers_of_4_bits(high(bytes)), half);
}
