// Numbers of 8 bits: E4M3 has 4 of exponent and 3 of mantissa, E8M0 is a power of two.

// What would be NaN is 480: scales and numbers that are none were found when the weights were read.
fn e4m3(byte: u32) -> f32 {
    return unpack2x16float(((byte & 0x80u) << 8u) | ((byte & 0x7fu) << 7u)).x * 256.0;
}

// A 256th of four of them, the first in the lowest byte: halves have 10 bits of mantissa and an exponent that is less by 8.
fn four_e4m3(bytes: u32) -> vec4<f32> {
    let odd = unpack2x16float((bytes & 0x80008000u) | ((bytes & 0x7f007f00u) >> 1u));
    let even = unpack2x16float(((bytes & 0x00800080u) << 8u) | ((bytes & 0x007f007fu) << 7u));
    return vec4<f32>(even.x, odd.x, even.y, odd.y);
}

// 32 of them times `s`, which makes them what they are.
fn columns_e4m3(numbers: array<vec4<u32>, 2>, s: f32) -> array<vec4<f32>, 8> {
    let a = numbers[0];
    let b = numbers[1];
    return array<vec4<f32>, 8>(
        four_e4m3(a.x) * s, four_e4m3(a.y) * s, four_e4m3(a.z) * s, four_e4m3(a.w) * s,
        four_e4m3(b.x) * s, four_e4m3(b.y) * s, four_e4m3(b.z) * s, four_e4m3(b.w) * s,
    );
}

// Half of 2^(exponent - 127), which is a normal number but for the first two.
fn half_of_power(exponent: u32) -> f32 {
    return bitcast<f32>(select((exponent - 1u) << 23u, 0x00200000u << min(exponent, 1u), exponent < 2u));
}
