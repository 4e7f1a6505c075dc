// IQ2_XXS: a scale (f16); for each 32 columns four entries of the grid, four times seven signs, and a scale of 4 bits.

//import bytes
//import codebook
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 66u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let place = at + 2u + (block & 7u) * 8u;
    let entries = word_at(place);
    let rest = word_at(place + 4u);
    let a = eight_values(entries & 0xffu);
    let b = eight_values((entries >> 8u) & 0xffu);
    let c = eight_values((entries >> 16u) & 0xffu);
    let d = eight_values(entries >> 24u);
    let signs = four_even_signs(rest);
    let codes = signed_eights(a, b, c, d, signs);
    return with_scale(codes[0], codes[1], half_at(at) * (0.5 + f32(rest >> 28u)) * 0.25);
}
