// IQ2_XXS: a scale (f16); for each 32 columns four entries of the grid, four times seven signs, and a scale of 4 bits.

//import bytes
//import codebook
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 66u;

fn separate(at: u32, block: u32) -> Separated {
    let place = at + 2u + (block & 7u) * 8u;
    let entries = word_at(place);
    let rest = word_at(place + 4u);
    let a = eight_values(entries & 0xffu);
    let b = eight_values((entries >> 8u) & 0xffu);
    let c = eight_values((entries >> 16u) & 0xffu);
    let d = eight_values(entries >> 24u);
    let signs = even_signs(rest) | (even_signs(rest >> 7u) << 8u) | (even_signs(rest >> 14u) << 16u) | (even_signs(rest >> 21u) << 24u);
    return with_scale(
        vec4<u32>(signed(a.x, signs, 0u), signed(a.y, signs, 4u), signed(b.x, signs, 8u), signed(b.y, signs, 12u)),
        vec4<u32>(signed(c.x, signs, 16u), signed(c.y, signs, 20u), signed(d.x, signs, 24u), signed(d.y, signs, 28u)),
        half_at(at) * (0.5 + f32(rest >> 28u)) * 0.25,
    );
}
