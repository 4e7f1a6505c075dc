// Blocks of 32 columns in f16, for matrix units, as 8 quads in the order of the packed codes, but the second column of each
// four behind the third: the same for weights and activations, and the order of columns within a block does not change a
// product. What f16 cannot hold becomes infinite, and a product with it is seen to be no number.

enable f16;

// Bytes become f16 without conversion: 0x6400 with a byte in its low bits is 1024 + byte. Less 9 * 128 and by 1 / 128 that is
// the code / 128, exactly, so that what multiplies it is the largest of the block and not below what f16 has.
fn quad(codes: u32, scale: f32, bias: f32) -> vec4<f16> {
    let even = vec2<f16>(unpack2x16float((codes & 0x00ff00ffu) ^ 0x64806480u));
    let odd = vec2<f16>(unpack2x16float(((codes >> 8u) & 0x00ff00ffu) ^ 0x64806480u));
    let code = fma(vec4<f16>(even, odd), vec4<f16>(0.0078125h), vec4<f16>(-9.0h));
    return fma(code, vec4<f16>(f16(128.0 * scale)), vec4<f16>(f16(bias)));
}

fn halves(codes: array<vec4<u32>, 2>, scale: f32, bias: f32) -> array<vec4<f16>, 8> {
    return array<vec4<f16>, 8>(
        quad(codes[0].x, scale, bias), quad(codes[0].y, scale, bias),
        quad(codes[0].z, scale, bias), quad(codes[0].w, scale, bias),
        quad(codes[1].x, scale, bias), quad(codes[1].y, scale, bias),
        quad(codes[1].z, scale, bias), quad(codes[1].w, scale, bias),
    );
}
