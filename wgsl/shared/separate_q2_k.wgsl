// Q2_K: 16 bytes, a scale and a minimum of 4 bits for each 16 columns; 64 bytes of codes, of each 32 bytes the lowest pairs
// of bits first; what scales and minima are multiplied with (f16).

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 84u;

// Codes of 32 columns in the lowest bits of bytes, and more above.
fn of_codes(codes: array<vec4<u32>, 2>, d: vec2<f32>, at: u32, part: u32) -> Separated {
    let mask = vec4<u32>(0x03030303u);
    let both = short_at(at + 2u * part);
    let scales = vec2<u32>(both & 15u, (both >> 8u) & 15u);
    let minima = vec2<u32>((both >> 4u) & 15u, both >> 12u);
    return Separated(
        array<vec4<u32>, 2>(codes[0] & mask, codes[1] & mask), d.x * vec2<f32>(scales), -d.y * vec2<f32>(minima),
    );
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = eight_words_at(at + 16u + (part / 4u) * 32u);
    return of_codes(behind(codes, 2u * (part & 3u)), unpack2x16float(word_at(at + 80u)), at, part);
}

// Of part `part` and of the one two behind it, whose codes are 4 bits above.
fn two_blocks(matrix: Place, row: u32, block: u32) -> array<Separated, 2> {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = behind(eight_words_at(at + 16u + (part / 4u) * 32u), 2u * (part & 1u));
    let d = unpack2x16float(word_at(at + 80u));
    return array<Separated, 2>(of_codes(codes, d, at, part), of_codes(behind(codes, 4u), d, at, part + 2u));
}
