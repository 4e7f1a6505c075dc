// IQ2_XS: a scale (f16); for each 8 columns an entry of the grid (9 bits) and seven signs; a scale of 4 bits for each 16.

//import bytes
//import codebook
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 74u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let place = at + 2u + (block & 7u) * 8u;
    let first = word_at(place);
    let second = word_at(place + 4u);
    let a = eight_values(first & 511u);
    let b = eight_values((first >> 16u) & 511u);
    let c = eight_values(second & 511u);
    let d = eight_values((second >> 16u) & 511u);
    let signs = even_signs(first >> 9u) | (even_signs(first >> 25u) << 8u) | (even_signs(second >> 9u) << 16u) | (even_signs(second >> 25u) << 24u);
    let both = byte_at(at + 66u + (block & 7u));
    let scales = half_at(at) * (0.5 + vec2<f32>(f32(both & 15u), f32(both >> 4u))) * 0.25;
    return Separated(signed_eights(a, b, c, d, signs), scales, vec2<f32>());
}
