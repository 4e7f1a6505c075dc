// Q3_K: 32 bytes of third bits, 64 bytes of pairs of bits, of each 32 bytes the lowest first, 12 bytes: 16 scales of 6 bits;
// what they are multiplied with (f16). A code is 4 less where its third bit is not set.

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 110u;

fn scale_of(at: u32, group: u32) -> f32 {
    let lower = (byte_at(at + 96u + (group & 7u)) >> (4u * (group / 8u))) & 15u;
    let upper = (byte_at(at + 104u + (group & 3u)) >> (2u * (group / 4u))) & 3u;
    return f32(i32(lower | (upper << 4u)) - 32);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let codes = eight_words_at(at + 32u + (part / 4u) * 32u);
    let thirds = eight_words_at(at);
    let shift = vec4<u32>(2u * (part & 3u));
    let third = vec4<u32>(part);
    let ones = vec4<u32>(0x01010101u);
    let a = ((codes[0] >> shift) & (3u * ones)) | (((thirds[0] >> third) & ones) << vec4<u32>(2u));
    let b = ((codes[1] >> shift) & (3u * ones)) | (((thirds[1] >> third) & ones) << vec4<u32>(2u));
    let d = half_at(at + 108u);
    let scales = d * vec2<f32>(scale_of(at, 2u * part), scale_of(at, 2u * part + 1u));
    return Separated(array<vec4<u32>, 2>(less(a, 4u), less(b, 4u)), scales, vec2<f32>());
}
