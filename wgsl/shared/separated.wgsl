// 32 columns of a row as a format with signed codes has them, blocks of GGUF files or numbers of 4 bits: codes in the order
// of columns, four a word, and for each 16 of them a scale and a bias: w = scale * code + bias.

override paired: u32 = 0u; // 1: words of 16 columns hold every second of eight, the even ones of all 16 first

struct Separated {
    codes: array<vec4<u32>, 2>,
    scale: vec2<f32>,
    bias: vec2<f32>,
}

// Codes with one scale and no bias.
fn with_scale(low: vec4<u32>, high: vec4<u32>, scale: f32) -> Separated {
    return Separated(array<vec4<u32>, 2>(low, high), vec2<f32>(scale), vec2<f32>());
}

// Codes of the low and of the high halves of bytes, of which 8 are 16 columns, with two scales and no bias.
fn with_scales(halves: array<vec4<u32>, 2>, scales: vec2<f32>) -> Separated {
    let a = halves[0];
    let b = halves[1];
    return Separated(array<vec4<u32>, 2>(vec4<u32>(a.xy, b.xy), vec4<u32>(a.zw, b.zw)), scales, vec2<f32>());
}

// What lies `bits` above in each byte, and more above.
fn behind(codes: array<vec4<u32>, 2>, bits: u32) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(codes[0] >> vec4<u32>(bits), codes[1] >> vec4<u32>(bits));
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

// Magnitudes, 1 to 127, with the signs of `signs`, bytes of 255 where there is one.
fn signed(magnitudes: vec4<u32>, signs: vec4<u32>) -> vec4<u32> {
    return (magnitudes ^ signs) + (signs & vec4<u32>(0x01010101u));
}
