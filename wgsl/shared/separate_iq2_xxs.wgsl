// IQ2_XXS: a scale (f16); for each 32 columns four entries of the grid, four times seven signs, and a scale of 4 bits.

//import bytes
//import eight_values
//import place
//import separated
//import seven_signs

const table_entries: u32 = 256u; // of eight values
const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 66u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let words = two_words_at(at + 2u + (block & 7u) * 8u);
    let entries = words.x;
    let rest = words.y;
    let a = eight_values(entries & 0xffu);
    let b = eight_values((entries >> 8u) & 0xffu);
    let c = eight_values((entries >> 16u) & 0xffu);
    let d = eight_values(entries >> 24u);
    let low = vec4<u32>(seven_signs(rest), seven_signs(rest >> 7u));
    let high = vec4<u32>(seven_signs(rest >> 14u), seven_signs(rest >> 21u));
    let scale = half_at(at) * (0.5 + f32(rest >> 28u)) * 0.25;
    return with_scale(signed(vec4<u32>(a, b), low), signed(vec4<u32>(c, d), high), scale);
}
