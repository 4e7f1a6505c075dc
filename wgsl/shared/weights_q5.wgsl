// 32 5-bit codes of a row: 5 words as one stream of bits, lowest first; some codes lie across two words.
const words_per_block: u32 = 5u;

fn unpack(at: u32) -> array<vec4<f32>, 8> {
    let w0 = weights[at];
    let w1 = weights[at + 1u];
    let w2 = weights[at + 2u];
    let w3 = weights[at + 3u];
    let w4 = weights[at + 4u];
    return array<vec4<f32>, 8>(
        vec4<f32>(vec4<u32>(w0 & 31u, (w0 >> 5u) & 31u, (w0 >> 10u) & 31u, (w0 >> 15u) & 31u)),
        vec4<f32>(vec4<u32>((w0 >> 20u) & 31u, (w0 >> 25u) & 31u, (w0 >> 30u) | ((w1 & 7u) << 2u), (w1 >> 3u) & 31u)),
        vec4<f32>(vec4<u32>((w1 >> 8u) & 31u, (w1 >> 13u) & 31u, (w1 >> 18u) & 31u, (w1 >> 23u) & 31u)),
        vec4<f32>(vec4<u32>((w1 >> 28u) | ((w2 & 1u) << 4u), (w2 >> 1u) & 31u, (w2 >> 6u) & 31u, (w2 >> 11u) & 31u)),
        vec4<f32>(vec4<u32>((w2 >> 16u) & 31u, (w2 >> 21u) & 31u, (w2 >> 26u) & 31u, (w2 >> 31u) | ((w3 & 15u) << 1u))),
        vec4<f32>(vec4<u32>((w3 >> 4u) & 31u, (w3 >> 9u) & 31u, (w3 >> 14u) & 31u, (w3 >> 19u) & 31u)),
        vec4<f32>(vec4<u32>((w3 >> 24u) & 31u, (w3 >> 29u) | ((w4 & 3u) << 3u), (w4 >> 2u) & 31u, (w4 >> 7u) & 31u)),
        vec4<f32>(vec4<u32>((w4 >> 12u) & 31u, (w4 >> 17u) & 31u, (w4 >> 22u) & 31u, (w4 >> 27u) & 31u)),
    );
}
