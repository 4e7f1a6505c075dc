// IQ1_M: 32 entries of the grid (8 bits, and 3 more behind) for 8 columns each, and whether an eighth is added or taken; scales of
// 3 bits for each 16, and beside them, in four parts, what they are multiplied with (f16). Codes are eighths.

//import bytes
//import eight_values
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 56u;

fn eighths(entry: u32, more: u32) -> vec2<u32> {
    let n = select(15u, 17u, (more & 8u) != 0u);
    return less(vec4<u32>(eight_values(entry | ((more & 7u) << 8u)), 0u, 0u), n).xy;
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let entries = even_word_at(at + 4u * part);
    let more = short_at(at + 32u + 2u * part);
    let a = eighths(entries & 0xffu, more);
    let b = eighths((entries >> 8u) & 0xffu, more >> 4u);
    let c = eighths((entries >> 16u) & 0xffu, more >> 8u);
    let d = eighths(entries >> 24u, more >> 12u);
    let beside = two_words_at(at + 48u);
    let first = beside.x;
    let second = beside.y;
    let parts = ((first >> 12u) & 15u) | ((first >> 24u) & 0xf0u) | ((second >> 4u) & 0xf00u) | ((second >> 16u) & 0xf000u);
    let scales = short_at(at + 48u + part / 2u * 2u) >> (6u * (part & 1u));
    let odd = vec2<f32>(f32(2u * (scales & 7u) + 1u), f32(2u * ((scales >> 3u) & 7u) + 1u));
    return Separated(
        array<vec4<u32>, 2>(vec4<u32>(a, b), vec4<u32>(c, d)),
        unpack2x16float(parts).x * odd * 0.125,
        vec2<f32>(),
    );
}
