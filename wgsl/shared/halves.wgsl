// Blocks of 32 columns in f16, for matrix units, as 8 quads in the order of the packed codes: the same for weights and
// activations, and the order of columns within a block does not change a product. What f16 cannot hold becomes infinite,
// and a product with it is seen to be no number.

enable f16;

fn quad(codes: u32, scale: f32, bias: f32) -> vec4<f16> {
    return vec4<f16>(fma(vec4<f32>(unpack4xI8(codes)), vec4<f32>(scale), vec4<f32>(bias)));
}

fn halves(codes: array<vec4<u32>, 2>, scale: f32, bias: f32) -> array<vec4<f16>, 8> {
    return array<vec4<f16>, 8>(
        quad(codes[0].x, scale, bias), quad(codes[0].y, scale, bias),
        quad(codes[0].z, scale, bias), quad(codes[0].w, scale, bias),
        quad(codes[1].x, scale, bias), quad(codes[1].y, scale, bias),
        quad(codes[1].z, scale, bias), quad(codes[1].w, scale, bias),
    );
}
