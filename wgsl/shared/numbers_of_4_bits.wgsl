// Numbers of 4 bits (E2M1), doubled: 0, 1, 2, 3, 4, 6, 8, 12 and a sign. Of each byte of the words the low half, then the high
// half, as signed bytes. Magnitudes are found eight a word, as they fit in 4 bits.
fn numbers_of_4_bits(words: vec4<u32>) -> array<vec4<u32>, 2> {
    let ones = vec4<u32>(0x11111111u);
    let is_large = (words >> vec4<u32>(2u)) & ones;
    let rest = words & (3u * ones);
    // 5, 6 and 7 are 1, 2 and 3 more, and 7 is 2 more again
    let more = (rest & (3u * is_large)) + 2u * (rest & (rest >> vec4<u32>(1u)) & is_large);
    let value = (words & (7u * ones)) + more;
    let negative = value & (((words >> vec4<u32>(3u)) & ones) * 15u);
    let halves = vec4<u32>(0x0f0f0f0fu);
    let top = vec4<u32>(0x80808080u);
    // bytes do not borrow of the next: 128 less than they are
    let low = (top + (value & halves) - 2u * (negative & halves)) ^ top;
    let high = (top + ((value >> vec4<u32>(4u)) & halves) - 2u * ((negative >> vec4<u32>(4u)) & halves)) ^ top;
    return array<vec4<u32>, 2>(low, high);
}
