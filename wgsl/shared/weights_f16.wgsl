// 32 weights of a row as f16: 16 words, two weights each, the lower half first.
const words_per_block: u32 = 16u;

fn four(at: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(weights[at]), unpack2x16float(weights[at + 1u]));
}

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(four(at), four(at + 2u), four(at + 4u), four(at + 6u), four(at + 8u), four(at + 10u), four(at + 12u), four(at + 14u));
}
