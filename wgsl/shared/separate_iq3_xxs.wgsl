// IQ3_XXS: a scale (f16); 64 entries of the grid, for 4 columns each; for each 32 four times seven signs and a scale of 4 bits.

//import bytes
//import codebook
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 98u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let first = word_at(at + 2u + 8u * part);
    let second = word_at(at + 6u + 8u * part);
    let rest = word_at(at + 66u + 4u * part);
    let signs = four_even_signs(rest);
    return with_scale(
        vec4<u32>(
            signed(four_values(first & 0xffu), signs, 0u), signed(four_values((first >> 8u) & 0xffu), signs, 4u),
            signed(four_values((first >> 16u) & 0xffu), signs, 8u), signed(four_values(first >> 24u), signs, 12u),
        ),
        vec4<u32>(
            signed(four_values(second & 0xffu), signs, 16u), signed(four_values((second >> 8u) & 0xffu), signs, 20u),
            signed(four_values((second >> 16u) & 0xffu), signs, 24u), signed(four_values(second >> 24u), signs, 28u),
        ),
        half_at(at) * (0.5 + f32(rest >> 28u)) * 0.5,
    );
}
