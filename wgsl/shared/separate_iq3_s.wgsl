// IQ3_S: a scale (f16); 64 entries of the grid, for 4 columns each (8 bits, and one more behind); a sign a column; a scale of 4
// bits for each 32.

//import bytes
//import codebook
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 110u;

fn entry(entries: u32, i: u32, more: u32, n: u32) -> u32 {
    return four_values(((entries >> (8u * i)) & 0xffu) | (((more >> n) & 1u) << 8u));
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let first = word_at(at + 2u + 8u * part);
    let second = word_at(at + 6u + 8u * part);
    let more = byte_at(at + 66u + part);
    let signs = word_at(at + 74u + 4u * part);
    let scale = (byte_at(at + 106u + part / 2u) >> (4u * (part & 1u))) & 15u;
    return with_scale(
        vec4<u32>(
            signed(entry(first, 0u, more, 0u), signs, 0u), signed(entry(first, 1u, more, 1u), signs, 4u),
            signed(entry(first, 2u, more, 2u), signs, 8u), signed(entry(first, 3u, more, 3u), signs, 12u),
        ),
        vec4<u32>(
            signed(entry(second, 0u, more, 4u), signs, 16u), signed(entry(second, 1u, more, 5u), signs, 20u),
            signed(entry(second, 2u, more, 6u), signs, 24u), signed(entry(second, 3u, more, 7u), signs, 28u),
        ),
        half_at(at) * f32(1u + 2u * scale),
    );
}
