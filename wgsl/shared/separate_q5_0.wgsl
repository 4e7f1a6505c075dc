// Q5_0: a scale (f16), fifth bits, 16 bytes: low halves, then high halves, less 16.

//import bytes
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 22u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let fifth = word_at(at + 2u);
    let bytes = words_at(at + 6u);
    let a = low(bytes) | (bits_of_16(fifth, 0u) << vec4<u32>(4u));
    let b = high(bytes) | (bits_of_16(fifth, 16u) << vec4<u32>(4u));
    return with_scale(less(a, 16u), less(b, 16u), half_at(at));
}
