// IQ4_NL: a scale (f16), 16 bytes: codes in the low halves, then in the high halves, each looked up.

//import bytes
//import pairs_of_values
//import place
//import separated

const table_entries: u32 = 256u; // a byte's pair each
const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 18u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let bytes = words_at(at + 2u);
    let a = four_pairs(bytes.x);
    let b = four_pairs(bytes.y);
    let c = four_pairs(bytes.z);
    let d = four_pairs(bytes.w);
    return with_scale(vec4<u32>(a.x, b.x, c.x, d.x), vec4<u32>(a.y, b.y, c.y, d.y), half_at(at));
}
