// IQ2_S: a scale (f16); for each 8 columns an entry of the grid (8 bits, and 2 more behind) and eight signs; a scale of 4 bits
// for each 16.

//import bytes
//import eight_values
//import place
//import separated
//import signs_of_block

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 82u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let entries = even_word_at(at + 2u + 4u * part);
    let bits = even_word_at(at + 34u + 4u * part);
    let more = byte_at(at + 66u + part);
    let a = eight_values((entries & 0xffu) | ((more & 3u) << 8u));
    let b = eight_values(((entries >> 8u) & 0xffu) | ((more & 12u) << 6u));
    let c = eight_values(((entries >> 16u) & 0xffu) | ((more & 48u) << 4u));
    let d = eight_values((entries >> 24u) | ((more & 192u) << 2u));
    let signs = signs_of_block(bits);
    let both = byte_at(at + 74u + (block & 7u));
    let scales = half_at(at) * (0.5 + vec2<f32>(f32(both & 15u), f32(both >> 4u))) * 0.25;
    let codes = array<vec4<u32>, 2>(signed(vec4<u32>(a, b), signs[0]), signed(vec4<u32>(c, d), signs[1]));
    return Separated(codes, scales, vec2<f32>());
}
