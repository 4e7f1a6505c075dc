// IQ4_XS: a scale (f16), 10 bytes: for each 32 columns a scale of 6 bits; 128 bytes, of each 16 the low halves first, looked up.

//import bytes
//import pairs_of_values
//import place
//import separated

const table_entries: u32 = 256u; // a byte's pair each
const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 136u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let bytes = words_at(at + 8u + 16u * part);
    let a = four_pairs(bytes.x);
    let b = four_pairs(bytes.y);
    let c = four_pairs(bytes.z);
    let d = four_pairs(bytes.w);
    let upper = (short_at(at + 2u) >> (2u * part)) & 3u;
    let lower = (byte_at(at + 4u + part / 2u) >> (4u * (part & 1u))) & 15u;
    return with_scale(vec4<u32>(a.x, b.x, c.x, d.x), vec4<u32>(a.y, b.y, c.y, d.y), half_at(at) * f32(i32(lower | (upper << 4u)) - 32));
}
