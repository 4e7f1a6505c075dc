// Numbers of 4 bits (E2M1), four in the low halves of a word's bytes, doubled: 0, 1, 2, 3, 4, 6, 8, 12 and a sign.
fn numbers_of_4_bits(codes: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x01010101u);
    let top = vec4<u32>(0x80808080u);
    let magnitude = codes & (7u * ones);
    let is_large = (codes >> vec4<u32>(2u)) & ones;
    let rest = codes & (3u * ones);
    // 5, 6 and 7 are 1, 2 and 3 more, and 7 is 2 more again
    let more = (rest & (3u * is_large)) + ((rest & (rest >> vec4<u32>(1u)) & is_large) << vec4<u32>(1u));
    let value = magnitude + more;
    // bytes do not borrow of the next: 128 less than they are
    let negative = value & (((codes >> vec4<u32>(3u)) & ones) * 255u);
    return (top + value - 2u * negative) ^ top;
}
