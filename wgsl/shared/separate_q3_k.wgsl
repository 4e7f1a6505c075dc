// Q3_K: 32 bytes of third bits, 64 bytes of pairs of bits, of each 32 bytes the lowest first, 12 bytes: 16 scales of 6 bits;
// what they are multiplied with (f16). A code is 4 less where its third bit is not set.

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 110u;

// Of 32 columns: four bits of two bytes, and two bits of two others.
fn scales_of(at: u32, part: u32) -> vec2<f32> {
    let lower = short_at(at + 96u + 2u * (part & 3u)) >> (4u * (part / 4u));
    let upper = short_at(at + 104u + 2u * (part & 1u)) >> (2u * (part / 2u));
    let six = (lower & 0x0f0fu) | ((upper & 0x0303u) << 4u);
    return vec2<f32>(vec2<u32>(six & 63u, six >> 8u)) - 32.0;
}

// Codes of 32 columns in the lowest bits of bytes, `thirds` two above; and more above both.
fn of_codes(codes: array<vec4<u32>, 2>, thirds: array<vec4<u32>, 2>, scales: vec2<f32>) -> Separated {
    let pairs = vec4<u32>(0x03030303u);
    let ones = vec4<u32>(0x04040404u);
    let a = (codes[0] & pairs) | (thirds[0] & ones);
    let b = (codes[1] & pairs) | (thirds[1] & ones);
    return Separated(array<vec4<u32>, 2>(less(a, 4u), less(b, 4u)), scales, vec2<f32>());
}

fn two_above(bits: array<vec4<u32>, 2>) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(bits[0] << vec4<u32>(2u), bits[1] << vec4<u32>(2u));
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = behind(eight_words_at(at + 32u + (part / 4u) * 32u), 2u * (part & 3u));
    let thirds = two_above(behind(eight_words_at(at), part));
    return of_codes(codes, thirds, half_at(at + 108u) * scales_of(at, part));
}

// Of part `part` and of the one two behind it, whose codes are 4 bits above, and whose third bits two.
fn two_blocks(matrix: Place, row: u32, block: u32) -> array<Separated, 2> {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = behind(eight_words_at(at + 32u + (part / 4u) * 32u), 2u * (part & 1u));
    let thirds = behind(eight_words_at(at), part);
    let d = half_at(at + 108u);
    return array<Separated, 2>(
        of_codes(codes, two_above(thirds), d * scales_of(at, part)),
        of_codes(behind(codes, 4u), thirds, d * scales_of(at, part + 2u)),
    );
}
