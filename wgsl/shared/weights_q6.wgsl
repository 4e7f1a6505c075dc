// 32 6-bit codes of a row: 6 words as one stream of bits, lowest first; some codes lie across two words.
const words_per_block: u32 = 6u;

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    let w0 = weights[at];
    let w1 = weights[at + 1u];
    let w2 = weights[at + 2u];
    let w3 = weights[at + 3u];
    let w4 = weights[at + 4u];
    let w5 = weights[at + 5u];
    return array<vec4<f32>, 8>(
        vec4<f32>(vec4<u32>(w0 & 63u, (w0 >> 6u) & 63u, (w0 >> 12u) & 63u, (w0 >> 18u) & 63u)),
        vec4<f32>(vec4<u32>((w0 >> 24u) & 63u, (w0 >> 30u) | ((w1 & 15u) << 2u), (w1 >> 4u) & 63u, (w1 >> 10u) & 63u)),
        vec4<f32>(vec4<u32>((w1 >> 16u) & 63u, (w1 >> 22u) & 63u, (w1 >> 28u) | ((w2 & 3u) << 4u), (w2 >> 2u) & 63u)),
        vec4<f32>(vec4<u32>((w2 >> 8u) & 63u, (w2 >> 14u) & 63u, (w2 >> 20u) & 63u, (w2 >> 26u) & 63u)),
        vec4<f32>(vec4<u32>(w3 & 63u, (w3 >> 6u) & 63u, (w3 >> 12u) & 63u, (w3 >> 18u) & 63u)),
        vec4<f32>(vec4<u32>((w3 >> 24u) & 63u, (w3 >> 30u) | ((w4 & 15u) << 2u), (w4 >> 4u) & 63u, (w4 >> 10u) & 63u)),
        vec4<f32>(vec4<u32>((w4 >> 16u) & 63u, (w4 >> 22u) & 63u, (w4 >> 28u) | ((w5 & 3u) << 4u), (w5 >> 2u) & 63u)),
        vec4<f32>(vec4<u32>((w5 >> 8u) & 63u, (w5 >> 14u) & 63u, (w5 >> 20u) & 63u, (w5 >> 26u) & 63u)),
    );
}
