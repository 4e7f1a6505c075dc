// 32 2-bit codes of a row: 2 words, lowest bits first.
const words_per_block: u32 = 2u;

fn four(word: u32, shift: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> (vec4<u32>(0u, 2u, 4u, 6u) + shift)) & vec4<u32>(3u));
}

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    let a = weights[at];
    let b = weights[at + 1u];
    return array<vec4<f32>, 8>(four(a, 0u), four(a, 8u), four(a, 16u), four(a, 24u), four(b, 0u), four(b, 8u), four(b, 16u), four(b, 24u));
}
