// Q5_1: a scale and a minimum (f16), fifth bits, 16 bytes: low halves, then high halves.

//import bytes
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 24u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let scales = unpack2x16float(word_at(at));
    let fifth = word_at(at + 4u);
    let bytes = words_at(at + 8u);
    let a = low(bytes) | (bits_of_16(fifth, 0u) << vec4<u32>(4u));
    let b = high(bytes) | (bits_of_16(fifth, 16u) << vec4<u32>(4u));
    return Separated(array<vec4<u32>, 2>(a, b), vec2<f32>(scales.x), vec2<f32>(scales.y));
}
