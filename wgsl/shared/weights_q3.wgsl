// 32 3-bit codes of a row: 3 words as one stream of bits, lowest first; some codes lie across two words.
const words_per_block: u32 = 3u;

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    let w0 = weights[at];
    let w1 = weights[at + 1u];
    let w2 = weights[at + 2u];
    return array<vec4<f32>, 8>(
        vec4<f32>(vec4<u32>(w0 & 7u, (w0 >> 3u) & 7u, (w0 >> 6u) & 7u, (w0 >> 9u) & 7u)),
        vec4<f32>(vec4<u32>((w0 >> 12u) & 7u, (w0 >> 15u) & 7u, (w0 >> 18u) & 7u, (w0 >> 21u) & 7u)),
        vec4<f32>(vec4<u32>((w0 >> 24u) & 7u, (w0 >> 27u) & 7u, (w0 >> 30u) | ((w1 & 1u) << 2u), (w1 >> 1u) & 7u)),
        vec4<f32>(vec4<u32>((w1 >> 4u) & 7u, (w1 >> 7u) & 7u, (w1 >> 10u) & 7u, (w1 >> 13u) & 7u)),
        vec4<f32>(vec4<u32>((w1 >> 16u) & 7u, (w1 >> 19u) & 7u, (w1 >> 22u) & 7u, (w1 >> 25u) & 7u)),
        vec4<f32>(vec4<u32>((w1 >> 28u) & 7u, (w1 >> 31u) | ((w2 & 3u) << 1u), (w2 >> 2u) & 7u, (w2 >> 5u) & 7u)),
        vec4<f32>(vec4<u32>((w2 >> 8u) & 7u, (w2 >> 11u) & 7u, (w2 >> 14u) & 7u, (w2 >> 17u) & 7u)),
        vec4<f32>(vec4<u32>((w2 >> 20u) & 7u, (w2 >> 23u) & 7u, (w2 >> 26u) & 7u, (w2 >> 29u) & 7u)),
    );
}
