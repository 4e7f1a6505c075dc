// IQ3_XXS: a scale (f16); 64 entries of the grid, for 4 columns each; for each 32 four times seven signs and a scale of 4 bits.

//import bytes
//import even_signs
//import four_values
//import place
//import separated
//import signs_of_block

const table_entries: u32 = 256u; // of four values
const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 98u;

fn four_entries(entries: u32) -> vec4<u32> {
    return vec4<u32>(
        four_values(entries & 0xffu), four_values((entries >> 8u) & 0xffu),
        four_values((entries >> 16u) & 0xffu), four_values(entries >> 24u),
    );
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let entries = two_words_at(at + 2u + 8u * part);
    let rest = even_word_at(at + 66u + 4u * part);
    let signs = signs_of_block(with_eighths(bytes_of_sevens(rest)));
    let scale = half_at(at) * (0.5 + f32(rest >> 28u)) * 0.5;
    return with_scale(signed(four_entries(entries.x), signs[0]), signed(four_entries(entries.y), signs[1]), scale);
}
