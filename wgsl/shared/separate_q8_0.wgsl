// Q8_0: a scale (f16), 32 signed bytes.

//import bytes
//import place
//import separated

const block_groups: u32 = 1u; // of 32 columns
const block_bytes: u32 = 34u;

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let codes = eight_words_at(at + 2u);
    return with_scale(codes[0], codes[1], half_at(at));
}
