// TQ2_0: 64 bytes, of each 32 the lowest pairs of bits first: codes less 1; a scale (f16).

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 66u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = eight_words_at(at + (part / 4u) * 32u);
    let shift = vec4<u32>(2u * (part & 3u));
    let mask = vec4<u32>(0x03030303u);
    let a = (codes[0] >> shift) & mask;
    let b = (codes[1] >> shift) & mask;
    return with_scale(less(a, 1u), less(b, 1u), half_at(at + 64u));
}
