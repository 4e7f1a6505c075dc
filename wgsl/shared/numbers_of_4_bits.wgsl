// Numbers of 4 bits (E2M1), doubled: 0, 1, 2, 3, 4, 6, 8, 12 and a sign. Of each byte of the words the low half, then the high
// half.

// Magnitudes, eight a word, as they fit in 4 bits.
fn magnitudes_of_4_bits(words: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x11111111u);
    let half = words >> vec4<u32>(1u);
    // 5 is 1 more, 6 is 2 more, and 7 both and 2 more again
    let is_5_or_7 = words & (words >> vec4<u32>(2u)) & ones;
    return (words & (7u * ones)) + (words & half & (2u * ones)) + is_5_or_7 + 2u * (is_5_or_7 & half);
}

// As signed bytes.
fn numbers_of_4_bits(words: vec4<u32>) -> array<vec4<u32>, 2> {
    let value = magnitudes_of_4_bits(words);
    let negative = value & (((words >> vec4<u32>(3u)) & vec4<u32>(0x11111111u)) * 15u);
    let halves = vec4<u32>(0x0f0f0f0fu);
    let top = vec4<u32>(0x80808080u);
    // bytes do not borrow of the next: 128 less than they are
    let low = (top + (value & halves) - 2u * (negative & halves)) ^ top;
    let high = (top + ((value >> vec4<u32>(4u)) & halves) - 2u * ((negative >> vec4<u32>(4u)) & halves)) ^ top;
    return array<vec4<u32>, 2>(low, high);
}

// The same in two parts whose products are added: a negative number is its complement and 1. Another product is quicker than
// what keeps bytes from borrowing: 76 instead of 66 % of an H200's bandwidth.
struct Complements {
    codes: array<vec4<u32>, 2>,
    ones: array<vec4<u32>, 2>,
}

fn complements_of_4_bits(words: vec4<u32>) -> Complements {
    let value = magnitudes_of_4_bits(words);
    let bytes = vec4<u32>(0x01010101u);
    let halves = vec4<u32>(0x0f0f0f0fu);
    let low = (words >> vec4<u32>(3u)) & bytes;
    let high = (words >> vec4<u32>(7u)) & bytes;
    let codes = array<vec4<u32>, 2>((value & halves) ^ (low * 255u), ((value >> vec4<u32>(4u)) & halves) ^ (high * 255u));
    return Complements(codes, array<vec4<u32>, 2>(low, high));
}
