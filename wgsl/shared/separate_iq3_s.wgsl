// IQ3_S: a scale (f16); 64 entries of the grid, for 4 columns each (8 bits, and one more behind); a sign a column; a scale of 4
// bits for each 32.

//import bytes
//import four_values
//import place
//import separated
//import signs_of_block

const table_entries: u32 = 512u; // of four values
const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 110u;

fn entry(entries: u32, i: u32, more: u32) -> u32 {
    return four_values(((entries >> (8u * i)) & 0xffu) | (((more >> i) & 1u) << 8u));
}

fn four_entries(entries: u32, more: u32) -> vec4<u32> {
    return vec4<u32>(entry(entries, 0u, more), entry(entries, 1u, more), entry(entries, 2u, more), entry(entries, 3u, more));
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let entries = two_words_at(at + 2u + 8u * part);
    let more = byte_at(at + 66u + part);
    let bits = even_word_at(at + 74u + 4u * part);
    let scale = (byte_at(at + 106u + part / 2u) >> (4u * (part & 1u))) & 15u;
    let signs = signs_of_block(bits);
    let factor = half_at(at) * f32(1u + 2u * scale);
    return with_scale(signed(four_entries(entries.x, more), signs[0]), signed(four_entries(entries.y, more >> 4u), signs[1]), factor);
}
