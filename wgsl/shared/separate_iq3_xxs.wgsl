// IQ3_XXS: a scale (f16); 64 entries of the grid, for 4 columns each; for each 32 four times seven signs and a scale of 4 bits.

//import bytes
//import even_signs
//import four_values
//import place
//import separated

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
    let first = word_at(at + 2u + 8u * part);
    let second = word_at(at + 6u + 8u * part);
    let rest = word_at(at + 66u + 4u * part);
    let low = vec4<u32>(even_signs(rest), even_signs(rest >> 7u));
    let high = vec4<u32>(even_signs(rest >> 14u), even_signs(rest >> 21u));
    let scale = half_at(at) * (0.5 + f32(rest >> 28u)) * 0.5;
    return with_scale(signed(four_entries(first), low), signed(four_entries(second), high), scale);
}
