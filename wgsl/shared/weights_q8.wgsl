// 32 8-bit codes of a row: 8 words, lowest byte first.
const words_per_block: u32 = 8u;

fn four(at: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(weights[at]));
}

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(four(at), four(at + 1u), four(at + 2u), four(at + 3u), four(at + 4u), four(at + 5u), four(at + 6u), four(at + 7u));
}
