// 32 columns of a row as a format with signed codes has them, blocks of GGUF files or numbers of 4 bits: codes in the order
// of columns, four a word, and for each 16 of them a scale and a bias: w = scale * code + bias.

struct Separated {
    codes: array<vec4<u32>, 2>,
    scale: vec2<f32>,
    bias: vec2<f32>,
}

// Codes with one scale and no bias.
fn with_scale(low: vec4<u32>, high: vec4<u32>, scale: f32) -> Separated {
    return Separated(array<vec4<u32>, 2>(low, high), vec2<f32>(scale), vec2<f32>());
}

// Of four bytes of 0 to 127 each less `n`, 0 to 127, as signed bytes: no byte borrows of the next.
fn less(codes: vec4<u32>, n: u32) -> vec4<u32> {
    return (codes + vec4<u32>((128u - n) * 0x01010101u)) ^ vec4<u32>(0x80808080u);
}

// The low halves of bytes.
fn low(bytes: vec4<u32>) -> vec4<u32> {
    return bytes & vec4<u32>(0x0f0f0f0fu);
}

// The high halves.
fn high(bytes: vec4<u32>) -> vec4<u32> {
    return (bytes >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
}

// Bits `n` to `n + 3` of a word, one a byte.
fn four_bits(bits: u32, n: u32) -> u32 {
    return ((((bits >> n) & 0xfu) * 0x00204081u) & 0x01010101u);
}

// The 16 bits from bit `n` on.
fn bits_of_16(bits: u32, n: u32) -> vec4<u32> {
    return vec4<u32>(four_bits(bits, n), four_bits(bits, n + 4u), four_bits(bits, n + 8u), four_bits(bits, n + 12u));
}

// Four magnitudes, 1 to 127, with the signs of bits `n` to `n + 3`.
fn signed(magnitudes: u32, signs: u32, n: u32) -> u32 {
    let ones = four_bits(signs, n);
    return (magnitudes ^ (ones * 255u)) + ones;
}

// Seven signs, and an eighth that makes their number even.
fn even_signs(seven: u32) -> u32 {
    let signs = seven & 127u;
    return signs | ((countOneBits(signs) & 1u) << 7u);
}

// Four times such signs.
fn four_even_signs(bits: u32) -> u32 {
    return even_signs(bits) | (even_signs(bits >> 7u) << 8u) | (even_signs(bits >> 14u) << 16u) | (even_signs(bits >> 21u) << 24u);
}

// 32 magnitudes, eight each, with the signs of a word.
fn signed_eights(a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, d: vec2<u32>, signs: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(
        vec4<u32>(signed(a.x, signs, 0u), signed(a.y, signs, 4u), signed(b.x, signs, 8u), signed(b.y, signs, 12u)),
        vec4<u32>(signed(c.x, signs, 16u), signed(c.y, signs, 20u), signed(d.x, signs, 24u), signed(d.y, signs, 28u)),
    );
}
