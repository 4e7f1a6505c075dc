// Q4_0: a scale (f16), 16 bytes: low halves, then high halves, less 8.

//import bytes
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 18u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let bytes = words_at(at + 2u);
    return with_scale(less(low(bytes), 8u), less(high(bytes), 8u), half_at(at));
}
