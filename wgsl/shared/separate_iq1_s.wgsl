// IQ1_S: a scale (f16); 32 entries of the grid (8 bits, and 3 more behind), for 8 columns each; for each 32 a scale of 3 bits and
// whether an eighth is added or taken. Codes are eighths, 15 or 17 more.

//import bytes
//import eight_values
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 50u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let entries = even_word_at(at + 2u + 4u * part);
    let more = short_at(at + 34u + 2u * part);
    let a = eight_values((entries & 0xffu) | ((more & 7u) << 8u));
    let b = eight_values(((entries >> 8u) & 0xffu) | (((more >> 3u) & 7u) << 8u));
    let c = eight_values(((entries >> 16u) & 0xffu) | (((more >> 6u) & 7u) << 8u));
    let d = eight_values((entries >> 24u) | (((more >> 9u) & 7u) << 8u));
    let n = select(15.0, 17.0, more >= 0x8000u);
    let scale = half_at(at) * f32(2u * ((more >> 12u) & 7u) + 1u) * 0.125;
    return Separated(array<vec4<u32>, 2>(vec4<u32>(a, b), vec4<u32>(c, d)), vec2<f32>(scale), vec2<f32>(-n * scale));
}
