// IQ2_XS: a scale (f16); for each 8 columns an entry of the grid (9 bits) and seven signs; a scale of 4 bits for each 16.

//import bytes
//import eight_values
//import place
//import separated
//import seven_signs

const table_entries: u32 = 512u; // of eight values
const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 74u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let words = two_words_at(at + 2u + (block & 7u) * 8u);
    let first = words.x;
    let second = words.y;
    let a = eight_values(first & 511u);
    let b = eight_values((first >> 16u) & 511u);
    let c = eight_values(second & 511u);
    let d = eight_values((second >> 16u) & 511u);
    let low = vec4<u32>(seven_signs(first >> 9u), seven_signs(first >> 25u));
    let high = vec4<u32>(seven_signs(second >> 9u), seven_signs(second >> 25u));
    let both = byte_at(at + 66u + (block & 7u));
    let scales = half_at(at) * (0.5 + vec2<f32>(f32(both & 15u), f32(both >> 4u))) * 0.25;
    let codes = array<vec4<u32>, 2>(signed(vec4<u32>(a, b), low), signed(vec4<u32>(c, d), high));
    return Separated(codes, scales, vec2<f32>());
}
