// Q4_1: a scale and a minimum (f16), 16 bytes: low halves, then high halves.

//import bytes
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 20u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let bytes = words_at(at + 4u);
    let scales = unpack2x16float(word_at(at));
    return Separated(array<vec4<u32>, 2>(low(bytes), high(bytes)), vec2<f32>(scales.x), vec2<f32>(scales.y));
}
